"""The benchmark scripts of the embedder's training, on a shop and a model small enough for a test."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SMALL = (
    "--items",
    60,
    "--history",
    2,
    "--hidden",
    32,
    "--vision-hidden",
    32,
    "--vision-layers",
    1,
    "--image-size",
    56,
)


def run(name, monkeypatch, capsys, *words):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS.parent))  # for its worker processes
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(sys, "argv", ["script", *map(str, (*SMALL, *words))])
    module.main()
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the high-water mark is read from /proc")
def test_memory_is_of_a_process_of_its_own(monkeypatch, capsys):
    found = run("grad_cache_memory", monkeypatch, capsys, "--batch", 12, "--plain", 4, "--tokens", 60, "--json")
    assert found["ratio"] == pytest.approx(found["ours"] / found["other"], abs=1e-3)
    assert found["met"] == (found["ratio"] <= found["bar"] == 1.25)
    for side, peak in (("cached", found["ours"]), ("plain", found["other"])):
        assert 0 < found["above_start"][side] < peak / 2 and found["seconds_per_step"][side] > 0


def test_overhead_compares_the_two_objectives(monkeypatch, capsys):
    found = run("loss_overhead", monkeypatch, capsys, "--batch", 4, "--rounds", 3, "--warm-up", 1, "--cached")
    low, high = found["ratio_quartiles"]
    assert 0 < low <= found["ratio"] <= high and found["cpu_ratio"] > 0
    assert found["met"] == (found["ratio"] <= 1.03) and found["vision"] == "frozen, features kept"


def test_prefix_training_compares_the_same_targets(monkeypatch, capsys):
    found = run(
        "prefix_training", monkeypatch, capsys, "--targets", 36, "--histories", "3,9", "--repeats", 1, "--json"
    )
    assert [one["targets"] for one in found["by_history"].values()] == [36, 36]
    assert found["by_history"]["9"]["token_ratio"] > found["by_history"]["3"]["token_ratio"] > 1
    assert found["ratio"] == found["by_history"]["9"]["ratio"] > 1 and found["ours"] < found["other"]
