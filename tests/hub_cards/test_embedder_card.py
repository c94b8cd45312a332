"""The embedder's card says what the folder holds, nothing else, in metadata that the client reads back."""

import dataclasses
import json

import pytest
from huggingface_hub import ModelCard

from vlm2rec_hf.hub_cards import EmbedderFacts, render_embedder_card

from .card_builders import (
    BASE_COMMIT,
    DATA_COMMIT,
    DATA_PRINT,
    METHOD,
    config_folder,
    report,
    rows,
    section,
    training,
    write_json,
)


def card_of(folder, *args, **kwargs):
    return render_embedder_card(EmbedderFacts.from_folder(folder, *args, **kwargs))


@pytest.fixture
def folder(tmp_path):
    return config_folder(tmp_path / "embedder", facts=training(), evaluation=report())


def test_metadata_read_back_by_the_client(folder, hub):
    text = card_of(folder, "org/embedder", "v1.0")
    card = ModelCard(text)
    card.validate()
    data = card.data
    assert (data.library_name, data.pipeline_tag) == ("transformers", "feature-extraction")
    assert (data.base_model, data.base_model_relation) == ("org/tiny-base", "finetune")
    assert data.license == "apache-2.0" and data.datasets == ["org/shop"]
    assert {"vlm2rec", "recommendation", "multimodal"} <= set(data.tags) and "sentence-transformers" not in data.tags
    assert ModelCard(str(card)).data.to_dict() == data.to_dict()


def test_one_result_per_view_and_metric_and_none_of_the_floors(folder):
    made = report()
    card = ModelCard(card_of(folder, "org/embedder"))
    assert card.data.model_name == "embedder"
    found = {(r.metric_args["view"], r.metric_type): r for r in card.data.eval_results}
    expected = {(v, m): s["mean"] for v, metrics in made.metrics[METHOD].items() for m, s in metrics.items()}
    assert set(found) == set(expected) and len(card.data.eval_results) == len(expected)
    for key, value in expected.items():
        assert found[key].metric_value == pytest.approx(value, abs=1e-6)
    one = found["image", "ndcg@10"]
    assert (one.dataset_type, one.dataset_name, one.dataset_split) == ("org/shop", "shop", "test")
    assert one.dataset_revision == DATA_COMMIT and one.metric_name == "NDCG@10 (image)"
    assert one.dataset_args == {"fingerprint": DATA_PRINT, "protocol": made.protocol.fingerprint}
    assert (one.task_type, one.dataset_config) == ("recommendation", "interactions")


def test_the_table_holds_views_with_intervals_beside_floors(folder):
    made = report()
    table = rows(section(card_of(folder), "Results"))
    assert table[0] == ["view", "Hit@10", "NDCG@10", "Hit@20", "NDCG@20"]
    by_name = {row[0]: row[1:] for row in table[2:7]}
    assert list(by_name) == ["**text**", "**image**", "**both**", "popularity (floor)", "transitions (floor)"]
    summary = made.metrics[METHOD]["image"]["hit@20"]
    assert by_name["**image**"][2] == f"{summary['mean']:.4f} [{summary['low']:.4f}, {summary['high']:.4f}]"
    assert by_name["popularity (floor)"][1].startswith(f"{made.floors['popularity']['ndcg@10']['mean']:.4f} [")


@pytest.mark.parametrize(
    ("floor", "words"), [(59, "interval lies above the floor"), (1.0001, "is worse than this floor"), (9, "not shown")]
)
def test_the_verdict_follows_the_interval(tmp_path, floor, words):
    text = card_of(config_folder(tmp_path / "m", facts=training(), evaluation=report(floor=floor)))
    told = [w for w in ("interval lies above the floor", "is worse than this floor", "not shown") if w in text]
    assert told == [words]


def test_training_protocol_and_configuration_are_told(folder):
    text = card_of(folder)
    told = section(text, "Training")
    assert "started from: [org/tiny-base](https://huggingface.co/org/tiny-base) at `" + BASE_COMMIT in told
    assert f"revision `{DATA_COMMIT}`, fingerprint `{DATA_PRINT}`" in told
    assert "objective: `wpcl+crtr`" in told and "optimiser steps: 1,234" in told and "wall time: 62 s" in told
    configuration = json.loads(told.split("```json\n")[1].split("```")[0])
    assert configuration["loss"] == training()["loss"] and configuration["versions"] == {"torch": "2.13.0"}
    assert configuration["arguments"] == {"learning_rate": 3e-4}  # neither folders nor secrets
    assert f"fingerprint of the protocol: `{report().protocol.fingerprint}`" in section(text, "Protocol")
    assert "secret-value-1" not in text and "somebody" not in text


def test_licences_are_named_or_unknown(folder, tmp_path):
    table = dict(rows(section(card_of(folder), "Licences")))
    assert table["weights in this repo"] == "apache-2.0" and table["training data org/shop"] == "cc-by-4.0"
    bare = config_folder(tmp_path / "bare", facts=training(base_model_license=None, dataset={"license": None}))
    text = card_of(bare)
    table = dict(rows(section(text, "Licences")))
    unknown = "unknown: check before use"
    assert [table[row] for row in ("weights in this repo", "base model org/tiny-base", "training data org/shop")] == [
        unknown
    ] * 3
    assert ModelCard(text).data.license == "unknown"
    other = ModelCard(card_of(bare, license="Qwen Research License!")).data
    assert (other.license, other.license_name) == ("other", "qwen-research-license")


