import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_benchmark_prints_its_json_line():
    """With faiss installed the script also compares the lists, and raises where they differ."""
    command = [sys.executable, str(ROOT / "benchmarks" / "ml1m_evaluation.py"), "--json", "--dims", "16", "24"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--repeats", "1"], capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert set(result["by_dim"]) == {"16", "24"} and "300 users over 200 items" in result["claim"]
    for actual in result["by_dim"].values():
        assert actual["seconds"] > 0 and actual["users_per_second"] > 0
        if importlib.util.find_spec("faiss"):
            assert actual["ratio"] > 0 and actual["same_as_faiss"] >= 0.999
