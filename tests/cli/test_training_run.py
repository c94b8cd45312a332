"""`vlm2rec train` at work: one bar, a log file, no checkpoint written over unasked, Ctrl-C says how to go on."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest

from vlm2rec_hf import make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.trainers.checkpoints import complete_checkpoints

from ..waiting import PATIENCE_S

TRAIN = ["train", "--tiny", "qwen2_vl", "--hidden_size", "32", "--vision_hidden_size", "32", "--image_size", "28"]
TRAIN += ["--per_device_train_batch_size", "8", "--use_cpu", "true", "--max_users", "5", "--logging_steps", "1"]


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "shop"
    make_demo_shop(60, n_users=40).dataset().save(folder)
    return str(folder)


def lines_of(folder):
    return [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]


def test_a_bar_is_drawn_and_every_number_kept(shop, tmp_path, capfd):
    line = [*TRAIN, "--dataset", shop, "--output_dir", str(tmp_path / "run"), "--max_steps", "3"]
    assert main([*line, "--save_strategy", "no"]) == 0
    error = capfd.readouterr().err
    assert re.search(r"VLM2Rec: 100%.*3/3 \[\d+:\d+<00:00", error)
    assert re.search(r"targets/s=\d+, loss=\d\.\d+, text=-?\d\.\d+, image=-?\d\.\d+", error)
    assert "{'loss'" not in error and "grad_norm" not in error
    logged = lines_of(tmp_path / "run")
    assert [one["step"] for one in logged if "loss" in one] == [1, 2, 3]
    assert {"margin_text", "grad_norm_text", "learning_rate"} <= set(logged[0])


def test_the_same_command_again_writes_nothing_over_and_goes_on_when_told(shop, tmp_path, capsys):
    folder = tmp_path / "run"
    line = [*TRAIN, "--dataset", shop, "--output_dir", str(folder), "--save_steps", "1", "--max_steps"]
    assert main([*line, "2"]) == 0
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    capsys.readouterr()
    assert main([*line, "4"]) == 2
    error = capsys.readouterr().err
    assert "holds checkpoint-2 of an earlier run" in error and "--resume_from_checkpoint true" in error
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    assert main([*line, "4", "--resume_from_checkpoint", "true"]) == 0
    assert [one["step"] for one in lines_of(folder) if "loss" in one] == [1, 2, 3, 4]
    assert main([*line, "5", "--resume-from-checkpoint=checkpoint-3"]) == 0
    assert [one["step"] for one in lines_of(folder) if "loss" in one] == [1, 2, 3, 4, 5]
    assert main([*line, "2", "--resume_from_checkpoint", "false"]) == 0
    assert [one["step"] for one in lines_of(folder) if "loss" in one] == [1, 2]
    assert len((folder / "training_log.1.jsonl").read_text().splitlines()) >= 4


def test_training_ends_with_the_best_validated_checkpoint(shop, tmp_path, capsys):
    folder = tmp_path / "run"
    assert main([*TRAIN, "--dataset", shop, "--output_dir", str(folder), "--max_steps", "20"]) == 0
    scores = {one["step"]: one["eval_both_ndcg@10"] for one in lines_of(folder) if "eval_both_ndcg@10" in one}
    assert sorted(scores) == list(range(2, 21, 2))
    kept = {checkpoint.name: checkpoint for checkpoint in complete_checkpoints(folder)}
    state = json.loads((kept["checkpoint-20"] / "trainer_state.json").read_text())
    assert scores[state["best_global_step"]] == max(scores.values())
    best = kept[f"checkpoint-{state['best_global_step']}"]
    assert (best / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path):
    from types import SimpleNamespace

    from vlm2rec_hf.trainers.progress_bar import LogFile

    file = tmp_path / "training_log.jsonl"
    file.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.5}\n{"step": 3, "lo')
    state, args = SimpleNamespace(is_world_process_zero=True, global_step=2), SimpleNamespace(output_dir=str(tmp_path))
    log = LogFile()
    log.on_train_begin(args, state, None)
    state.global_step = 3
    log.on_log(args, state, None, {"loss": 1.25})
    assert [one["loss"] for one in lines_of(tmp_path)] == [2.0, 1.5, 1.25]


def test_ctrl_c_says_how_to_go_on_and_that_goes_on(shop, tmp_path):
    folder = tmp_path / "run"
    line = [*TRAIN, "--dataset", shop, "--output_dir", str(folder), "--save_steps", "1", "--max_steps"]
    run = subprocess.Popen(
        [sys.executable, "-m", "vlm2rec_hf.cli.main", *line, "500"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    for _ in range(10 * PATIENCE_S):
        if complete_checkpoints(folder):
            break
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    error = run.communicate(timeout=PATIENCE_S)[1]
    assert run.returncode == 1 and "Traceback" not in error, error[-2000:]
    (again,) = re.findall(r"To go on:\n    (vlm2rec train .*)", error)
    reached = int(complete_checkpoints(folder)[-1].name.split("-")[1])
    words = shlex.split(again)[1:]
    words[words.index("500")] = str(reached + 2)
    assert main(words) == 0
    assert lines_of(folder)[-1]["step"] == reached + 2


def test_a_file_in_the_place_of_the_folder_is_named(shop, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    assert main([*TRAIN, "--dataset", shop, "--output_dir", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder" in capsys.readouterr().err and (tmp_path / "file").read_text() == "mine"
