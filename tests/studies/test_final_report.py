"""The one report on the test split, by the study's own options of evaluation."""

import numpy as np
import pytest
import yaml

from vlm2rec_hf import make_demo_shop
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.studies import work
from vlm2rec_hf.studies.runs import CONFIG_FILE, runs_of

from .small_studies import CONTENT, small_study

ZERO_SHOT = [{"name": "start", "kind": "zero_shot"}]
BY_ID = [{"name": "ids", "kind": "head", "num_train_epochs": 1}]


def test_options_of_evaluation_act_in_every_row(tmp_path):
    options = {"exclude_seen": False, "max_history": 1, "ks": [5], "score_options": {"popularity_prior": 0.5}}
    study = small_study(tmp_path, methods=ZERO_SHOT, evaluation=options, seeds=[0])
    work.run_study(study)
    (run,) = runs_of(study)
    report = Report.load(run.folder / "report")
    assert report.protocol.k == (5,) and not report.protocol.exclude_seen and report.views("start")[-1] == "scored"
    # The vector without images is that of the text, so both rows rank alike if both see one item of each history.
    np.testing.assert_array_equal(report.ranks("start without images", "both"), report.ranks("start", "text"))
    assert "scored" in report.views("start without images") and "oracle" in report.floors
    plain = small_study(tmp_path / "plain", methods=ZERO_SHOT, seeds=[0])
    work.run_study(plain)
    (other,) = runs_of(plain)
    assert (Report.load(other.folder / "report").ranks("start", "text") != report.ranks("start", "text")).any()


def test_evaluation_may_be_corrected_until_a_report_is_there(tmp_path, monkeypatch):
    def study(**options):
        return small_study(tmp_path, methods=BY_ID, seeds=[0], evaluation=options)

    def fails(*args, **kwargs):
        raise RuntimeError("no report")

    with monkeypatch.context() as broken, pytest.raises(RuntimeError, match="no report"):
        broken.setattr(work, "report_test_users", fails)
        work.run_study(study(mix="ease"))
    (run,) = runs_of(study(mix="item_knn"))
    trained = (run.folder / "trained.json").read_bytes()
    work.run_study(study(mix="item_knn", score_options={"popularity_prior": 1.0}))  # heads have no score options
    assert (run.folder / "trained.json").read_bytes() == trained and run.is_done
    assert "ids + item_knn" in Report.load(run.folder / "report").methods
    assert yaml.safe_load((run.folder / CONFIG_FILE).read_text())["evaluation"]["mix"] == "item_knn"
    with pytest.raises(ValueError, match="evaluation.mix: 'item_knn' then, 'ease' now"):
        work.run_study(study(mix="ease"))


def test_without_a_validation_split_what_needs_one_is_refused_before_training(tmp_path):
    shop = make_demo_shop(**CONTENT["data"][0]["shop"]).dataset()
    times = sorted(shop.interactions["timestamp"])
    shop.temporal_split(test_from=times[int(len(times) * 0.8)]).save(tmp_path / "shop")
    study = small_study(
        tmp_path / "study", data=[{"name": "shop", "source": str(tmp_path / "shop")}], seeds=[0],
        methods=[CONTENT["methods"][0]],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="`train_dataset` has no validation split"):
        work.run_study(study)
    mixed = small_study(
        tmp_path / "mixed", data=[{"name": "shop", "source": str(tmp_path / "shop")}], seeds=[0],
        methods=BY_ID, evaluation={"mix": "ease"},
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="`mix` 'ease' .* has none with a history"):
        work.run_study(mixed)
    for run in (*runs_of(study), *runs_of(mixed)):
        assert not (run.folder / "training_log.jsonl").exists() and not (run.folder / "model").exists()
