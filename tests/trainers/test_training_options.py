"""Attention, precision, compilation and checkpointing in training: the same step, as near as the precision allows."""

import pytest
import torch

from .test_gradient_cache import assert_equal_steps, one_step


@pytest.fixture
def step(tiny, trainer):
    def make(attention="eager", compiled=False, dtype=torch.float32, **options):
        model, processor = tiny()
        model.set_attn_implementation(attention)
        run = trainer(model.to(dtype), processor, **options)
        if compiled:
            # Traced forwards and backwards, but run without generated code, which would need a C++ compiler.
            torch._dynamo.reset()
            torch._dynamo.utils.counters.clear()
            for layer in run.model.vlm.language_model.layers:
                layer.compile(backend="aot_eager", dynamic=True)
        found = one_step(run)
        assert not compiled or torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
        return found

    return make


@pytest.fixture
def reference(step):
    return step()


@pytest.mark.parametrize(
    ("attention", "compiled", "checkpointing"),
    [("eager", False, False), ("eager", False, True), ("sdpa", False, False), ("sdpa", False, True),
     ("sdpa", True, False), pytest.param("sdpa", True, True, marks=pytest.mark.slow)],
)  # fmt: skip
def test_a_step_is_the_same(step, reference, attention, compiled, checkpointing):
    found = step(attention, compiled, gradient_checkpointing=checkpointing)
    assert_equal_steps(reference, found)


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("how", ["autocast", "weights"])
def test_bfloat16_steps_are_near(step, reference, attention, how, checkpointing):
    options = {"bf16": True} if how == "autocast" else {"dtype": torch.bfloat16}
    loss, gradients, _ = step(attention, gradient_checkpointing=checkpointing, **options)
    assert float(loss) == pytest.approx(float(reference[0]), rel=0.1)
    one, other = (
        torch.cat([g[name].float().flatten() for name in sorted(reference[1])]) for g in (reference[1], gradients)
    )
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.9
    if how == "weights":
        assert {gradient.dtype for gradient in gradients.values()} == {torch.bfloat16}
