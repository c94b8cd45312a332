"""Cards of heads, datasets and Spaces: facts as they are, metadata that the client reads back."""

import pytest
from huggingface_hub import DatasetCard, ModelCard, SpaceCard

from vlm2rec_hf.hub_cards import (
    DatasetFacts,
    HeadFacts,
    SpaceFacts,
    render_dataset_card,
    render_head_card,
    render_space_card,
)
from vlm2rec_hf.hub_cards.metadata import size_category

from .card_builders import config_folder, report, rows, section, training

HEAD = {
    "model_type": "seqrec", "encoder": "sasrec", "item_representation": "content+id", "hidden_size": 64,
    "embedder": "org/embedder",
    "embedder_revision": "d" * 40,
}  # fmt: skip


def test_a_heads_card(tmp_path, hub):
    facts = training(base_model=None, base_model_revision=None, base_model_license=None, method="SASRec")
    folder = config_folder(tmp_path / "head", HEAD, facts, report())
    text = render_head_card(HeadFacts.from_folder(folder, "org/head", "v1.0", license="mit"))
    card = ModelCard(text)
    card.validate()
    assert (card.data.base_model, card.data.license, card.data.pipeline_tag) == ("org/embedder", "mit", None)
    assert {"sasrec", "sequential-recommendation"} <= set(card.data.tags) and card.data.datasets == ["org/shop"]
    assert {r.metric_args["view"] for r in card.data.eval_results} == {"text", "image", "both"}
    assert "item vectors of [org/embedder](https://huggingface.co/org/embedder) at `" + "d" * 40 in text
    assert "their vectors from the embedder plus a learned vector per item id" in text
    assert "1808.09781" in section(text, "Citation") and "2603.17450" not in text
    assert dict(rows(section(text, "Licences")))["embedder org/embedder"] == "unknown: check before use"


def test_a_head_that_says_little_gets_a_card_all_the_same(tmp_path):
    text = render_head_card(HeadFacts.from_folder(config_folder(tmp_path / "head", {"model_type": "seqrec"})))
    assert "**Nothing was measured:**" in text and ModelCard(text).data.base_model is None
    assert ModelCard(text).data.license == "unknown" and text.startswith("---\nlibrary_name: transformers\n")
    with pytest.raises(ValueError, match="holds no config.json"):
        HeadFacts.from_folder(tmp_path)


def test_a_datasets_card(demo_dataset, hub):
    facts = DatasetFacts.from_dataset(demo_dataset, "org/shop", "v1.0", "cc-by-4.0")
    text = render_dataset_card(facts)
    card = DatasetCard(text)
    card.validate()
    data = card.data
    assert (data.license, data.pretty_name, data.size_categories) == ("cc-by-4.0", demo_dataset.name, ["1K<n<10K"])
    assert data.task_categories == ["other"] and "recommendation" in data.tags
    configs = {config["config_name"]: config["data_files"] for config in data.configs}
    assert configs["items"] == [{"split": "train", "path": "items/train-*.parquet"}]
    assert [part["split"] for part in configs["interactions"]] == ["train", "validation", "test"]
    counts = dict(rows(section(text, "Statistics")))
    assert counts["interactions"] == f"{demo_dataset.n_interactions:,}"
    assert counts["items with image"] == f"{int(demo_dataset.item_has_image.sum()):,}"
    assert f"`{demo_dataset.fingerprint}`" in text and "Kind: `leave_one_out`" in section(text, "Split")
    assert "`image` (Image)" in dict(rows(section(text, "Configs")))["items"]
    assert section(text, "Rows taken out").strip() == "None: every row that came in is in it."
    assert len([s for s in section(text, "What was done to the data").splitlines() if s]) == len(demo_dataset.steps)


def test_quarantine_and_unknown_licence_of_a_dataset():
    from vlm2rec_hf import RecDataset

    events = [
        {"user_id": u, "item_id": i, "timestamp": t} for u, i, t in (("a", "x", 1), ("a", "y", 2), (None, "x", 3))
    ]
    dataset = RecDataset.from_tables(events)
    text = render_dataset_card(DatasetFacts.from_dataset(dataset, "org/tiny"))
    assert dict(rows(section(text, "Rows taken out")))
    assert sum(int(n) for _, n in rows(section(text, "Rows taken out"))[2:]) == 1
    assert "unknown: check before use" in section(text, "Licence") and "Not split." in section(text, "Split")
    assert DatasetCard(text).data.license == "unknown"


def test_a_datasets_configs_can_be_given(demo_dataset):
    facts = DatasetFacts.from_dataset(demo_dataset, "org/shop")
    given = {"interactions": "log/*.parquet", "items": ["a.parquet", "b.parquet"]}
    data = DatasetCard(render_dataset_card(facts, given)).data
    assert {config["config_name"]: config["data_files"] for config in data.configs} == given
    listed = [{"config_name": "interactions", "data_files": "x.parquet", "default": True}]
    assert DatasetCard(render_dataset_card(facts, listed)).data.configs == listed
    with pytest.raises(ValueError, match="`configs` must hold a config named 'interactions', got \\['items'\\]"):
        render_dataset_card(facts, {"items": "x"})


@pytest.mark.parametrize(
    ("n", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**9 - 1, "100M<n<1B"), (10**9, "n>1B")],
)
def test_size_categories(n, category):
    assert size_category(n) == category


def test_a_spaces_card(hub):
    facts = SpaceFacts(
        "org/demo", "A demo", "Recommends from a shop.", sdk_version="6.0.0", models=("org/embedder",),
        datasets=("org/shop",), license="apache-2.0", short_description="Images in, recommendations out",
    )  # fmt: skip
    text = render_space_card(facts)
    card = SpaceCard(text)
    card.validate()
    assert (card.data.title, card.data.sdk, card.data.app_file) == ("A demo", "gradio", "app.py")
    assert (card.data.models, card.data.datasets) == (["org/embedder"], ["org/shop"])
    assert card.data.colorFrom == "blue" and card.data.short_description == facts.short_description
    assert "- model [org/embedder](https://huggingface.co/org/embedder)" in text
    assert "- dataset [org/shop](https://huggingface.co/datasets/org/shop)" in text and "# A demo" in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sdk": "flask"}, "`sdk` must be one of .* got 'flask'"),
        ({"color_to": "mauve"}, "`color_to` must be one of"),
        ({"title": " "}, "`title` must not be blank"),
        ({"short_description": "x" * 61}, "`short_description` must have at most 60 characters, got 61"),
    ],
)
def test_what_the_hub_refuses_is_refused_before(change, message):
    with pytest.raises(ValueError, match=message):
        SpaceFacts(**({"repo_id": "org/demo", "title": "t", "description": "d"} | change))
