"""A Space is published whole, in one commit, for a model and a dataset that load; what it runs is what was checked."""

import os

import pytest

import vlm2rec_hf
from vlm2rec_hf import RecDataset, make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.hub.front_matter import front_matter
from vlm2rec_hf.hub_cards import publish_space
from vlm2rec_hf.hub_cards.publish import publish_model
from vlm2rec_hf.hub_cards.publish_space import app_text, push_space
from vlm2rec_hf.loading import load_with_processor

SPACE, MODEL, DATASET = "org/page", "org/embedder", "org/shop"


@pytest.fixture
def published(hub, tiny, tmp_path):
    """A model and a dataset on the Hub."""
    model, processor = tiny("qwen2_vl", max_history=4)
    model.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    publish_model(tmp_path / "embedder", MODEL, verify=False)
    make_demo_shop(60, n_users=20).dataset().push_to_hub(DATASET, verify=False)
    return hub


def test_one_commit_whose_app_shows_the_model(published, monkeypatch, capsys):
    command = ["push-space", SPACE, "--model", MODEL, "--dataset", DATASET, "--license", "mit"]
    assert main([*command, "--no_verify", "--dry_run"]) == 0
    assert "---- app.py" in capsys.readouterr().out and ("spaces", SPACE) not in published.repos
    said = []
    done = push_space(SPACE, MODEL, DATASET, license="mit", private=True, say=said.append)
    assert done.new and done.checked and len(said) == 2 and str(done).startswith("Published: ")
    files = published.files(SPACE, kind="spaces")
    assert set(files) - {".gitattributes"} == {"app.py", "requirements.txt", "README.md"} == set(done.files)
    assert published.repo(SPACE, "spaces").private
    assert done.oid == published.history(SPACE, "spaces")[0]
    assert files["requirements.txt"].decode() == f"vlm2rec-hf[demo]=={vlm2rec_hf.__version__}\n"
    facts, _ = front_matter(files["README.md"].decode(), "card")
    assert (facts["sdk"], facts["license"], facts["models"], facts["datasets"]) == (
        "gradio",
        "mit",
        [MODEL],
        [DATASET],
    )
    assert facts["app_file"] == "app.py" and facts["sdk_version"][0] == "6"

    shown = []
    monkeypatch.setattr(vlm2rec_hf, "show_page", lambda *given, **options: shown.append((given[0], options)))
    exec(compile(files["app.py"], "app.py", "exec"), {})
    ((recommender, options),) = shown
    assert options == {"title": "page", "host": "0.0.0.0", "port": 7860, "new_items": False}
    assert recommender.side.loaded.version == done.model_commit == published.history(MODEL)[0]
    assert len(recommender.recommend([["p000001"]], k=3)[0].item_ids) == 3

    again = push_space(SPACE, MODEL, DATASET, verify=False)  # the licence stays
    assert not again.new and again.oid == done.oid
    assert main([*command[:6], "--license", "gpl", "--card", "keep", "--no_verify"]) == 0
    assert "`license` 'gpl' changed nothing" in capsys.readouterr().err


def test_what_cannot_be_shown_is_not_published(hub, published, monkeypatch, tmp_path):
    for model, dataset, message in (
        ("org/absent", DATASET, "org/absent"),
        (MODEL, "org/absent", "org/absent"),
        (str(tmp_path), DATASET, "`model`"),
        ("no-owner", DATASET, "`model`"),
        (DATASET, DATASET, "model"),
    ):
        with pytest.raises(ValueError, match=message):
            push_space(SPACE, model, dataset, verify=False)
    with pytest.raises(ValueError, match="owner"):
        push_space("page", MODEL, DATASET)

    def broken(*_):
        raise ValueError("they do not belong together")

    monkeypatch.setattr(publish_space, "_open", broken)
    with pytest.raises(ValueError, match="belong together"):
        push_space(SPACE, MODEL, DATASET)
    assert ("spaces", SPACE) not in hub.repos


def test_private_parts_are_opened_by_the_token_given_and_the_first_item_may_be_blank(hub, tiny, tmp_path, monkeypatch):
    for part in tiny("qwen2_vl", max_history=4):
        part.save_pretrained(tmp_path / "embedder")
    publish_model(tmp_path / "embedder", MODEL, private=True, verify=False)
    clicks = [{"user_id": u, "item_id": i, "timestamp": t} for u in "uv" for t, i in enumerate("abcd")]
    titles = [{"item_id": i, "title": title} for i, title in zip("abcd", (None, "tent", "mug", "lamp"), strict=True)]
    RecDataset.from_tables(clicks, titles).push_to_hub(DATASET, private=True, verify=False)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(ValueError, match="has no such model"):
        push_space(SPACE, MODEL, DATASET)
    done = push_space(SPACE, MODEL, DATASET, token=hub.token)  # the first item has neither text nor image
    assert done.checked and done.model_commit == hub.history(MODEL)[0] and "HF_TOKEN" not in os.environ
    loaded = load_with_processor(MODEL, token=hub.token)
    assert loaded.revision == done.model_commit and loaded.processor.max_history == 4


def test_the_app_is_made_of_literals():
    evil = '"; import os; os.abort() #\n"""'
    made = app_text(evil, "c", "d", "e", evil, True)
    names = {}
    text = made.split("recommender = ")[1].replace("show_page(recommender, ", "shown = dict(")
    exec("recommender = " + text, {"open_recommender": dict}, names)
    assert names["recommender"]["model"] == evil and names["shown"]["title"] == evil
