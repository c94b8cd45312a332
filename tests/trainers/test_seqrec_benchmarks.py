"""The benchmark scripts of the heads, on data small enough for a test."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from vlm2rec_hf import RecDataset, SequentialRecommender
from vlm2rec_hf.evaluation import rank_head

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name):
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(module, monkeypatch, capsys, *words):
    monkeypatch.setattr(sys, "argv", ["script", *map(str, words)])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture
def circles(tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{(start + place) % 12}", "position": place}
        for user, start in enumerate(rng.integers(0, 12, 40))
        for place in range(8)
    ]
    RecDataset.from_tables(rows).save(tmp_path / "data" / "circles")
    return tmp_path / "data"


def test_quality_trains_each_seed_once_and_reports_mean_and_spread(circles, tmp_path, monkeypatch, capsys):
    script = load("seqrec_quality")
    recipe = json.loads(json.dumps(script.RECIPES["amazon-toys-2014-5core"]))
    recipe["model"] |= {"hidden_size": 8, "max_length": 10, "dropout": 0.1}
    recipe["training"] |= {"num_train_epochs": 3, "per_device_train_batch_size": 8}
    monkeypatch.setitem(script.RECIPES, "circles", recipe)
    words = ("--data", circles, "--dataset", "circles", "--output", tmp_path / "out", "--cpu", "--seeds", 0, 1)
    found = run(script, monkeypatch, capsys, *words, "--set", "learning_rate=0.02")
    results = [json.loads((tmp_path / f"out/circles-sasrec-{seed}/result.json").read_text()) for seed in (0, 1)]
    values = [result["test"]["ndcg@10"] for result in results]
    assert found["test"]["ndcg@10"]["mean"] == pytest.approx(np.mean(values), abs=1e-5)
    assert found["test"]["ndcg@10"]["sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-5)
    assert found["met"] == all(found["test"][name]["mean"] >= bar for name, bar in recipe["bar"].items())
    assert results[0]["training"]["learning_rate"] == 0.02
    # the head that was written is the one that was measured
    dataset = RecDataset.load(circles / "circles").leave_one_out()
    head = SequentialRecommender.from_pretrained(tmp_path / "out/circles-sasrec-0/head")
    ranks = rank_head(head, dataset.examples("test", max_history=10)).ranks
    assert np.mean(np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)) == pytest.approx(values[0], abs=1e-6)
    # a second call reads what is there
    results[0]["test"]["ndcg@10"] = 0.5
    (tmp_path / "out/circles-sasrec-0/result.json").write_text(json.dumps(results[0]))
    again = run(script, monkeypatch, capsys, *words)
    assert again["test"]["ndcg@10"]["mean"] == pytest.approx((0.5 + values[1]) / 2, abs=1e-5)


def test_epoch_writes_the_trained_rows_and_scores_lists_alike(circles, tmp_path, monkeypatch):
    script = load("seqrec_epoch")
    dataset = RecDataset.load(circles / "circles").leave_one_out()
    monkeypatch.setattr(script, "open_split", lambda data: dataset)
    targets = script.write_train_rows(circles, tmp_path)
    with np.load(tmp_path / "train.npz") as rows:
        user, item, position = rows["user"], rows["item"], rows["position"]
    assert len(user) == 40 * 6 and position.max() == 5
    sequences = dataset.sequences()
    for one in (0, 17, 39):
        whole = sequences.items[sequences.offsets[one] : sequences.offsets[one + 1]]
        assert item[user == one].tolist() == whole[:6].tolist() and targets[one] == whole[6]
    top = np.full((40, 10), -1)
    top[:, 2] = targets  # third place for everybody
    assert script.ndcg_at_10(top, targets) == pytest.approx(0.5)
    top[:20] = -1
    assert script.ndcg_at_10(top, targets) == pytest.approx(0.25)


def test_epoch_names_the_peers_it_skipped(circles, tmp_path, monkeypatch, capsys):
    script = load("seqrec_epoch")
    dataset = RecDataset.load(circles / "circles").leave_one_out()
    monkeypatch.setattr(script, "open_split", lambda data: dataset)
    monkeypatch.setattr(script, "measure", lambda *_: {"epoch_seconds": [3.0, 1.0, 2.0], "ndcg@10": 0.25})
    found = run(script, monkeypatch, capsys, "--data", circles, "--replay", tmp_path / "no-python")
    assert found["ours"] == 2.0 and found["other"] == {} and not found["met"]
    assert set(found["skipped"]) == {"rectools", "replay", "recbole"} and "not there" in found["skipped"]["replay"]
    found = run(script, monkeypatch, capsys, "--data", circles, "--rectools", sys.executable)
    assert found["ratio"] == {"rectools": 1.0} and not found["met"]
