"""CRTR: closed forms, which side moves, who is left out."""

import math

import pytest
import torch
from torch.nn import functional

from vlm2rec_hf.losses import ModalityMargins, crtr, crtr_candidates, view_similarities

from .batches import make_batch


@pytest.fixture
def case():
    generator = torch.Generator().manual_seed(0)
    text, image = (
        torch.rand(4, 6, generator=generator, dtype=torch.float64).mul(2).sub(1).requires_grad_() for _ in range(2)
    )
    valid = torch.rand(4, 6, generator=generator) < 0.7
    valid[:, :2] = True
    return text, image, valid


def margins_of(text, image, comparable=(True, True, True, True)):
    known = torch.tensor(comparable)
    return ModalityMargins(torch.tensor(text), torch.tensor(image), known, known)


def test_equals_torch_kl_div(case):
    text, image, valid = case
    loss, counted = crtr(text, image, valid, 0.2)
    assert counted.all()
    for u in range(4):
        log_t = (text[u][valid[u]] / 0.2).log_softmax(0)
        log_v = (image[u][valid[u]] / 0.2).log_softmax(0)
        want = functional.kl_div(log_v, log_t, log_target=True, reduction="sum")
        want = want + functional.kl_div(log_t, log_v, log_target=True, reduction="sum")
        torch.testing.assert_close(loss[u], want / 2)


def test_two_candidates_closed_form():
    """KL both ways between (p, 1-p) and (1/2, 1/2), halved, is (p - 1/2) * log(p / (1 - p)) / 2."""
    text, image = torch.tensor([[0.3, 0.1]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)
    p = 1 / (1 + math.exp(-0.2 / 0.1))
    loss, _ = crtr(text, image, torch.ones(1, 2, dtype=torch.bool), 0.1)
    assert float(loss) == pytest.approx((p - 0.5) * math.log(p / (1 - p)) / 2, rel=1e-12)


def test_equal_rankings_cost_nothing_and_shifts_do_not_matter(case):
    text, image, valid = case
    loss, _ = crtr(text, text.detach().clone(), valid, 0.1)
    assert (loss == 0).all()
    torch.testing.assert_close(crtr(text + 0.4, image, valid, 0.1)[0], crtr(text, image, valid, 0.1)[0])


def test_never_negative_in_float32():
    text = torch.rand(64, 128)
    loss, _ = crtr(text, text + 1e-7 * torch.randn(64, 128), torch.ones(64, 128, dtype=torch.bool), 0.01)
    assert (loss >= 0).all()


def test_gradcheck(case):
    text, image, valid = case
    valid[2] = False
    valid[3] = torch.arange(6) == 4
    assert torch.autograd.gradcheck(lambda t, v: crtr(t, v, valid, 0.5)[0], (text, image))


def test_strong_side_is_constant(case):
    text, image, valid = case
    margins = margins_of([0.5, 0.1, 0.2, 0.9], [0.2, 0.4, 0.2, 0.1], (True, True, True, False))
    loss, counted = crtr(text, image, valid, 0.3, "strong", margins)
    free, _ = crtr(text, image, valid, 0.3)
    torch.testing.assert_close(loss[:3], free[:3])
    assert counted.tolist() == [True, True, True, False] and loss[3] == 0
    got = torch.autograd.grad(loss.sum(), (text, image))
    full = torch.autograd.grad(free.sum(), (text, image))
    assert (got[0][0] == 0).all() and (got[1][1] == 0).all(), "the stronger modality does not move"
    torch.testing.assert_close(got[1][0], full[1][0])
    torch.testing.assert_close(got[0][1], full[0][1])
    torch.testing.assert_close(torch.stack([got[0][2], got[1][2]]), torch.stack([full[0][2], full[1][2]]))
    assert (got[0][3] == 0).all() and (got[1][3] == 0).all(), "no margins to compare: left out"


def test_users_with_fewer_than_two_candidates_are_left_out(case):
    text, image, valid = case
    valid[1] = False
    valid[2] = torch.arange(6) == 3
    loss, counted = crtr(text, image, valid, 0.01)
    assert counted.tolist() == [True, False, False, True]
    for gradient in torch.autograd.grad(loss.sum(), (text, image)):
        assert (gradient[1:3] == 0).all() and torch.isfinite(gradient).all() and (gradient[0] != 0).any()


def test_masked_candidates_do_not_matter(case):
    text, image, valid = case
    want, _ = crtr(text, image, valid, 0.2)
    got, _ = crtr(torch.where(valid, text, 9.0), torch.where(valid, image, -9.0), valid, 0.2)
    torch.testing.assert_close(got, want)


def test_candidates_are_target_and_negatives_with_both_modalities():
    batch = make_batch(seed=1)
    views = view_similarities(batch["users"], batch["candidates"])
    negatives = torch.rand(6, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    got = crtr_candidates(views, batch["positive"], negatives)
    users, candidates = batch["users"], batch["candidates"]
    for u in range(6):
        for j in range(9):
            ranked = bool(negatives[u, j]) or j == int(batch["positive"][u])
            whole = [bool(v.has_text[i] & v.has_image[i]) for v, i in ((users, u), (candidates, j))]
            assert bool(got[u, j]) == (ranked and all(whole))


def test_errors_name_the_argument(case):
    text, image, valid = case
    with pytest.raises(ValueError, match="`stop_gradient` must be one of"):
        crtr(text, image, valid, 0.1, "weak")
    with pytest.raises(ValueError, match="`margins` must be per-user margins .* got None"):
        crtr(text, image, valid, 0.1, "strong")
    with pytest.raises(ValueError, match="`temperature_r` must be above 0"):
        crtr(text, image, valid, 0.0)
    with pytest.raises(ValueError, match="must have one shape"):
        crtr(text, image[:, :3], valid, 0.1)
