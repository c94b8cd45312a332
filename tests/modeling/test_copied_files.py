"""`modeling/` is exactly what saving copies beside the weights, and each kind of model takes few files along."""

from pathlib import Path

import pytest
import torch

from vlm2rec_hf import SeqRecConfig, SequentialRecommender, modeling
from vlm2rec_hf.hub_cards.code_files import OWN_CODE, code_files
from vlm2rec_hf.modeling import MODELS

from .dmesr_models import make as make_dmesr


@pytest.fixture(scope="module")
def copied(tiny, tiny_pix, tmp_path_factory):
    """Kind -> folder as `save_pretrained` leaves it."""
    place = tmp_path_factory.mktemp("copied")
    folders = {name: place / name for name in ("embedder", "pixrec", "head", "dmesr")}
    for name, (model, processor) in (("embedder", tiny()), ("pixrec", tiny_pix())):
        model.save_pretrained(folders[name])
        processor.save_pretrained(folders[name])
    head = SequentialRecommender(SeqRecConfig(n_items=3, hidden_size=8, max_length=5))
    head.set_catalogue(["a", "b", "c"], torch.tensor([3, 2, 1]))
    head.save_pretrained(folders["head"])
    make_dmesr().save_pretrained(folders["dmesr"])
    assert len(folders) == len(MODELS)
    return folders


def code(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


def test_together_they_are_the_room_of_models(copied):
    room = code(Path(modeling.__file__).parent)
    del room["__init__.py"]
    assert {name: text for folder in copied.values() for name, text in code(folder).items()} == room
    assert set(room) == OWN_CODE


@pytest.mark.parametrize(("kind", "files", "lines"), [("embedder", 13, 2900), ("head", 5, 950)])
def test_a_repo_carries_little_code(copied, kind, files, lines):
    texts = code(copied[kind])
    assert 0 < len(texts) <= files
    assert sum(len(text.splitlines()) for text in texts.values()) <= lines


def test_what_is_copied_is_what_the_repo_names_and_imports(copied):
    for folder in copied.values():
        assert code_files(folder) == (set(code(folder)), set())
