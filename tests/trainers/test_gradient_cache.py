"""Gradient caching: the gradients of the whole batch, from chunks of it."""

import contextlib

import pytest
import torch

from vlm2rec_hf import default_lora_config
from vlm2rec_hf.losses.vlm2rec import OBJECTIVES
from vlm2rec_hf.trainers.gradient_cache import GradientCache, RandomState

USERS = 7


def one_step(run, rows=range(USERS), seed=0):
    """Loss, gradients and what was recorded of one training step."""
    run.current_gradient_accumulation_steps = 1
    run.model.zero_grad()
    torch.manual_seed(seed)
    loss = run.training_step(run.model, run.data_collator([run.train_dataset[i] for i in rows]))
    gradients = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    return loss, gradients, run.step_metrics.means()


def assert_equal_steps(one, other, tolerance=1e-5):
    torch.testing.assert_close(one[0], other[0], rtol=1e-5, atol=1e-6)
    assert one[1].keys() == other[1].keys() and any(gradient.any() for gradient in one[1].values())
    largest = max(gradient.abs().max() for gradient in one[1].values())
    for name, gradient in one[1].items():
        assert (gradient - other[1][name]).abs().max() <= tolerance * max(largest, 1), name
    drop = {"data_wait"}
    for name in one[2].keys() - drop:
        assert one[2][name] == pytest.approx(other[2][name], rel=1e-3, abs=1e-5, nan_ok=True), name
    assert one[2].keys() - drop == other[2].keys() - drop


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gradients_are_those_of_the_whole_batch(tiny, trainer, objective):
    """All weights trained, vision tower included, so that images pass it in every chunk."""
    steps = []
    for size in (None, 120):
        model, processor = tiny()
        run = trainer(model, processor, objective=objective, gradient_cache_tokens=size, freeze_vision=False)
        steps.append(one_step(run))
    assert_equal_steps(*steps)


@pytest.mark.parametrize(
    "options",
    [{}, {"gradient_checkpointing": True}, {"fusion": "internal", "objective": "sft"}, {"family": "qwen3_vl"}],
    ids=["lora", "checkpointing", "internal", "deepstack"],
)
def test_gradients_with_adapters_over_cached_features(tiny, trainer, options):
    family, fusion = options.pop("family", "qwen2_vl"), options.pop("fusion", "external")
    steps = []
    for size in (None, 80):
        model, processor = tiny(family, fusion)
        run = trainer(
            model,
            processor,
            peft_config=default_lora_config(2, dropout=0.0),
            gradient_cache_tokens=size,
            **options,
        )
        assert run.catalogue.has_cached_features
        steps.append(one_step(run))
    assert_equal_steps(*steps)
    options.update({"family": family, "fusion": fusion})


@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointing"])
@pytest.mark.parametrize("objective", ["wpcl+crtr", "modality_dropout"])
def test_the_second_pass_drops_what_the_first_one_dropped(tiny, trainer, objective, checkpointing):
    """Reference: the same chunks with their graphs kept, which is what caching does without."""
    model, processor = tiny()
    run = trainer(
        model,
        processor,
        objective=objective,
        peft_config=default_lora_config(2, dropout=0.4),
        gradient_cache_tokens=120,
        gradient_checkpointing=checkpointing,
        modality_dropout=0.5,
    )
    for name, parameter in run.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)  # or the adapters' dropout changes nothing
    cached = one_step(run)

    class KeepGraphs(GradientCache):
        def first_pass(self):
            return torch.cat([self._embed(chunk) for chunk in self._chunks()])

        def second_pass(self, **kwargs):
            pass

    import vlm2rec_hf.trainers.vlm2rec_trainer as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "GradientCache", KeepGraphs)
        kept = one_step(run)
        other_draws = one_step(run, seed=1)
    assert_equal_steps(cached, kept)
    assert abs(float(kept[0] - other_draws[0])) > 1e-3  # the draws matter


def test_random_numbers_are_replayed_and_then_go_on():
    torch.manual_seed(3)
    state = RandomState(torch.device("cpu"))
    first, after = torch.rand(3), None
    with contextlib.suppress(KeyError), state.replayed():
        assert torch.equal(torch.rand(3), first)
        raise KeyError
    after = torch.rand(3)
    state.restore()
    torch.rand(3)
    assert torch.equal(torch.rand(3), after)


def test_a_float16_scaler_scales_the_gradients_and_not_what_is_logged(tiny, trainer):
    steps = []
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=256.0)):
        model, processor = tiny()
        run = trainer(model, processor, gradient_cache_tokens=120)
        run.accelerator.scaler = scaler
        steps.append(one_step(run))
    scaled = {name: gradient / 256.0 for name, gradient in steps[1][1].items()}
    assert_equal_steps(steps[0], (steps[1][0], scaled, steps[1][2]))


@pytest.mark.parametrize("options", [{"gradient_accumulation_steps": 2}, {"bf16": True}], ids=["accumulate", "bf16"])
def test_whole_runs_agree(trainer, options):
    runs = [trainer(gradient_cache_tokens=size, max_steps=3, **options) for size in (None, 120)]
    logs = []
    for run in runs:
        run.train()
        logs.append([record for record in run.state.log_history if "loss" in record])
    tolerance = 2e-2 if "bf16" in options else 1e-4
    for one, other in zip(*logs, strict=True):
        for name in ("loss", "wpcl", "crtr", "grad_norm", "grad_norm_text", "grad_norm_image"):
            assert one[name] == pytest.approx(other[name], rel=tolerance), name
    weights = [dict(run.model.named_parameters()) for run in runs]
    assert all(
        torch.allclose(weights[0][name], weights[1][name], atol=5e-3 if "bf16" in options else 1e-4)
        for name in weights[0]
    )


def test_a_batch_with_nothing_to_learn_is_a_step_of_zero_gradients(tiny, trainer, demo_dataset):
    from vlm2rec_hf import PreparedCatalogue

    model, processor = tiny()
    texts = [{"text": item["text"], "image": None} for item in demo_dataset.catalogue_items()]
    catalogue = PreparedCatalogue(texts, processor)
    run = trainer(model, processor, catalogue=catalogue, objective="image_only", gradient_cache_tokens=120)
    run.train()
    losses = [record for record in run.state.log_history if "loss" in record]
    assert [record["loss"] for record in losses] == [0.0, 0.0] and losses[0]["grad_norm"] == 0.0


def test_wrong_settings_are_refused(tiny, trainer, demo_dataset):
    with pytest.raises(ValueError, match="`gradient_cache_tokens` must be at least 1 or None, got 0"):
        trainer(gradient_cache_tokens=0)
