"""`modeling/` is exactly what saving copies beside the weights, and each kind of model takes few files along."""

from pathlib import Path

import pytest
import torch

from vlm2rec_hf import SeqRecConfig, SequentialRecommender, modeling
from vlm2rec_hf.hub_cards.code_files import OWN_CODE, code_files
from vlm2rec_hf.modeling import MODELS
from vlm2rec_hf.modeling.families_vlm2rec import families

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


def family_files():
    """Names of the files that a new backbone family adds one to."""
    return {f"{family.__module__.rsplit('.', 1)[-1]}.py" for family in families()}


def lines(texts):
    return sum(len(text.splitlines()) for text in texts)


@pytest.mark.parametrize(("kind", "most_files", "most_lines"), [("embedder", 10, 2445), ("head", 5, 950)])
def test_a_repo_carries_little_code_besides_its_families(copied, kind, most_files, most_lines):
    """What every repo carries, however many backbones there are."""
    texts = {name: text for name, text in code(copied[kind]).items() if name not in family_files()}
    assert 0 < len(texts) <= most_files
    assert lines(texts.values()) <= most_lines


def test_a_family_costs_an_embedder_one_file_and_a_head_none(copied):
    """An embedder carries every family: it asks the list of all, and its files are the same whatever its backbone."""
    texts = code(copied["embedder"])
    assert len(family_files()) == len(families()) and family_files() <= set(texts)
    assert family_files() | {"family_vlm2rec.py"} == {name for name in texts if name.startswith("family_")}
    assert all(lines([texts[name]]) <= 190 for name in family_files())
    assert sum(lines([texts[name]]) for name in family_files()) <= 155 * len(families())
    assert not family_files() & set(code(copied["head"]))


def test_what_is_copied_is_what_the_repo_names_and_imports(copied):
    for folder in copied.values():
        assert code_files(folder) == (set(code(folder)), set())
