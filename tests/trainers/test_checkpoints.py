"""A whole checkpoint at every moment: what a kill during saving or deleting leaves behind."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from vlm2rec_hf import default_lora_config, load_model
from vlm2rec_hf.trainers import checkpoints
from vlm2rec_hf.trainers.checkpoints import COMPLETE, complete_checkpoints

SAVING = {"save_strategy": "steps", "save_steps": 1, "max_steps": 4}


class Killed(BaseException):
    """Stands for the end of the process."""


def names(run):
    return [path.name for path in complete_checkpoints(run.args.output_dir)]


@pytest.mark.parametrize("limit", [1, 2])
def test_the_limit_is_kept_and_recorded(trainer, limit):
    run = trainer(save_total_limit=limit, **SAVING)
    run.train()
    assert names(run) == ["checkpoint-3", "checkpoint-4"][-limit:]
    assert len(list(Path(run.args.output_dir).glob("checkpoint-*"))) == limit
    saved = torch.load(Path(run.args.output_dir) / "checkpoint-4" / "training_args.bin", weights_only=False)
    assert saved.save_total_limit == limit == run.args.save_total_limit


def test_killed_while_deleting_an_old_checkpoint(trainer, monkeypatch):
    run = trainer(save_total_limit=1, **SAVING)

    delete = checkpoints.shutil.rmtree

    def die(path, **kwargs):
        if not Path(path).name.startswith("checkpoint-"):
            return delete(path, **kwargs)
        Path(path, "model.safetensors").unlink()
        raise Killed

    monkeypatch.setattr(checkpoints.shutil, "rmtree", die)
    with pytest.raises(Killed):
        run.train()
    assert names(run) == ["checkpoint-2"]  # the new one is whole before the old one is touched; the old one is no more
    assert not (Path(run.args.output_dir) / "checkpoint-1" / COMPLETE).exists()


@pytest.mark.parametrize("moment", ["_save_rng_state", "_save_optimizer_and_scheduler", "save_model"])
def test_killed_while_saving_keeps_the_last_one(trainer, monkeypatch, moment):
    run = trainer(save_total_limit=1, **SAVING)
    original = getattr(run, moment)

    def die(*args, **kwargs):
        original(*args, **kwargs)
        if run.state.global_step == 3:
            raise Killed

    monkeypatch.setattr(run, moment, die)
    with pytest.raises(Killed):
        run.train()
    assert names(run) == ["checkpoint-2"]
    assert run.args.save_total_limit == 1
    again = trainer(save_total_limit=1, **SAVING)
    again.train(resume_from_checkpoint=True)
    assert names(again) == ["checkpoint-4"]
    assert (Path(run.args.output_dir) / "incomplete-checkpoint-3").is_dir()


def test_the_best_checkpoint_outlives_the_limit(trainer):
    scores = iter([0.9, 0.1, 0.2, 0.3])
    run = trainer(
        save_total_limit=2,
        eval_strategy="steps",
        eval_steps=1,
        evaluator=lambda model: {"both_ndcg@10": next(scores)},
        **SAVING,
    )
    run.train()
    assert names(run) == ["checkpoint-1", "checkpoint-4"]
    assert run.state.best_model_checkpoint.endswith("checkpoint-1")


def test_an_older_runs_checkpoints_do_not_push_out_the_new_one(trainer):
    run = trainer(save_total_limit=1, **SAVING)
    stale = Path(run.args.output_dir) / "checkpoint-500"
    stale.mkdir(parents=True)
    (stale / COMPLETE).touch()
    run.train()
    assert names(run) == ["checkpoint-4"]


@pytest.mark.parametrize("word", [None, "false"])
def test_a_fresh_start_keeps_an_earlier_runs_checkpoints_apart(trainer, monkeypatch, word):
    """Killed before its first save, it is not gone on with from one of theirs."""
    trainer(**{**SAVING, "max_steps": 2}).train()
    again = trainer(**SAVING)
    monkeypatch.setattr(again, "_save_checkpoint", stop)
    with pytest.raises(Killed):
        again.train(resume_from_checkpoint=word)
    folder = Path(again.args.output_dir)
    assert names(again) == [] and {path.name for path in folder.glob("earlier-*")} == {
        "earlier-checkpoint-1", "earlier-checkpoint-2",
    }  # fmt: skip
    last = trainer(**SAVING)
    last.train(resume_from_checkpoint=True)
    assert [record["step"] for record in last.state.log_history if "loss" in record] == [1, 2, 3, 4]


def stop(*args, **kwargs):
    raise Killed


def test_a_loaded_adapter_resumes_and_ends_with_the_best(trainer, tiny, tmp_path):
    """Its model has no wrapper of PEFT's, without which the library finds no weights in its checkpoints."""
    base, processor = tiny("qwen2_vl")
    base.save_pretrained(tmp_path / "base")
    processor.save_pretrained(tmp_path / "base")
    adapted = trainer(load_model(tmp_path / "base"), processor, max_steps=1, peft_config=default_lora_config(2))
    adapted.train()
    adapted.save_model(str(tmp_path / "adapter"))

    def start(folder, scores=(0.1, 0.9, 0.2, 0.3), **options):
        left = iter(scores)
        return trainer(
            load_model(tmp_path / "adapter"), processor, output_dir=str(tmp_path / folder), eval_strategy="steps",
            eval_steps=1, evaluator=lambda model: {"both_ndcg@10": next(left)}, learning_rate=1e-2,
            **SAVING, **options,
        )  # fmt: skip

    def weights(run):
        return {name: value.clone() for name, value in run.model.named_parameters() if "lora_" in name}

    whole = start("whole", load_best_model_at_end=False)
    assert whole.embedder.holds_adapter
    whole.train()
    best = start("best", load_best_model_at_end=True)
    best.train()
    two = load_file(tmp_path / "best" / "checkpoint-2" / "adapter_model.safetensors")
    assert all(torch.equal(two[f"base_model.model.{n.replace('.default', '')}"], w) for n, w in weights(best).items())
    broken = start("broken", load_best_model_at_end=False)
    broken.add_callback(StopAt(2))
    broken.train()
    resumed = start("broken", load_best_model_at_end=False)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 4
    ends = weights(whole)
    assert ends and all(torch.equal(ends[name], value) for name, value in weights(resumed).items())
    assert any(not torch.equal(ends[name], value) for name, value in weights(best).items())


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_is_bitwise_across_evaluation_accumulation_and_checkpointing(trainer, tmp_path, lora):
    """The validation ranking between the steps, and the second micro-batch, draw nothing from the run's randomness."""

    def start(folder):
        return trainer(
            output_dir=str(tmp_path / folder),
            objective="modality_dropout",
            peft_config=default_lora_config(r=2, dropout=0.2) if lora else None,
            gradient_accumulation_steps=2,
            gradient_checkpointing=True,
            eval_strategy="steps",
            eval_steps=1,
            save_total_limit=1,
            **SAVING,
        )

    whole = start("whole")
    whole.train()
    broken = start("broken")
    broken.add_callback(StopAt(2))
    broken.train()
    resumed = start("broken")
    resumed.train(resume_from_checkpoint=True)
    timeless = [
        [
            {
                name: value
                for name, value in record.items()
                if not name.endswith(("runtime", "data_wait", "per_second"))
            }
            for record in log[:-1]
        ]
        for log in (resumed.state.log_history, whole.state.log_history)
    ]
    # Every term, margin, gradient norm and metric; as text because a missing value is NaN.
    assert json.dumps(timeless[0], sort_keys=True) == json.dumps(timeless[1], sort_keys=True)
    ours, theirs = dict(resumed.model.named_parameters()), dict(whole.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    if lora:  # with the embeddings frozen, checkpointing would cut the gradient off
        assert all(p.any() for name, p in ours.items() if "lora_B" in name)


def test_a_named_checkpoint_resumes_from_there(trainer, tmp_path):
    run = trainer(**SAVING, save_total_limit=None)
    run.train()
    expected = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    shutil.copytree(Path(run.args.output_dir) / "checkpoint-3", tmp_path / "elsewhere" / "checkpoint-3")
    again = trainer(**SAVING, output_dir=str(tmp_path / "other"))
    again.train(resume_from_checkpoint=str(tmp_path / "elsewhere" / "checkpoint-3"))
    assert all(torch.equal(p, expected[name]) for name, p in again.model.named_parameters())
    with pytest.raises(ValueError, match="missing or half-written"):
        trainer(**SAVING).train(resume_from_checkpoint=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("word", ["true", "True", "checkpoint-4"])
def test_the_command_lines_words_for_a_checkpoint(trainer, word):
    first = trainer(**SAVING)
    first.train()
    folder = first.args.output_dir
    longer = trainer(**{**SAVING, "max_steps": 6}, output_dir=folder)
    steps = []

    class Count(TrainerCallback):
        def on_step_begin(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    longer.add_callback(Count())
    longer.train(resume_from_checkpoint=word)
    assert steps == [4, 5] and names(longer)[-1] == "checkpoint-6"


def test_no_is_a_fresh_start(trainer):
    first = trainer(**SAVING)
    first.train()
    again = trainer(**SAVING, output_dir=first.args.output_dir)
    again.train(resume_from_checkpoint="false")
    assert again.state.global_step == 4 and len(again.state.log_history) > 0
