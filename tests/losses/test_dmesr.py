"""The alignment loss against float64 loops, and what it must not do."""

import math
from itertools import combinations

import pytest
import torch

from vlm2rec_hf.losses import alignment_loss


def naive(vectors, present, same, tau, targets, tau_soft):
    """The definition, number by number."""
    n, k, _ = vectors.shape
    unit = [[(vectors[i][a] / vectors[i][a].norm()).tolist() for a in range(k)] for i in range(n)]

    def dot(x, y):
        return sum(p * q for p, q in zip(x, y, strict=True))

    losses = []
    for a, b in combinations(range(k), 2):
        rows = [i for i in range(n) if present[i][a] and present[i][b]]
        if len(rows) < 2:
            continue
        for x, y in ((a, b), (b, a)):
            total = 0.0
            for i in rows:
                others = [j for j in rows if j == i or (same[i][a] != same[j][a] and same[i][b] != same[j][b])]
                scores = [dot(unit[i][x], unit[j][y]) / tau for j in others]
                top = max(scores)
                log_sum = top + math.log(sum(math.exp(s - top) for s in scores))
                if targets == "hard":
                    wanted = [float(j == i) for j in others]
                else:
                    alike = [dot(unit[i][a], unit[j][a]) + dot(unit[i][b], unit[j][b]) for j in others]
                    mean = [value / (2 * tau_soft) for value in alike]
                    mass = sum(math.exp(m) for m in mean)
                    wanted = [math.exp(m) / mass for m in mean]
                total -= sum(w * (s - log_sum) for w, s in zip(wanted, scores, strict=True))
            losses.append(total / len(rows))
    return sum(losses) / len(losses)


def batch(seed=0, n=9):
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, 3, 5, generator=generator, dtype=torch.float64)
    present = torch.rand(n, 3, generator=generator) < 0.75
    same = torch.randint(5, (n, 3), generator=generator)
    return vectors, present, same


@pytest.mark.parametrize("targets", ["hard", "soft"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_definition(targets, seed):
    vectors, present, same = batch(seed)
    result = alignment_loss(vectors, present, same, temperature=0.3, targets=targets, soft_temperature=0.2)
    assert float(result) == pytest.approx(naive(vectors, present, same, 0.3, targets, 0.2), rel=1e-10)
    alone = torch.arange(len(vectors))[:, None].expand(-1, 3)
    result = alignment_loss(vectors, present, temperature=0.3, targets=targets, soft_temperature=0.2)
    assert float(result) == pytest.approx(naive(vectors, present, alone, 0.3, targets, 0.2), rel=1e-10)


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_the_gradient_is_right_and_absent_descriptions_get_none(targets):
    vectors, present, same = batch(1, n=5)
    vectors.requires_grad_()
    if targets == "hard":  # the soft targets are constants to the loss, not to finite differences
        assert torch.autograd.gradcheck(lambda v: alignment_loss(v, present, same, temperature=0.5), (vectors,))
    alignment_loss(vectors, present, same, targets=targets).backward()
    assert torch.isfinite(vectors.grad).all() and vectors.grad[present].abs().sum() > 0
    assert (vectors.grad[~present] == 0).all()


def test_scale_and_order_do_not_matter():
    vectors, present, same = batch(2)
    loss = float(alignment_loss(vectors, present, same))
    order = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(0))
    assert float(alignment_loss(vectors[order] * 7, present[order], same[order])) == pytest.approx(loss, rel=1e-10)
    assert float(alignment_loss(vectors.flip(1), present.flip(1), same.flip(1))) == pytest.approx(loss, rel=1e-10)


def test_aligned_descriptions_cost_nothing_and_equal_ones_are_not_pushed_apart():
    eye = torch.eye(4, dtype=torch.float64)[:, None].expand(-1, 3, -1)
    everywhere = torch.ones(4, 3, dtype=torch.bool)
    assert float(alignment_loss(eye, everywhere, temperature=0.02)) < 1e-9
    alike = torch.zeros(4, 3, dtype=torch.int64)  # one description for all: nobody else is a candidate
    vectors = torch.randn(4, 3, 6, dtype=torch.float64)
    assert float(alignment_loss(vectors, everywhere, alike)) == 0.0
    assert float(alignment_loss(vectors, everywhere)) > 0.1


def test_nothing_to_align_is_zero_with_a_graph():
    vectors = torch.randn(3, 3, 4, requires_grad=True)
    loss = alignment_loss(vectors, torch.zeros(3, 3, dtype=torch.bool))
    loss.backward()
    assert float(loss.detach()) == 0.0 and (vectors.grad == 0).all()


def test_bad_arguments_are_named():
    vectors, present, same = batch()
    for arguments, options, message in [
        ((vectors[:, 0], present), {}, "`vectors`"),
        ((vectors, present[:, :2]), {}, "`present`"),
        ((vectors, present, same[:3]), {}, "`same`"),
        ((vectors, present), {"targets": "fuzzy"}, "`targets`.*'fuzzy'"),
        ((vectors, present), {"temperature": 0.0}, "`temperature`"),
        ((vectors, present), {"soft_temperature": -1.0}, "`soft_temperature`"),
    ]:
        with pytest.raises(ValueError, match=message):
            alignment_loss(*arguments, **options)
