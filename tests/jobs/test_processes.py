"""Several processes at once: the command as users start it, killed, failing, twice, and under launchers."""

import os
import signal
import time

import psutil
import pyarrow.parquet as pq
import pytest

from vlm2rec_hf.cli.main import main
from vlm2rec_hf.jobs.embed import run_embed_job
from vlm2rec_hf.jobs.failures import Failure
from vlm2rec_hf.jobs.run_local import run_processes

from ..waiting import PATIENCE_S
from .command_shop import command, start
from .small_jobs import small_job


def wait_for(condition):
    limit = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.02)


@pytest.mark.slow
def test_a_killed_command_takes_its_workers_along_and_goes_on(shop, undisturbed, tmp_path, capsys):
    output = tmp_path / "items.parquet"
    running = start(shop, output, "--num_processes", 2)
    try:
        wait_for(lambda: list(tmp_path.glob("items.parquet.work/shards/*.parquet")) or running.poll() is not None)
        children = psutil.Process(running.pid).children(recursive=True) if running.poll() is None else []
    finally:
        running.kill()
        running.communicate()
    _, alive = psutil.wait_procs(children, timeout=PATIENCE_S)
    assert not alive
    made = {path: path.stat().st_mtime_ns for path in tmp_path.glob("items.parquet.work/shards/*.parquet")}
    if not output.exists():
        assert made
    assert main(["embed", *command(shop, output)]) == 0 or output.exists()
    assert pq.read_table(output).equals(undisturbed, check_metadata=True)
    assert {path.name for path in tmp_path.iterdir()} == {"items.parquet", "items.quarantine.parquet"}
    printed = capsys.readouterr().out
    assert "24 items x 32 dimensions" in printed and "2 image:not_an_image" in printed


@pytest.mark.slow
def test_two_commands_at_once_share_the_work(shop, undisturbed, tmp_path):
    output = tmp_path / "items"
    both = [start(shop, output, "--shard_size", 1) for _ in range(2)]
    said = [process.communicate(timeout=200) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    files = sorted((output / "shards").iterdir())
    assert len(files) == 24 and {path.name for path in output.iterdir()} == {"manifest.json", "shards", "quarantine"}
    ids = [pq.read_table(path)["item_id"][0].as_py() for path in files]
    assert ids == undisturbed["item_id"].to_pylist()


def dies():
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_worker_that_dies_stops_the_job_with_its_cause(dataset, tmp_path):
    job = small_job(tmp_path / "items.parquet", dataset, None)
    object.__setattr__(job, "load_model", dies)
    with pytest.raises(RuntimeError, match="Worker [01] was ended by SIGKILL .out of memory"):
        run_embed_job(job, lambda job, shards: run_processes(job, shards, count=2), progress=False)
    left = psutil.Process().children(recursive=True)
    assert [child for child in left if "spawn_main" in " ".join(child.cmdline())] == []


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [(ValueError("`x` is wrong"), ValueError, "`x` is wrong"),
     (KeyError("x"), RuntimeError, "Worker 1 failed, the shards done so far are kept: KeyError: 'x'")],
)  # fmt: skip
def test_errors_travel_with_their_cause(error, kind, message):
    try:
        raise error
    except (ValueError, KeyError) as caught:
        result = Failure.of(caught).as_error("1")
    assert type(result) is kind and str(result) == message
    assert "test_errors_travel" in result.__notes__[0]


def test_launched_ranks_take_a_part_each(shop, undisturbed, tmp_path, monkeypatch, capsys):
    output = tmp_path / "items.parquet"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", "3 of 6 shards are still missing"), ("0", "24 items x 32"), ("1", "24 items x 32")):
        monkeypatch.setenv("RANK", rank)
        assert main(["embed", *command(shop, output)]) == 0
        assert said in capsys.readouterr().out
    assert pq.read_table(output).equals(undisturbed, check_metadata=True)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--shard", "4/4"], "`--shard` must be I/N with 0 <= I < N"),
        (["--shard", "half"], "`--shard` must be I/N"),
        (["--num_processes", "0"], "`--num_processes` must be at least 1"),
        (["--engine", "spark"], "`--engine` must be local or ray"),
    ],
)
def test_bad_options_are_refused(shop, tmp_path, options, said, capsys):
    assert main(["embed", *command(shop, tmp_path / "items.parquet", *options)]) == 2
    assert said in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_bad_input_in_a_worker_is_bad_input(shop, tmp_path, capsys):
    (tmp_path / "no-model").mkdir()
    words = command(shop, tmp_path / "items.parquet", "--num_processes", 2)
    words[words.index("--model") + 1] = str(tmp_path / "no-model")
    assert main(["embed", *words]) == 2
    assert "holds no config.json" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["no-model"]
