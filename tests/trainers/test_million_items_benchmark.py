import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_prints_its_json_line():
    """Both ways must agree on the losses (the script raises otherwise), on catalogues small enough for a test."""
    command = [sys.executable, str(ROOT / "benchmarks" / "million_items.py"), "--json", "--items", "900"]
    command += ["--compare", "300", "--batch", "8", "--length", "10", "--dim", "16", "--repeats", "1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"claim", "ours", "other", "ratio", "bar", "peak_rss_mb", "compared", "met"} <= set(result)
    assert result["n_items"] == 900 and result["compared"]["n_items"] == 300
    assert len(result["losses"]) == len(result["compared"]["losses"]["plain"]) == 2
    assert 6.5 < result["losses"][0] < 7.1  # ln 900 is 6.80: fresh weights guess among all items alike
