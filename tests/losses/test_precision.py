"""Every loss compares vectors in float32, whatever they come in and whatever autocast would do."""

import pytest
import torch
from torch.nn.functional import normalize

from vlm2rec_hf.losses import NextItemLoss, alignment_loss, gbce, sampled_softmax
from vlm2rec_hf.losses.pixrec import PixRecLoss
from vlm2rec_hf.losses.similarity import products

N, D = 12, 48


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixrec(make):
    vectors = [make(normalize(draw(N, D, seed=seed), dim=-1)) for seed in range(3)]
    loss = PixRecLoss(0.4, 0.4, 0.01)
    return loss(*vectors, make(draw(5).abs()), target_ids=torch.arange(N)).total


def aligned(targets):
    def loss(make):
        present = torch.ones(N, 3, dtype=torch.bool)
        return alignment_loss(make(draw(N, 3, D)), present, temperature=0.01, targets=targets, soft_temperature=0.01)

    return loss


def head(function, shape):
    def loss(make):
        hidden, items = make(3 * draw(N, D)), make(3 * draw(40, D, seed=1))
        generator = torch.Generator().manual_seed(2)
        negatives = torch.randint(40, shape, generator=generator)
        return function(hidden, items, torch.arange(N), negatives)

    return loss


def cross_entropy(make):
    return NextItemLoss()(make(3 * draw(N, D)), make(3 * draw(40, D, seed=1)), torch.arange(N))


LOSSES = {
    "pixrec": pixrec, "hard": aligned("hard"), "soft": aligned("soft"), "cross_entropy": cross_entropy,
    "sampled": head(sampled_softmax, (9,)), "gbce": head(gbce, (9,)), "gbce_each": head(gbce, (N, 9)),
}  # fmt: skip


@pytest.mark.parametrize("kept", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_those_of_float64_under_autocast(name, kept):
    found = []

    def low(values):
        found.append(values.to(kept).requires_grad_())
        return found[-1]

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = LOSSES[name](low)
    exact = []

    def high(values):
        exact.append(values.to(kept).double().requires_grad_())
        return exact[-1]

    wanted = LOSSES[name](high)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(wanted.detach()), rel=2e-5)
    loss.backward()
    wanted.backward()
    for ours, theirs in zip(found, exact, strict=True):
        error = (ours.grad.double() - theirs.grad).abs().max() / theirs.grad.abs().max()
        assert error < (1e-4 if kept == torch.float32 else 2e-2)  # a gradient is kept as its vector is


def test_products_are_inner_products():
    first, second = draw(4, D).bfloat16(), draw(5, D, seed=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = products(first, second)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), first.double() @ second.double().T, rtol=1e-5, atol=1e-5)
    assert products(first.double(), second.double()).dtype == torch.float64
