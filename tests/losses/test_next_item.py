"""Losses of sequential heads against naive float64 loops and PyTorch's own cross-entropy."""

import math

import pytest
import torch

from vlm2rec_hf.losses import NextItemLoss, gbce, next_item, next_item_cross_entropy, sampled_softmax


def problem(n=23, m=37, d=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, d, generator=generator, dtype=dtype).requires_grad_()
    items = torch.randn(m, d, generator=generator, dtype=dtype).requires_grad_()
    return hidden, items, torch.randint(m, (n,), generator=generator)


def gradients(loss, *tensors):
    return torch.autograd.grad(loss, tensors)


@pytest.mark.parametrize("whole_rows", [2**14, 1])  # whole rows at once, or tiles of them
@pytest.mark.parametrize("block_scores", [1, 40, 200, 2**20])
def test_cross_entropy_equals_the_naive_one_whatever_the_block(monkeypatch, whole_rows, block_scores):
    monkeypatch.setattr(next_item, "WHOLE_ROWS", whole_rows)
    hidden, items, targets = problem()
    expected = torch.nn.functional.cross_entropy(hidden @ items.T, targets)
    result = next_item_cross_entropy(hidden, items, targets, block_scores=block_scores)
    assert result.item() == pytest.approx(expected.item(), abs=1e-12)
    for ours, theirs in zip(gradients(result * 3, hidden, items), gradients(expected * 3, hidden, items), strict=True):
        assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("whole_rows", [2**14, 1])
def test_cross_entropy_keeps_its_head_at_large_scores(monkeypatch, whole_rows):
    monkeypatch.setattr(next_item, "WHOLE_ROWS", whole_rows)
    hidden, items, targets = problem(dtype=torch.float32)
    hidden, items = (hidden * 200).detach().requires_grad_(), (items * 200).detach().requires_grad_()
    result = next_item_cross_entropy(hidden, items, targets, block_scores=50)
    expected = torch.nn.functional.cross_entropy((hidden.double() @ items.double().T), targets)
    assert float(result) == pytest.approx(float(expected), rel=1e-5)
    assert all(torch.isfinite(g).all() for g in gradients(result, hidden, items))


@pytest.mark.parametrize("frozen", ["hidden", "items"])
def test_cross_entropy_of_a_frozen_side(frozen):
    hidden, items, targets = problem()
    fixed = {"hidden": hidden.detach(), "items": items.detach()}[frozen]
    args = (fixed, items) if frozen == "hidden" else (hidden, fixed)
    moving = items if frozen == "hidden" else hidden
    (ours,) = gradients(next_item_cross_entropy(*args, targets), moving)
    (theirs,) = gradients(torch.nn.functional.cross_entropy(args[0] @ args[1].T, targets), moving)
    assert (ours - theirs).abs().max() < 1e-12


@pytest.mark.parametrize("whole_rows", [2**14, 1])
def test_cross_entropy_of_half_precision_is_rounded_behind_the_loss_scale(monkeypatch, whole_rows):
    """Before it most entries have a digit or two left in float16; scaled, they have all that it holds."""
    monkeypatch.setattr(next_item, "WHOLE_ROWS", whole_rows)
    scale, (hidden, items, targets) = 2.0**15, problem(n=500, m=4000, dtype=torch.float16)
    hidden, items = (hidden * 0.02).detach().requires_grad_(), (items * 0.02).detach().requires_grad_()
    ours = gradients(next_item_cross_entropy(hidden, items, targets) * scale, hidden, items)
    exact = hidden.detach().double().requires_grad_(), items.detach().double().requires_grad_()
    theirs = gradients(torch.nn.functional.cross_entropy(exact[0] @ exact[1].T, targets) * scale, *exact)
    untargeted = torch.bincount(targets, minlength=len(items)) == 0
    assert (theirs[1][untargeted].abs() / scale).max() < 2**-20  # steps there are 2**-24
    for found, wanted in ((ours[0], theirs[0]), (ours[1], theirs[1]), (ours[1][untargeted], theirs[1][untargeted])):
        assert found.dtype == torch.float16
        assert (found.double() - wanted).norm() < 1e-3 * wanted.norm()


def test_cross_entropy_of_uniform_scores_is_the_log_of_the_catalogue():
    result = next_item_cross_entropy(torch.zeros(4, 3), torch.randn(50, 3), torch.tensor([0, 1, 2, 49]))
    assert float(result) == pytest.approx(math.log(50), rel=1e-6)


