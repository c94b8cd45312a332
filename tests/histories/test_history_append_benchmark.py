import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_prints_its_json_line():
    """Both sides must agree (the script raises otherwise), on a model and histories small enough for a test."""
    command = [sys.executable, str(ROOT / "benchmarks" / "history_append.py"), "--json", "--users", "1", "2"]
    command += ["--history", "12", "--repeats", "2", "--catalogue", "8", "--words", "3", "--hidden-size", "32"]
    command += ["--layers", "2", "--vision-layers", "1", "--image-size", "56", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"claim", "ours", "other", "ratio", "bar", "unit", "difference", "uncached", "met"} <= set(result)
    assert set(result["ratio"]) == set(result["ours"]) == set(result["uncached"]["ratio"]) == {"1", "2"}
    assert result["difference"] < 1e-5 and result["bar"] == 10
    assert result["ours"]["1"] > 0 and result["state_mb"]["2"] > result["state_mb"]["1"] > 0
