"""What a study's file may say, and what is refused before anything is done."""

import copy

import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf.studies.budget import steps_within
from vlm2rec_hf.studies.runs import runs_of
from vlm2rec_hf.studies.shared_work import shared_dataset, shared_start
from vlm2rec_hf.studies.study_file import parse_study, read_study
from vlm2rec_hf.studies.work import check_arguments, run_study

from ..modeling.test_from_parts import save_language_model
from .small_studies import CONTENT, small_study


def test_runs_come_by_seed_then_data_then_method(tmp_path):
    more = [*CONTENT["data"], {"source": "demo-shop", "methods": ["sft"], "seeds": [1]}]
    methods = [*CONTENT["methods"], {"name": "zero_shot", "kind": "zero_shot"}]
    study = small_study(tmp_path, data=more, methods=methods)
    assert [run.key for run in runs_of(study)] == [
        "shop/sft/seed-0", "shop/head/seed-0", "shop/zero_shot/seed-0",
        "shop/sft/seed-1", "shop/head/seed-1", "demo-shop/sft/seed-1",
    ]  # fmt: skip
    assert [run.key for run in runs_of(study, ["head"])][:2] == ["shop/sft/seed-0", "shop/head/seed-0"]
    assert runs_of(study)[4].needs() == runs_of(study)[3] and runs_of(study)[0].needs() is None


def test_arguments_go_from_the_study_to_the_data_to_the_method(tmp_path):
    data = [{**CONTENT["data"][0], "training": {"max_steps": 7, "logging_steps": 3}}]
    study = small_study(tmp_path, data=data, methods=[{"name": "m", "objective": "text_only", "logging_steps": 5}])
    (run, _) = runs_of(study)
    assert run.arguments["max_steps"] == 7 and run.arguments["logging_steps"] == 5
    assert run.method.view == "text" and run.arguments["learning_rate"] == 1e-2


def test_a_baseline_is_a_test_of_every_other_method(tmp_path):
    tests = [{"baseline": "sft", "view": "image"}, ["sft + ease", "ease"]]
    study = small_study(tmp_path, tests=tests, evaluation={"mix": "ease"})
    assert [(test.a, test.b, test.view) for test in study.tests] == [
        ("head", "sft", "image"), ("sft + ease", "ease", None),
    ]  # fmt: skip


BAD = {
    "`methods`.*'stf'.*did you mean 'sft'": {"data": [{"source": "x", "methods": ["stf"]}]},
    "`data\\[0\\]`.*'kcore'.*'k_core'": {"data": [{"source": "x", "kcore": 5}]},
    "`data\\[0\\].name`.*shared": {"data": [{"source": "x", "name": "shared"}]},
    "`methods` names 'sft' twice": {"methods": ["sft", "sft"]},
    "`methods\\[0\\].kind`.*'heads'": {"methods": [{"name": "a", "kind": "heads"}]},
    "`methods\\[0\\]`.*no embedder": {"methods": [{"name": "a", "embedder": "start"}]},
    "`embedder` of 'a' must be": {"methods": [{"name": "a", "kind": "head", "embedder": "b"}]},
    "`seeds` must be": {"seeds": 3},
    "`start` must name exactly one": {"start": {"tiny": "qwen2_vl", "model": "x"}},
    "`start.parts` .* goes with `start.language_model`": {"start": {"tiny": "parts", "parts": {"feature_size": 8}}},
    "`start` is missing": {"start": None},
    "`tests`.*'sfd'": {"tests": [["sfd", "sft"]]},
    "`tests` names 'stf'.*did you mean 'sft'": {"tests": [["head", "stf"]]},
    "`tests` names 'popularty'.*'popularity'": {"tests": [{"baseline": "popularty"}]},
    "`tests` names 'imgae' as a `view`.*'image'": {"tests": [{"baseline": "sft", "view": "imgae"}]},
    "`tests` names 'sft \\+ ease'.*a mix needs": {"tests": [["sft + ease", "sft"]]},
    "`tests` names 'sft \\+ eese'": {"tests": [["sft + eese", "sft"]], "evaluation": {"mix": "ease"}},
    "`tests\\[0\\]` must name": {"tests": [{"a": "sft"}]},
    "`data` must be a list": {"data": []},
}


@pytest.mark.parametrize("message", BAD)
def test_mistakes_are_named(tmp_path, message):
    with pytest.raises(ValueError, match=message):
        small_study(tmp_path, **BAD[message])


