"""WPCL: who receives which gradient, closed forms, finite differences with the strong side frozen."""

import math

import pytest
import torch

from vlm2rec_hf.losses import (
    ModalityMargins,
    ViewVectors,
    info_nce,
    log_omega,
    margin_gap,
    modality_margins,
    negative_mask,
    view_similarities,
    wpcl,
)

from .batches import gradients, leaves, make_batch, swapped

FORMS = ["mean", "hardest", "logmeanexp", "logprob"]


def prepare(batch):
    names = ("target_ids", "candidate_ids", "positive", "history_ids")
    views = view_similarities(batch["users"], batch["candidates"])
    return views, batch["positive"], negative_mask(*(batch[name] for name in names))


def margins_of(text, image, comparable=None):
    present = torch.ones(len(text), dtype=torch.bool)
    return ModalityMargins(text, image, present if comparable is None else comparable, present)


def test_gap_by_hand():
    text = torch.tensor([0.5, 0.1, 0.3, 0.9], requires_grad=True)
    image = torch.tensor([0.2, 0.4, 0.3, 0.0], requires_grad=True)
    gap = margin_gap(margins_of(text, image, torch.tensor([True, True, True, False])))
    torch.testing.assert_close(gap.detach(), torch.tensor([0.3, 0.3, 0.0, 0.0]))
    gap.sum().backward()
    assert image.grad.tolist() == [-1.0, 0.0, 0.0, 0.0], "weak only; nothing at a tie or where a modality is missing"
    assert text.grad.tolist() == [0.0, -1.0, 0.0, 0.0]


def test_penalties_by_hand():
    gap = torch.tensor([0.0, 0.5])
    torch.testing.assert_close(log_omega(gap, 4.0, "exp").exp(), torch.tensor([1.0, math.exp(2.0)]))
    torch.testing.assert_close(log_omega(gap, 4.0, "linear").exp(), torch.tensor([1.0, 3.0]))


@pytest.mark.parametrize("form", FORMS)
def test_the_weak_margin_receives_lambda_times_one_minus_p_and_the_strong_one_nothing(form):
    """Gradient with respect to the single-view similarities, which the fused InfoNCE does not touch."""
    batch = make_batch(seed=0, missing=False)
    views, positive, negatives = prepare(batch)
    output = wpcl(views, positive, negatives, temperature=0.2, strength=3.0, margin=form)
    got = torch.autograd.grad(output.per_user.sum(), (views.text, views.image), retain_graph=True)
    factor = 3.0 * (1 - (-output.per_user.detach()).exp())
    margins = modality_margins(views, positive, negatives, temperature=0.2, margin=form)
    for similarity, gradient, margin, other in (
        (views.text, got[0], margins.text, margins.image),
        (views.image, got[1], margins.image, margins.text),
    ):
        weak = margin < other
        (unit,) = torch.autograd.grad(margin.sum(), similarity, retain_graph=True)
        torch.testing.assert_close(gradient, torch.where(weak[:, None], -factor[:, None] * unit, 0.0))
        assert (gradient[~weak] == 0).all() and (gradient[weak] != 0).any(dim=1).all()
    assert 0 < int((margins.image < margins.text).sum()) < 6, "both modalities are somebody's weak one"


@pytest.mark.parametrize("scope", ["user", "pair"])
def test_detach_both_leaves_only_the_fused_gradient_with_constant_weights(scope):
    batch = make_batch(seed=2)
    views, positive, negatives = prepare(batch)
    output = wpcl(views, positive, negatives, temperature=0.2, strength=3.0, detach="both", scope=scope)
    want = info_nce(views.both, positive, negatives, 0.2, output.log_omega)
    assert torch.equal(output.per_user, want) and (output.log_omega > 0).any()
    for got, expected in zip(gradients(output.per_user.sum(), batch), gradients(want.sum(), batch), strict=True):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("scope", ["user", "pair"])
@pytest.mark.parametrize("penalty", ["exp", "linear"])
def test_finite_differences_with_the_strong_margins_frozen(scope, penalty):
    batch = make_batch(seed=3)
    views, positive, negatives = prepare(batch)
    settings = {"temperature": 0.3, "margin": "mean", "scope": scope}
    frozen = modality_margins(views, positive, negatives, **settings).detach()
    text_is_strong = frozen.text >= frozen.image

    def loss(*matrices):
        users = ViewVectors(*matrices[:2], batch["users"].has_text, batch["users"].has_image)
        candidates = ViewVectors(*matrices[2:], batch["candidates"].has_text, batch["candidates"].has_image)
        now = view_similarities(users, candidates)
        moving = modality_margins(now, positive, negatives, **settings)
        mixed = ModalityMargins(
            torch.where(text_is_strong, frozen.text, moving.text),
            torch.where(text_is_strong, moving.image, frozen.image),
            moving.has_text,
            moving.has_image,
        )
        weight = log_omega(margin_gap(mixed), 2.0, penalty)
        return info_nce(now.both, positive, negatives, 0.3, weight).sum()

    got = gradients(wpcl(views, positive, negatives, strength=2.0, penalty=penalty, **settings).per_user.sum(), batch)
    matrices = [x.detach().clone() for x in leaves(batch)]
    step = 1e-5
    for k, gradient in enumerate(got):
        for place in [(0, 0), (2, 1), (4, 3), (5, 2)]:
            ends = []
            for sign in (1, -1):
                moved = [x.clone() for x in matrices]
                moved[k][place] += sign * step
                ends.append(float(loss(*moved)))
            assert float(gradient[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-8, rel=1e-6)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["user", "pair"])