def test_cross_entropy_holds_one_block_of_scores_at_a_time(monkeypatch):
    """Half a million scores would be 2 MB; no tensor beyond the two gradients comes near."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else [out]:
                if isinstance(tensor, torch.Tensor):
                    largest = max(largest, tensor.numel())
            return out

    hidden, items, targets = problem(n=500, m=1000, dtype=torch.float32)
    for whole_rows in (2**14, 1):
        monkeypatch.setattr(next_item, "WHOLE_ROWS", whole_rows)
        largest = 0
        with Watch():
            next_item_cross_entropy(hidden, items, targets, block_scores=8000).backward()
        assert largest <= 8000


def naive_sampled(hidden, items, targets, negatives, q):
    total, k = 0.0, len(negatives)
    for row, target in zip(hidden.tolist(), targets.tolist(), strict=True):

        def score(item, row=row):
            return sum(a * b for a, b in zip(row, items[item].tolist(), strict=True))

        own = score(target)
        others = [score(int(j)) - math.log(k * q[int(j)]) for j in negatives if int(j) != target]
        total -= own - math.log(sum(math.exp(s) for s in [own, *others]))
    return total / len(targets)


@pytest.mark.parametrize("popular", [False, True])
def test_sampled_softmax_equals_the_naive_one(popular):
    hidden, items, targets = problem()
    negatives = torch.tensor([0, 3, 3, 9, int(targets[0]), 30])
    q = torch.linspace(1, 5, len(items), dtype=torch.float64)
    q = q / q.sum() if popular else torch.full_like(q, 1 / len(items))
    result = sampled_softmax(hidden, items, targets, negatives, q.log() if popular else None)
    assert float(result) == pytest.approx(naive_sampled(hidden, items, targets, negatives, q.tolist()), abs=1e-5)


def test_sampled_softmax_with_log_q_estimates_the_full_one():
    hidden, items, targets = problem(n=200, m=60, seed=3)
    hidden = hidden.detach() * 0.5 + 0.5  # users like what is drawn often: uncorrected, the sum comes out too large
    q = items.detach().sum(dim=1).softmax(dim=0)
    negatives = torch.multinomial(q, 200_000, replacement=True, generator=torch.Generator().manual_seed(0))
    others = sampled_softmax(hidden, items, targets, negatives, q.log())
    full = next_item_cross_entropy(hidden, items, targets)
    plain = sampled_softmax(hidden, items, targets, negatives)
    assert abs(float(others - full)) < 0.03 < abs(float(plain - full))


@pytest.mark.parametrize("t", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("shared", [True, False])
def test_gbce_equals_the_naive_one(t, shared):
    hidden, items, targets = problem()
    k, m = 4, len(items)
    negatives = torch.randint(m, (k,) if shared else (len(hidden), k), generator=torch.Generator().manual_seed(1))
    alpha = k / (m - 1)
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    sigma = lambda s: 1 / (1 + math.exp(-s))  # noqa: E731
    total = 0.0
    for i, target in enumerate(targets.tolist()):
        own = float(hidden[i] @ items[target])
        total -= math.log(sigma(own) ** beta)
        for j in (negatives if shared else negatives[i]).tolist():
            if j != target:
                total -= math.log(1 - sigma(float(hidden[i] @ items[j])))
    assert float(gbce(hidden, items, targets, negatives, t)) == pytest.approx(total / len(hidden) / (1 + k), abs=1e-5)


def test_gbce_without_calibration_is_binary_cross_entropy():
    hidden, items, targets = problem()
    negatives = (targets[:, None] + 1) % len(items)
    own, other = (hidden * items[targets]).sum(1), (hidden * items[negatives[:, 0]]).sum(1)
    logits = torch.stack([own, other])
    labels = torch.stack([torch.ones_like(own), torch.zeros_like(own)])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
    assert float(gbce(hidden, items, targets, negatives, t=0.0)) == pytest.approx(float(expected), abs=1e-6)


def test_popularity_draws_follow_the_counts():
    counts = torch.tensor([0, 9, 0, 29])
    loss = NextItemLoss("sampled_softmax", negatives_from="popularity", counts=counts)
    torch.manual_seed(0)
    drawn = torch.bincount(loss.draw((40_000,), 4, torch.device("cpu")), minlength=4) / 40_000
    assert torch.allclose(drawn, torch.tensor([1, 10, 1, 30]) / 42, atol=0.01)


@pytest.mark.parametrize("name", ["cross_entropy", "sampled_softmax", "gbce", "bce"])
def test_every_loss_pulls_the_target_up(name):
    hidden, items, targets = problem(dtype=torch.float32)
    torch.manual_seed(0)
    (grad,) = gradients(NextItemLoss(name, n_negatives=3)(hidden, items, targets), hidden)
    toward = (grad * items.detach()[targets]).sum()
    assert toward < 0  # a step against the gradient raises the targets' scores


@pytest.mark.parametrize(
    "options, message",
    [
        ({"name": "softmax"}, "`loss`.*'softmax'"),
        ({"n_negatives": 0}, "`n_negatives`.*0"),
        ({"negatives_from": "batch"}, "`negatives_from`"),
        ({"name": "gbce", "negatives_from": "popularity"}, "corrects"),
        ({"name": "sampled_softmax", "negatives_from": "popularity"}, "`counts`"),
        ({"gbce_t": 2.0}, "`gbce_t`"),
    ],
)
def test_bad_switches_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        NextItemLoss(**options)


def test_bad_shapes_are_named():
    hidden, items, targets = problem()
    with pytest.raises(ValueError, match="`targets`"):
        next_item_cross_entropy(hidden, items, targets[:-1])
    with pytest.raises(ValueError, match="`hidden`.*`items`"):
        next_item_cross_entropy(hidden[:, :2], items, targets)
    with pytest.raises(ValueError, match="no position"):
        next_item_cross_entropy(hidden[:0], items, targets[:0])
    with pytest.raises(ValueError, match="`block_scores`"):
        next_item_cross_entropy(hidden, items, targets, block_scores=0)
    with pytest.raises(ValueError, match="`negatives`"):
        sampled_softmax(hidden, items, targets, targets[:0])
    with pytest.raises(ValueError, match="`negatives`"):
        gbce(hidden, items, targets, targets[:2, None])
    with pytest.raises(ValueError, match="`t`"):
        gbce(hidden, items, targets, targets, t=-1)
