import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def kill_study(folder, seeds):
    done = subprocess.run(
        [sys.executable, "-m", "tests.studies.kill_study", str(folder), str(seeds)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def studied(tmp_path_factory):
    """A folder with two finished studies, `shared_by_two` and `killed`, and what happened in them."""
    folder = tmp_path_factory.mktemp("studies")
    return folder, kill_study(folder, 1)
