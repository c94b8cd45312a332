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
    """With faiss installed the script also compares results, and raises where they differ."""
    command = [sys.executable, str(ROOT / "benchmarks" / "full_ranking.py"), "--json", "--users", "60"]
    command += ["--items", "3000", "--dim", "16", "--repeats", "1", "--check", "20"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = json.loads(line)
    assert {"claim", "ours", "other", "ratio", "bar", "by_threads", "above_mb", "checked", "met"} <= set(result)
    assert result["by_threads"]["1"]["ours"] > 0 and result["above_mb"] < 2048
    if importlib.util.find_spec("faiss"):
        # Leaving seen items out must have mattered, or the comparison would prove little.
        assert result["checked"]["users"] == 20 and result["checked"]["struck_from_faiss_lists"] > 0
    else:
        assert result["other"] is None and "faiss" in result["note"]
