"""README.md is written whole, and a card that a person wrote or edited is never replaced without being asked."""

import importlib.resources

import pytest

from vlm2rec_hf.hub_cards import EmbedderFacts, SpaceFacts, render_embedder_card, render_space_card, write_card
from vlm2rec_hf.hub_cards.card import is_ours

FIRST = render_space_card(SpaceFacts("org/x", "first", "d"))
SECOND = render_space_card(SpaceFacts("org/x", "second", "d"))


def test_written_whole_and_known_again(tmp_path):
    path = write_card(FIRST, tmp_path)
    assert path == tmp_path / "README.md" and path.read_text(encoding="utf-8") == FIRST
    assert is_ours(FIRST) and [p.name for p in tmp_path.iterdir()] == ["README.md"]
    write_card(SECOND, tmp_path)
    assert "# second" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "edit",
    [
        lambda text: text.replace("# first", "# First!"),
        lambda text: text.replace("license: unknown", "license: mit"),
        lambda text: text + "\nA sentence below.\n",
        lambda text: "A card of one's own.\n",
        lambda text: text.replace("sha256:", "sha256:0"),
    ],
)
def test_an_edited_card_is_kept_until_asked(tmp_path, edit):
    path = write_card(FIRST, tmp_path)
    path.write_text(edit(FIRST), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != FIRST
    with pytest.raises(ValueError, match="`folder` .* written or edited by somebody.*`overwrite=True`"):
        write_card(SECOND, tmp_path)
    assert path.read_text(encoding="utf-8") == edit(FIRST)
    write_card(SECOND, tmp_path, overwrite=True)
    assert path.read_text(encoding="utf-8") == SECOND


def test_line_ends_that_git_changed_are_no_edit(tmp_path):
    (tmp_path / "README.md").write_bytes(FIRST.replace("\n", "\r\n").encode())
    write_card(SECOND, tmp_path)
    assert (tmp_path / "README.md").read_bytes() == SECOND.encode()


def test_a_form_that_nobody_filled_in_may_go(tmp_path):
    from huggingface_hub import ModelCard, ModelCardData

    form = str(ModelCard.from_template(ModelCardData(library_name="peft", tags=["lora"])))
    path = tmp_path / "README.md"
    path.write_text(form + "\n### Framework versions\n\n- PEFT 0.21.2", encoding="utf-8")
    write_card(FIRST, tmp_path)
    path.write_text(form.replace("[More Information Needed]", "Mine.", 1), encoding="utf-8")
    with pytest.raises(ValueError, match="written or edited"):
        write_card(FIRST, tmp_path)


def test_a_failed_write_leaves_the_old_card(tmp_path, monkeypatch):
    path = write_card(FIRST, tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("disk")))
        with pytest.raises(OSError, match="disk"):
            write_card(SECOND, tmp_path)
    assert path.read_text(encoding="utf-8") == FIRST and [p.name for p in tmp_path.iterdir()] == ["README.md"]


def test_what_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="`folder` must exist"):
        write_card(FIRST, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="looks like an access token in line 3"):
        write_card("---\n---\nhf_" + "aB3" * 11, tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_templates_are_files_of_the_package():
    folder = importlib.resources.files("vlm2rec_hf.hub_cards") / "templates"
    assert {"embedder.md", "head.md", "dataset.md", "space.md"} <= {entry.name for entry in folder.iterdir()}


def test_facts_in_card_out_again_the_same():
    facts = EmbedderFacts("org/x", config={"fusion": "internal"})
    assert render_embedder_card(facts) == render_embedder_card(facts)
    assert "are the views of one modality" not in render_embedder_card(facts)  # internal fusion has none