def test_equal_modalities_have_weight_exactly_one(form, scope):
    batch = make_batch(seed=4, missing=False, dtype=torch.float32)
    for name in ("users", "candidates"):
        text = batch[name].text
        batch[name] = ViewVectors(text, text.detach().clone(), batch[name].has_text, batch[name].has_image)
    views, positive, negatives = prepare(batch)
    output = wpcl(views, positive, negatives, temperature=0.05, strength=9.0, margin=form, scope=scope)
    assert (output.log_omega == 0).all()
    assert torch.equal(output.per_user, info_nce(views.both, positive, negatives, 0.05))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["user", "pair"])
def test_exchanging_the_modalities_exchanges_the_margins(form, scope):
    batch = make_batch(seed=5)
    other = {**batch, "users": swapped(batch["users"]), "candidates": swapped(batch["candidates"])}
    settings = {"temperature": 0.1, "margin": form, "scope": scope}
    one, two = modality_margins(*prepare(batch), **settings), modality_margins(*prepare(other), **settings)
    assert torch.equal(one.text, two.image) and torch.equal(one.has_text, two.has_image)
    assert torch.equal(one.image, two.text) and torch.equal(one.comparable, two.comparable)


def test_forms_are_ordered_and_meet_at_their_limits():
    views, positive, negatives = prepare(make_batch(seed=6, missing=False))

    def text(form, tau):
        return modality_margins(views, positive, negatives, temperature=tau, margin=form).text

    assert (text("hardest", 0.1) <= text("logmeanexp", 0.1)).all()
    assert (text("logmeanexp", 0.1) <= text("mean", 0.1)).all()
    torch.testing.assert_close(text("logmeanexp", 1e-4), text("hardest", 1e-4), atol=1e-3, rtol=0)
    torch.testing.assert_close(text("logmeanexp", 1e4), text("mean", 1e4), atol=1e-3, rtol=0)
    assert (text("logprob", 0.1) < 0).all()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("scope", ["user", "pair"])
def test_a_missing_modality_means_weight_one_and_no_gradient_from_the_weight(form, scope):
    batch = make_batch(seed=7)
    views, positive, negatives = prepare(batch)
    output = wpcl(views, positive, negatives, temperature=0.2, strength=3.0, margin=form, scope=scope)
    users, candidates = batch["users"], batch["candidates"]
    whole_target = (candidates.has_text & candidates.has_image)[positive]
    incomplete = ~(users.has_text & users.has_image & whole_target)
    assert 0 < incomplete.sum() < 6
    assert (output.log_omega[incomplete] == 0).all() and (output.log_omega[~incomplete] > 0).any()
    got = torch.autograd.grad(output.per_user.sum(), (views.text, views.image), retain_graph=True)
    assert all((gradient[incomplete] == 0).all() for gradient in got)
    assert (got[0][:, ~candidates.has_text] == 0).all() and (got[1][:, ~candidates.has_image] == 0).all()


def test_margins_gradcheck():
    batch = make_batch(seed=8)
    _, positive, negatives = prepare(batch)
    negatives[2] = False

    def function(*matrices):
        users = ViewVectors(*matrices[:2], batch["users"].has_text, batch["users"].has_image)
        candidates = ViewVectors(*matrices[2:], batch["candidates"].has_text, batch["candidates"].has_image)
        views = view_similarities(users, candidates)
        return tuple(
            part
            for form in FORMS
            for scope in ("user", "pair")
            for margins in [modality_margins(views, positive, negatives, temperature=0.3, margin=form, scope=scope)]
            for part in (margins.text, margins.image)
        )

    assert torch.autograd.gradcheck(function, leaves(batch))


def test_errors_name_the_argument():
    views, positive, negatives = prepare(make_batch(seed=9))
    for arguments, message in (
        ({"margin": "max"}, "`margin` must be one of"),
        ({"scope": "item"}, "`scope` must be one of"),
        ({"penalty": "log"}, "`penalty` must be one of"),
        ({"detach": "weak"}, "`detach` must be one of"),
        ({"strength": -1.0}, r"`strength` \(lambda\) must be at least 0, got -1.0"),
        ({"temperature": -0.1}, "`temperature` must be above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            wpcl(views, positive, negatives, **{"temperature": 0.1, "strength": 1.0, **arguments})