def test_without_a_report_nothing_is_claimed(tmp_path):
    text = card_of(config_folder(tmp_path / "new", facts=training()), "org/new")
    assert "**Nothing was measured:**" in text and "## Results" not in text
    assert ModelCard(text).data.get("eval_results") is None and "model-index" not in text
    assert "Nothing was measured, neither accuracy nor" in section(text, "Limits")


def test_without_training_facts_nothing_is_made_up(tmp_path):
    text = card_of(config_folder(tmp_path / "found", evaluation=report()))
    assert "was not recorded" in section(text, "Training") and ModelCard(text).data.base_model is None
    result = ModelCard(text).data.eval_results[0]
    assert (result.dataset_type, result.dataset_revision) == ("unknown", None)
    assert result.dataset_args["fingerprint"] == DATA_PRINT


def test_other_data_than_trained_on_is_said_and_not_credited_to_the_training_data(tmp_path):
    text = card_of(config_folder(tmp_path / "m", facts=training(), evaluation=report(fingerprint="f" * 32)))
    assert "**Evaluated on other data than it was trained on:**" in text
    assert {r.dataset_type for r in ModelCard(text).data.eval_results} == {"unknown"}
    assert ModelCard(text).data.datasets == ["org/shop"]
    same = card_of(config_folder(tmp_path / "n", facts=training(), evaluation=report()))
    assert "Evaluated on other data" not in same


def test_figures_are_shown_as_files_of_the_repo(folder):
    assert "![" not in card_of(folder)
    for name in ("views.png", "modality.png", "a b(1).png"):
        (folder / "evaluation" / name).write_bytes(b"png")
    text = card_of(folder)
    assert "![Metrics by view, beside the floors](evaluation/views.png)" in text
    assert "(evaluation/a%20b%281%29.png)" in text


def test_which_method_of_several(tmp_path):
    folder = config_folder(tmp_path / "m", facts=training(), evaluation=report(("sft", METHOD)))
    assert EmbedderFacts.from_folder(folder).evaluation.report_name == METHOD  # the training's objective
    assert EmbedderFacts.from_folder(folder, report_name="sft").evaluation.report_name == "sft"
    folder = config_folder(tmp_path / "n", evaluation=report(("sft", METHOD)))
    with pytest.raises(ValueError, match="`report_name` must be the model's name in the report, one of .* got None"):
        EmbedderFacts.from_folder(folder)


def test_an_adapter_names_its_base_and_library(tmp_path):
    folder = tmp_path / "adapter"
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "org/tiny-base", "r": 4, "revision": None}
    write_json(folder / "adapter_config.json", adapter)
    write_json(folder / "training.json", training(peft={"r": 4}))
    text = card_of(folder, "org/adapter")
    data = ModelCard(text).data
    assert (data.library_name, data.base_model, data.base_model_relation) == ("peft", "org/tiny-base", "adapter")
    assert {"peft", "lora"} <= set(data.tags)
    assert "One call loads the base model and the adapter." in text and "trained weights: adapter only" in text
    # Published, the adapter's own file names its own repo, and config.json the base.
    write_json(folder / "adapter_config.json", adapter | {"base_model_name_or_path": "org/adapter"})
    write_json(folder / "config.json", {"base_model": "org/other", "base_model_revision": "c" * 40})
    facts = EmbedderFacts.from_folder(folder, "org/adapter")
    assert facts.base == ("org/other", "c" * 40, None)  # the recorded licence is that of another base
    assert ModelCard(render_embedder_card(facts)).data.base_model == "org/other"


def test_a_local_base_of_a_relative_path_is_not_taken_for_a_repo_of_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs/base").mkdir(parents=True)
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "runs/base"}
    write_json(tmp_path / "adapter/adapter_config.json", adapter)
    text = card_of(tmp_path / "adapter")
    assert ModelCard(text).data.base_model is None and "vision-language model `base` into" in text


def test_a_local_base_is_no_link_and_no_path(tmp_path):
    folder = config_folder(tmp_path / "m", facts=training(base_model="/home/somebody/models/base-x"))
    text = card_of(folder)
    assert ModelCard(text).data.base_model is None and "/home" not in text and "`base-x`" in text


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("config.json", None, "neither config.json nor adapter_config.json"),
        ("training.json", "[1, 2]", "training.json with a list"),
        ("training.json", "{", "damaged training.json"),
        ("training.json", '{"loss": 5}', "training.json whose `loss` is 5"),
        ("evaluation/report.json", "{}", "report.json without"),
    ],
)
def test_damaged_folders_are_named(folder, name, content, message):
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        EmbedderFacts.from_folder(folder)


def test_facts_are_plain_data(folder):
    json.dumps(dataclasses.asdict(EmbedderFacts.from_folder(folder)), allow_nan=False)
    with pytest.raises(dataclasses.FrozenInstanceError):
        EmbedderFacts.from_folder(folder).repo_id = "x"


def test_score_options_are_told_where_there_are_any(folder):
    config = json.loads((folder / "config.json").read_text())
    bare = {"popularity_prior": 0.0, "cross_terms": True, "temperature": 0.1}
    for options, told in ((None, False), (bare, False), ({**bare, "popularity_prior": 0.5}, True)):
        write_json(folder / "config.json", {**config, "score_options": options})
        text = card_of(folder)
        assert ("score options" in text) == ('"popularity_prior": 0.5' in text) == told
