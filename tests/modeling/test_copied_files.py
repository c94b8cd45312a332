"""`modeling/` is exactly what saving copies beside the weights, and each kind of model takes few files along."""

from pathlib import Path

import pytest
import torch

from vlm2rec_hf import SeqRecConfig, SequentialRecommender, modeling
from vlm2rec_hf.hub_cards.code_files import OWN_CODE, code_files
from vlm2rec_hf.modeling import MODELS
from vlm2rec_hf.modeling.families_vlm2rec import families

from ..conftest import FAMILIES
from .dmesr_models import make as make_dmesr

LISTING = "families_vlm2rec.py"
ROOM = Path(modeling.__file__).parent
FAMILY_OF = {
    name: next(family for family in families() if {name, f"vlm2rec_{name}"} & set(family.model_types))
    for name in FAMILIES
}
ONE_EACH = {family: name for name, family in FAMILY_OF.items()}


@pytest.fixture(scope="module")
def copied(tiny, tiny_pix, tmp_path_factory):
    """Kind, or kind and backbone -> folder as `save_pretrained` leaves it."""
    place = tmp_path_factory.mktemp("copied")
    pairs = {name: tiny(name) for name in ONE_EACH.values()} | {"pixrec": tiny_pix("smolvlm")}
    for name, (model, processor) in pairs.items():
        model.save_pretrained(place / name)
        processor.save_pretrained(place / name)
    head = SequentialRecommender(SeqRecConfig(n_items=3, hidden_size=8, max_length=5))
    head.set_catalogue(["a", "b", "c"], torch.tensor([3, 2, 1]))
    head.save_pretrained(place / "head")
    make_dmesr().save_pretrained(place / "dmesr")
    folders = {folder.name: folder for folder in place.iterdir()}
    assert len(folders) == len(MODELS) - 1 + len(families())
    return folders


def code(folder):
    return {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}


def test_together_they_are_the_room_of_models(copied):
    room = code(ROOM)
    del room["__init__.py"]
    assert set().union(*(code(folder) for folder in copied.values())) == set(room) == OWN_CODE
    for folder in copied.values():
        assert all(text == room[name] for name, text in code(folder).items() if name != LISTING)
    listings = [code(folder)[LISTING].splitlines() for folder in copied.values() if (folder / LISTING).is_file()]
    assert {line for lines in listings for line in lines} == set(room[LISTING].splitlines())


@pytest.mark.parametrize("name", [*ONE_EACH.values(), "pixrec"])
def test_a_repo_carries_the_family_of_its_own_backbone_alone(copied, name):
    own = FAMILY_OF["smolvlm" if name == "pixrec" else name]
    lines = [f"from .{family.__module__.rpartition('.')[2]} import {family.__name__}" for family in families()]
    theirs = code(copied[name])
    assert [line for line in lines if line in theirs[LISTING]] == [line for line in lines if own.__name__ in line]
    without = [line for line in (ROOM / LISTING).read_text(encoding="utf-8").splitlines() if line not in lines]
    assert [line for line in theirs[LISTING].splitlines() if line not in lines] == without


def test_a_folder_of_an_earlier_version_keeps_only_its_own(copied, tiny, tmp_path):
    """Every family's file lay there, and each was named; the files of others stay."""
    model, processor = tiny("smolvlm")
    for name, text in code(ROOM).items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "family_mine.py").write_text("from .items_vlm2rec import as_item\n")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    left = set(code(tmp_path))
    assert {"family_mine.py", "family_idefics3.py"} <= left and "family_qwen_vl.py" not in left
    assert code_files(tmp_path) == (set(code(copied[ONE_EACH[FAMILY_OF["smolvlm"]]])), set())


@pytest.mark.parametrize("part", [0, 1], ids=["model", "processor"])
def test_what_the_library_uploads_while_it_saves_is_no_more(tiny, hub, part, tmp_path):
    tiny()[part].save_pretrained(str(tmp_path / "embedder"), push_to_hub=True, repo_id="org/embedder")
    names = {name for name in hub.files("org/embedder", "main") if name.startswith("family_")}
    assert names == {"family_vlm2rec.py", "family_qwen_vl.py"}


BOUNDS = {
    **dict.fromkeys(ONE_EACH.values(), (13, 2900)),
    "gemma3": (13, 2950),  # builds on PaliGemma's family and carries both
    "parts": (14, 3250),  # carries a model that the library does not have
    "head": (5, 950),
}
"""Kind -> files and lines at most."""


@pytest.mark.parametrize(("kind", "files", "lines"), [(kind, *most) for kind, most in BOUNDS.items()])
def test_a_repo_carries_little_code(copied, kind, files, lines):
    texts = code(copied[kind])
    assert 0 < len(texts) <= files
    assert sum(len(text.splitlines()) for text in texts.values()) <= lines


def test_what_is_copied_is_what_the_repo_names_and_imports(copied):
    for folder in copied.values():
        assert code_files(folder) == (set(code(folder)), set())