def test_arguments_are_refused_before_anything_is_done(tmp_path):
    for changes, message in (
        ({"training": {"max_step": 3}}, "'max_step'.*'max_steps'"),
        ({"training": {"seed": 3}}, "'seed'"),
        ({"training": {"max_steps": 3, "max_seconds": 5}}, "both named"),
        ({"training": {"max_seconds": -1}}, "`max_seconds`.*-1"),
        ({"methods": [{"name": "a", "objective": "nonsense"}]}, "'a' cannot be used.*nonsense"),
        ({"evaluation": {"mixx": "ease"}}, "`evaluation`.*'mixx'.*'mix'"),
        ({"evaluation": {"mix": "eas"}}, "`evaluation.mix`.*'eas'.*'ease'"),
        ({"evaluation": {"ks": 10}}, "`evaluation.ks` must be a list.*10"),
        ({"evaluation": {"max_history": 0}}, "`evaluation.max_history`.*0"),
        ({"evaluation": {"exclude_seen": "no"}}, "`evaluation.exclude_seen`.*'no'"),
        ({"evaluation": {"score_options": 0.5}}, "`evaluation.score_options`.*0.5"),
        ({"evaluation": {"score_options": {"prior": 0.5}}}, "`score_options`.*'prior'"),
        (
            {
                "methods": [{"name": "a", "fusion": "internal"}],
                "evaluation": {"score_options": {"cross_terms": False}},
            },
            "internal fusion",
        ),
        ({"start": {**CONTENT["start"], "processor": {"max_hist": 1}}}, "`processor`.*'max_hist'.*'max_history'"),
        ({"data": [{**CONTENT["data"][0], "processor": {"fusion": "internal"}}]}, "`processor` names 'fusion'"),
    ):
        with pytest.raises(ValueError, match=message):
            run_study(small_study(tmp_path / "out", **changes))
    with pytest.raises(ValueError, match="`max_hours`"):
        run_study(small_study(tmp_path / "out"), max_hours=0)
    assert not (tmp_path / "out").exists()


def test_adapters_with_nothing_but_defaults_are_no_missing_adapters(tmp_path):
    plain, adapted, wider = (
        runs_of(small_study(tmp_path, start={**CONTENT["start"], **lora}))[0].config()["start"].get("lora")
        for lora in ({}, {"lora": {}}, {"lora": {"r": 32}})
    )
    assert (plain, adapted, wider) == (None, {}, {"r": 32})


def test_the_examples_are_whole(tmp_path):
    from pathlib import Path

    files = sorted((Path(__file__).parents[2] / "studies").glob("*.yaml"))
    names = ["beauty_control", "demo_shop", "hm_week", "hm_week_pretrained", "ml1m"]
    assert [file.stem for file in files] == names
    for file in files:
        study = read_study(file, tmp_path)
        runs = runs_of(study)
        control = file.stem == "beauty_control"
        assert len(runs) >= (3 if control else 5) and len(study.tests) > (1 if control else 5)
        for run in runs:
            check_arguments(run)


def test_a_file_that_is_none_is_named(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_study(tmp_path / "absent.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="is no YAML"):
        read_study(tmp_path / "bad.yaml")
    with pytest.raises(ValueError, match="key: value"):
        parse_study(copy.deepcopy([1]))


def test_seconds_become_steps_once_they_are_timed(tmp_path):
    study = small_study(tmp_path, training={"max_seconds": 30})
    run = runs_of(study)[0]
    assert steps_within(run, 30) == 1
    run.folder.mkdir(parents=True)
    (run.folder / "budget.json").write_text('{"max_steps": 17}')
    assert steps_within(run, 30) == 17


def test_a_start_may_be_a_language_model_with_features(tmp_path):
    save_language_model(tmp_path / "words")
    start = {"language_model": str(tmp_path / "words"), "parts": {"feature_size": 8}, "processor": {"max_history": 3}}
    study = small_study(
        tmp_path / "study", start=start, methods=[{"name": "zero_shot", "kind": "zero_shot"}], tests=[]
    )
    (run, *_) = runs_of(study)
    made, again = (shared_start(run, shared_dataset(study, run.data)) for _ in range(2))
    assert made.model.vlm.config.model_type == "vlm2rec_parts" and made.processor.max_history == 3
    for name, weight in again.model.state_dict().items():
        assert torch.equal(weight, made.model.state_dict()[name])
    words = AutoModel.from_pretrained(tmp_path / "words").state_dict()
    assert all(torch.equal(made.model.vlm.language_model.state_dict()[name], words[name]) for name in words)
