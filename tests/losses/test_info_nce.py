"""InfoNCE: closed forms, bit equality, empty rows, gradients."""

import math

import pytest
import torch
from torch.nn import functional

from vlm2rec_hf.losses import info_nce, mean_over_users, unimodal_info_nce, view_similarities

from .batches import make_batch


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    similarity = torch.rand(5, 8, generator=generator, dtype=torch.float64).mul(2).sub(1).requires_grad_()
    positive = torch.tensor([4, 0, 1, 7, 2])
    negatives = torch.rand(5, 8, generator=generator) < 0.6
    negatives.scatter_(1, positive[:, None], False)
    return similarity, positive, negatives


def test_equal_similarities_give_the_log_of_the_number_of_candidates(case):
    _, positive, negatives = case
    loss = info_nce(torch.full((5, 8), 0.3), positive, negatives, 0.05)
    torch.testing.assert_close(loss, negatives.sum(dim=1).add(1).float().log())
    everyone = ~torch.eye(6, dtype=torch.bool)
    torch.testing.assert_close(
        info_nce(torch.zeros(6, 6), torch.arange(6), everyone, 0.01), torch.full((6,), math.log(6))
    )


def test_without_mask_it_is_cross_entropy(case):
    similarity, positive, _ = case
    everything = torch.ones(5, 8, dtype=torch.bool)  # the positive's own column is taken out by the loss itself
    want = functional.cross_entropy(similarity / 0.1, positive, reduction="none")
    assert torch.equal(info_nce(similarity, positive, everything, 0.1), want)


def test_weight_two_counts_a_negative_twice(case):
    similarity, positive, negatives = case
    log_weight = torch.full((5, 8), math.log(2.0), dtype=torch.float64)
    doubled = torch.cat([similarity, similarity], dim=1), torch.cat([negatives, negatives], dim=1)
    want = info_nce(doubled[0], positive, doubled[1], 0.1)
    torch.testing.assert_close(info_nce(similarity, positive, negatives, 0.1, log_weight), want)
    torch.testing.assert_close(info_nce(similarity, positive, negatives, 0.1, log_weight[:, 0]), want)


def test_the_positive_is_never_weighted_even_if_marked_as_a_negative(case):
    similarity, positive, negatives = case
    marked = negatives.scatter(1, positive[:, None], True)
    log_weight = torch.full((5,), 2.0, dtype=torch.float64)
    got = info_nce(similarity, positive, marked, 0.1, log_weight)
    assert torch.equal(got, info_nce(similarity, positive, negatives, 0.1, log_weight))


@pytest.mark.parametrize("shape", [(5,), (5, 8)])
def test_log_weight_zero_is_bit_equal_to_none(case, shape):
    similarity, positive, negatives = (x.detach() for x in case)
    similarity = similarity.float().requires_grad_()
    plain = info_nce(similarity, positive, negatives, 0.01)
    weighted = info_nce(similarity, positive, negatives, 0.01, torch.zeros(shape, requires_grad=True))
    assert torch.equal(plain, weighted)
    assert torch.equal(
        torch.autograd.grad(plain.sum(), similarity)[0], torch.autograd.grad(weighted.sum(), similarity)[0]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_users_without_negatives_have_loss_and_gradient_zero(case, dtype, weighted):
    similarity, positive, negatives = case
    similarity = similarity.detach().to(dtype).requires_grad_()
    negatives[1] = False
    log_weight = torch.ones(5, requires_grad=True) if weighted else None
    loss = info_nce(similarity, positive, negatives, 0.01, log_weight)
    assert loss.dtype == torch.float32
    assert float(loss[1].detach()) == 0.0
    loss.sum().backward()
    assert (similarity.grad[1] == 0).all() and torch.isfinite(similarity.grad).all()
    assert (similarity.grad[0] != 0).any()
    if log_weight is not None:
        assert log_weight.grad[1] == 0 and torch.isfinite(log_weight.grad).all()


def test_gradient_of_log_weight_is_one_minus_the_probability_of_the_positive(case):
    similarity, positive, negatives = case
    log_weight = torch.linspace(0, 1, 5, dtype=torch.float64, requires_grad=True)
    loss = info_nce(similarity, positive, negatives, 0.2, log_weight)
    (gradient,) = torch.autograd.grad(loss.sum(), log_weight, retain_graph=True)
    torch.testing.assert_close(gradient, 1 - (-loss.detach()).exp())


def test_gradcheck(case):
    similarity, positive, negatives = case
    negatives[3] = False
    log_weight = torch.rand(5, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s, w: info_nce(s, positive, negatives, 0.3, w), (similarity, log_weight))


def test_unimodal_leaves_out_users_targets_and_negatives_without_the_modality():
    batch = make_batch(seed=1)
    views = view_similarities(batch["users"], batch["candidates"])
    negatives = torch.ones(6, 9, dtype=torch.bool).scatter_(1, batch["positive"][:, None], False)
    loss, counted = unimodal_info_nce(views, "image", batch["positive"], negatives, 0.1)
    assert torch.equal(counted, batch["users"].has_image & batch["candidates"].has_image[batch["positive"]])
    assert 0 < counted.sum() < 6 and (loss[~counted] == 0).all() and (loss[counted] > 0).all()
    columns = batch["candidates"].has_image
    for u in counted.nonzero().flatten().tolist():
        row = (views.image[u] / 0.1)[columns]
        place = int(columns[: batch["positive"][u]].sum())
        torch.testing.assert_close(loss[u], row.logsumexp(0) - row[place])


def test_mean_over_users():
    per_user = torch.tensor([1.0, 3.0, float("nan")], requires_grad=True)
    mean = mean_over_users(per_user, torch.tensor([True, True, False]))
    assert float(mean.detach()) == 2.0
    mean.backward()
    assert per_user.grad.tolist() == [0.5, 0.5, 0.0]
    assert float(mean_over_users(per_user.detach(), torch.zeros(3, dtype=torch.bool))) == 0.0


def test_errors_name_the_argument(case):
    similarity, positive, negatives = case
    with pytest.raises(ValueError, match="`temperature` must be above 0, got 0"):
        info_nce(similarity, positive, negatives, 0)
    with pytest.raises(ValueError, match="`log_weight` must have the shape"):
        info_nce(similarity, positive, negatives, 0.1, torch.zeros(8))
    with pytest.raises(ValueError, match="`similarity` and `negatives` must have one shape"):
        info_nce(similarity, positive, negatives[:, :3], 0.1)
    views = view_similarities(*(make_batch(seed=1)[name] for name in ("users", "candidates")))
    with pytest.raises(ValueError, match="`modality` must be 'text' or 'image', got 'both'"):
        unimodal_info_nce(views, "both", positive, negatives, 0.1)
