"""The comment by which our cards are known; what is done with them is held where cards are written and published."""

import pytest
from huggingface_hub import HfApi

from vlm2rec_hf.hub.card_marks import CARD_FILE, check_readme, is_ours, marked, may_write_card, unmarked
from vlm2rec_hf.hub.commits import read_head

TEXT = "---\nlicense: mit\n---\n# Title\n\nWords.\n"


@pytest.mark.parametrize("text", [TEXT, TEXT.rstrip("\n"), TEXT + "\n\n", "", "ümläut"])
def test_marked_and_unmarked(text):
    card = marked(text)
    assert is_ours(card) and not is_ours(text) and marked(card) == card
    assert unmarked(card) == text.rstrip("\n") + "\n" and unmarked(text) == text
    assert is_ours(card.rstrip("\n"))


def test_a_marker_that_is_not_at_the_end_or_of_another_text_is_none():
    card = marked(TEXT)
    assert not is_ours(card + "More.\n") and not is_ours(card.replace("Words", "Other words"))
    assert marked(card + "More.\n").count("written by vlm2rec_hf") == 2  # somebody's text, marked as it is
    edited = card.replace("Words", "Other words")
    assert marked(edited) == edited and not is_ours(edited)  # an edit is never made ours by marking again


def test_the_card_of_a_new_space_is_nobodys_until_somebody_writes_into_it():
    for sentence in ("Check out the configuration", "Configuration"):
        made = f"---\nsdk: gradio\n---\n\n{sentence} reference at https://huggingface.co/docs/hub/spaces-config-reference\n"
        assert is_ours(made) and not is_ours(made + "\nMy Space.\n")
        assert not is_ours(made.split("---\n")[2])


def test_choices():
    for good in ("write", "replace", "keep"):
        check_readme("card", good)
    with pytest.raises(ValueError, match=r"`card` must be one of \('write', 'replace', 'keep'\), got 'WRITE'"):
        check_readme("card", "WRITE")


def test_the_card_is_fetched_only_where_its_hash_does_not_tell(hub):
    api = HfApi()
    api.create_repo("org/d", repo_type="dataset")
    ask = lambda readme, card=b"": may_write_card(  # noqa: E731
        api, "org/d", "dataset", read_head(api, "org/d", "dataset"), readme, argument="readme", card=card
    )
    assert ask("write") and ask("replace") and not ask("keep")
    api.upload_file(repo_id="org/d", repo_type="dataset", path_or_fileobj=b"By hand.", path_in_repo=CARD_FILE)
    hub.requests.clear()
    assert ask("write", b"By hand.") and ask("replace") and not ask("keep")
    assert not any("/resolve/" in path for _, path, _ in hub.requests)
    with pytest.raises(ValueError, match=r"`readme`: README.md of 'org/d' was written or changed by hand"):
        ask("write", b"Other.")
