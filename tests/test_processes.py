"""Claims between real processes."""

import os
import signal
import subprocess
import sys

import pytest

from vlm2rec_hf.files import remove_folder
from vlm2rec_hf.processes import Claims
from vlm2rec_hf.processes import __file__ as claims_file

HOLDER = """
import importlib.util, sys, time
from pathlib import Path
# By its path, because importing the package would import PyTorch first.
spec = importlib.util.spec_from_file_location("claims", sys.argv[2])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
claims = module.Claims(Path(sys.argv[1]))
presence = claims.enter()
with claims.attempt("shard") as mine:
    print("mine" if mine else "taken", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    command = [sys.executable, "-c", HOLDER, str(tmp_path), claims_file]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "mine\n"
    yield process
    process.kill()
    process.wait()


def test_a_claim_is_exclusive_and_free_when_its_holder_is_killed(holder, tmp_path):
    claims = Claims(tmp_path)
    with claims.attempt("shard") as mine, claims.attempt("another") as other:
        assert not mine and other
    assert (tmp_path / "shard.lock").read_text().split()[1] == str(holder.pid)
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claims.attempt("shard") as mine:
        assert mine
        with claims.attempt("shard") as again:
            assert not again
    with claims.attempt("shard") as mine:
        assert mine


def test_nobody_is_alone_while_another_is_at_work(holder, tmp_path):
    claims = Claims(tmp_path)
    with claims.alone() as alone:
        assert not alone
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with claims.alone() as alone:
        assert alone
    with claims.enter(), claims.alone() as alone:
        assert not alone


def test_whoever_enters_a_folder_that_was_removed_is_in_the_new_one(tmp_path):
    claims = Claims(tmp_path / "work" / "claims")
    claims.enter().close()
    with claims.alone():
        remove_folder(tmp_path / "work")
    assert not (tmp_path / "work").exists() and list(tmp_path.iterdir()) == []
    with claims.alone() as alone:
        assert not alone  # nothing to clear up
    with claims.enter() as file:
        assert os.path.samestat(os.fstat(file.fileno()), (claims.folder / "present.lock").stat())
