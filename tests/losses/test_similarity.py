"""Views and their cosines: naive loop, absence, zero rows, precision."""

import pytest
import torch

from vlm2rec_hf.losses import ViewVectors, unit_rows, view_similarities

from . import naive
from .batches import make_batch


def test_all_views_equal_the_loop():
    batch = make_batch(seed=1)
    users, candidates = batch["users"], batch["candidates"]
    got = view_similarities(users, candidates)
    for u in range(len(users)):
        for j in range(len(candidates)):
            torch.testing.assert_close(got.both[u, j], naive.similarity(users, candidates, u, j, "both"))
            for m in ("text", "image"):
                both_have = naive.has(users, m, u) and naive.has(candidates, m, j)
                want = float(naive.similarity(users, candidates, u, j, m).detach()) if both_have else 0.0
                assert float(getattr(got, m)[u, j].detach()) == pytest.approx(want)


def test_fused_is_the_sum_of_the_present_parts():
    batch = make_batch(seed=2)
    users = batch["users"]
    assert torch.equal(users.fused[0], users.text[0] + users.image[0])
    assert torch.equal(users.fused[1], users.image[1])
    assert torch.equal(users.fused[3], users.text[3])


def test_from_raw_normalises():
    views = ViewVectors.from_raw(torch.randn(5, 3), torch.randn(5, 3), has_image=torch.arange(5) < 2)
    torch.testing.assert_close(views.text.norm(dim=1), torch.ones(5))
    assert views.has_text.all() and views.has_image.sum() == 2 and len(views) == 5


def test_zero_rows_stay_zero_with_zero_gradient():
    raw = torch.randn(4, 3, requires_grad=True)
    with torch.no_grad():
        raw[1] = 0
    unit = unit_rows(raw)
    assert (unit[1] == 0).all()
    unit.sum().backward()
    assert (raw.grad[1] == 0).all() and torch.isfinite(raw.grad).all() and (raw.grad[0] != 0).any()


def test_opposite_modalities_cancel_without_nan():
    text = unit_rows(torch.randn(3, 4)).requires_grad_()
    present = torch.ones(3, dtype=torch.bool)
    views = ViewVectors(text, -text, present, present)
    both = view_similarities(views, views).both
    assert (both == 0).all()
    both.sum().backward()
    assert torch.isfinite(text.grad).all()


def test_unit_rows_gradcheck():
    assert torch.autograd.gradcheck(unit_rows, torch.randn(3, 4, dtype=torch.float64, requires_grad=True))


def test_computed_in_float32_under_autocast_and_for_bfloat16():
    batch = make_batch(seed=3, dim=64, dtype=torch.bfloat16, missing=False)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = view_similarities(batch["users"], batch["candidates"])
    assert got.both.dtype == got.text.dtype == torch.float32
    want = batch["users"].text.double() @ batch["candidates"].text.double().T
    torch.testing.assert_close(got.text.double(), want, rtol=1e-6, atol=1e-6)


def test_only_the_views_asked_for_keep_a_graph():
    batch = make_batch(seed=4)
    got = view_similarities(batch["users"], batch["candidates"], with_gradient={"image"})
    assert got.image.requires_grad and not got.text.requires_grad and not got.both.requires_grad


def test_errors_name_the_argument():
    vectors, present = torch.zeros(2, 3), torch.ones(2, dtype=torch.bool)
    good = ViewVectors(vectors, vectors, present, present)
    with pytest.raises(ValueError, match="`text` and `image` must be matrices of one shape"):
        ViewVectors(vectors, torch.zeros(2, 4), present, present)
    with pytest.raises(ValueError, match="`has_image` must be a bool tensor"):
        ViewVectors(vectors, vectors, present, present.long())
    with pytest.raises(ValueError, match="`with_gradient` must be chosen from"):
        view_similarities(good, good, {"audio"})
    wide = ViewVectors(torch.zeros(2, 4), torch.zeros(2, 4), present, present)
    with pytest.raises(ValueError, match="vectors of one width, got 3 and 4"):
        view_similarities(good, wide)
