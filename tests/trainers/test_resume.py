"""Stopping and going on: bitwise the same run, and never from a half-written checkpoint."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import TrainerCallback

from vlm2rec_hf import default_lora_config
from vlm2rec_hf.trainers.checkpoints import COMPLETE, complete_checkpoints

SAVING = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "save_total_limit": None}


def losses(run):
    return [(record["step"], record["loss"]) for record in run.state.log_history if "loss" in record]


@pytest.mark.parametrize(
    ("lora", "rows"), [(False, 8), (True, 8), (False, 150)], ids=["full", "lora", "a later epoch, cut anew"]
)
def test_resume_equals_an_unbroken_run(trainer, tmp_path, lora, rows):
    def start(folder):
        config = default_lora_config(r=2, dropout=0.1) if lora else None
        return trainer(
            output_dir=str(tmp_path / folder), peft_config=config, objective="modality_dropout",
            per_device_train_batch_size=rows, **SAVING,
        )  # fmt: skip

    whole = start("whole")
    whole.train()
    broken = start("broken")
    broken.args.max_steps = 5
    broken.add_callback(StopAt(3))
    broken.train()
    assert broken.state.global_step == 3
    resumed = start("broken")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)  # the log carries over from the checkpoint
    ours, theirs = dict(resumed.model.named_parameters()), dict(whole.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


def test_a_half_written_checkpoint_is_set_aside(trainer, tmp_path):
    run = trainer(**SAVING)
    run.train()
    folder = Path(run.args.output_dir)
    assert [path.name for path in complete_checkpoints(folder)] == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]
    (folder / "checkpoint-5" / COMPLETE).unlink()
    (folder / "checkpoint-9").mkdir()
    with pytest.raises(ValueError, match="half-written"):
        trainer(**SAVING).train(resume_from_checkpoint=str(folder / "checkpoint-9"))
    again = trainer(**SAVING)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 5
    names = {path.name for path in folder.iterdir()}
    assert {"incomplete-checkpoint-5", "incomplete-checkpoint-9"} <= names


def test_resuming_with_nothing_saved_starts_afresh(trainer):
    run = trainer(max_steps=1)
    run.train(resume_from_checkpoint=True)
    assert run.state.global_step == 1


ENDED = {
    "all steps": ({"save_steps": 2, "max_steps": 5}, 5, 7),
    "early": (
        {"save_steps": 1, "save_total_limit": 1, "eval_steps": 1, "max_steps": 6, "early_stopping_patience": 2,
         "eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "eval_both_ndcg@10"},
        3, 3,
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", ENDED)
def test_training_that_had_ended_takes_no_further_step(trainer, how):
    """Killed between the last checkpoint and the saved model, a run goes on to the model it would have saved."""
    options, end, more = ENDED[how]
    scores = iter([0.5, 0.4, 0.3, *[0.9] * 9])  # after early stopping a further step would count as a better one
    asked = []

    def start(**changes):
        def evaluator(model):
            asked.append(next(scores))
            return {"both_ndcg@10": asked[-1]}

        return trainer(evaluator=evaluator, **{**SAVING, **options, **changes})

    first = start()
    first.train()
    assert first.state.global_step == end
    evaluations = len(asked)
    again = start()
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == end and len(asked) == evaluations
    assert losses(again) == losses(first) and again.state.best_metric == first.state.best_metric
    ours, theirs = dict(again.model.named_parameters()), dict(first.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    longer = start(max_steps=options["max_steps"] + 2)
    longer.train(resume_from_checkpoint=True)
    assert longer.state.global_step == more  # more steps are trained; what had stopped early stays as it is


def test_the_best_checkpoint_is_loaded_at_the_end(trainer):
    scores = iter([0.1, 0.9, 0.3, 0.2])
    seen = []

    def evaluator(model):
        seen.append({name: parameter.detach().clone() for name, parameter in model.named_parameters()})
        return {"both_ndcg@10": next(scores)}

    run = trainer(
        evaluator=evaluator, eval_strategy="steps", eval_steps=1, load_best_model_at_end=True,
        **{**SAVING, "max_steps": 4, "save_steps": 1},
    )  # fmt: skip
    run.train()
    assert run.state.best_model_checkpoint.endswith("checkpoint-2")
    ours = dict(run.model.named_parameters())
    assert all(torch.equal(ours[name], seen[1][name]) for name in ours)
    assert not all(torch.equal(ours[name], seen[3][name]) for name in ours)


SCRIPT = """
import sys, time, torch
torch.set_num_threads(1)
from transformers import TrainerCallback
from vlm2rec_hf import PreparedCatalogue, VLM2RecTrainer, VLM2RecTrainingArguments, make_demo_shop, tiny_vlm

class Slow(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        print("step", state.global_step, flush=True)
        time.sleep(float(sys.argv[2]))

dataset = make_demo_shop(60, n_users=60).dataset()
model, processor = tiny_vlm(
    texts=["red tent"], processor_options={"max_history": 3}, hidden_size=32, vision_hidden_size=32
)
args = VLM2RecTrainingArguments(
    output_dir=sys.argv[1], max_steps=8, per_device_train_batch_size=8, save_strategy="steps",
    save_steps=2, logging_steps=1, disable_tqdm=True, use_cpu=True,
)
trainer = VLM2RecTrainer(model, args, train_dataset=dataset, processing_class=processor, callbacks=[Slow()])
trainer.train(resume_from_checkpoint=True)
torch.save(model.state_dict(), sys.argv[1] + "/end.pt")
"""


def test_killed_and_resumed_ends_where_an_unbroken_run_ends(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def command(folder, pause):
        return [sys.executable, str(script), str(tmp_path / folder), str(pause)]

    process = subprocess.Popen(command("killed", 0.3), stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.strip() == "step 5":
            break
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "killed" / "end.pt").exists()
    assert complete_checkpoints(tmp_path / "killed")[-1].name == "checkpoint-4"  # one step is lost, no more
    resumed = subprocess.run(command("killed", 0), env=environment, capture_output=True, text=True)
    assert resumed.returncode == 0, resumed.stderr
    assert "step 4\n" not in resumed.stdout and "step 5\n" in resumed.stdout
    assert subprocess.run(command("whole", 0), env=environment, capture_output=True).returncode == 0
    killed, whole = (torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)


@pytest.mark.slow
def test_killed_again_and_again_at_any_moment(tmp_path):
    """Also in the middle of writing or deleting a checkpoint: whatever is left, the end is the same."""
    script = tmp_path / "run.py"
    script.write_text(SCRIPT.replace("save_steps=2", "save_steps=1, save_total_limit=1"))
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

    def command(folder):
        return [sys.executable, str(script), str(tmp_path / folder), "0"]

    moments = random.Random(0)
    lost = []
    while not (tmp_path / "killed" / "end.pt").exists():
        process = subprocess.Popen(command("killed"), stdout=subprocess.PIPE, text=True, env=environment)
        first = next((line for line in process.stdout if line.startswith("step ")), "")
        if first and len(lost) < 8:
            time.sleep(moments.uniform(0.0, 0.3))
            process.kill()
        lost.append(first.strip())
        process.stdout.close()
        process.wait()
        assert len(lost) < 12, lost
    assert len(lost) > 2
    assert subprocess.run(command("whole"), env=environment, capture_output=True).returncode == 0
    killed, whole = (torch.load(tmp_path / name / "end.pt", weights_only=True) for name in ("killed", "whole"))
    assert all(torch.equal(killed[name], whole[name]) for name in whole)
