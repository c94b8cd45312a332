"""`VLM2RecLoss` against the naive reference, and the properties every objective must have."""

import dataclasses
import itertools
import json
import math

import pytest
import torch

from vlm2rec_hf.losses import OBJECTIVES, Schedule, ViewVectors, VLM2RecLoss, info_nce, negative_mask

from . import naive
from .batches import gradients, leaves, make_batch, swapped

DIAGNOSTICS = {
    "margin_text", "margin_image", "gap", "weak_image_share", "comparable_share", "omega", "temperature", "lambda",
    "beta", "n_negatives", "n_skipped_users", "masked_false_negatives",
}  # fmt: skip
WPCL_SWITCHES = [
    dict(zip(("margin", "penalty", "detach", "scope"), values, strict=True))
    for values in itertools.product(
        ("mean", "hardest", "logmeanexp", "logprob"), ("exp", "linear"), ("strong", "both"), ("user", "pair")
    )
]
CONFIGS = (
    [{"objective": name} for name in OBJECTIVES]
    + [{"objective": "wpcl", **switches} for switches in WPCL_SWITCHES]
    + [
        {"objective": objective, "margin": margin, "scope": scope, "crtr_stop_gradient": stop}
        for objective in ("crtr", "wpcl+crtr")
        for margin in ("mean", "logprob")
        for scope in ("user", "pair")
        for stop in ("none", "strong")
    ]
    + [{"objective": "sft+unimodal", "unimodal_weight": 0.1}]
    + [{"objective": name, "cross_terms": False} for name in ("sft", "wpcl+crtr+unimodal")]
)


def config_id(config):
    return "-".join(str(value) for value in config.values())


@pytest.mark.parametrize("config", CONFIGS, ids=config_id)
def test_every_switch_equals_the_naive_reference_in_value_and_gradient(config):
    loss = VLM2RecLoss(**{"temperature": 0.2, "wpcl_lambda": 2.0, "crtr_temperature": 0.3, **config})
    batch = make_batch(seed=0)
    output = loss(**batch)
    expected = naive.terms(batch, loss.get_config_dict())
    assert output.terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value, rtol=1e-10, atol=1e-12)
    want = gradients(sum(expected.values()), batch)
    for got, reference in zip(gradients(output.total, batch), want, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-8, atol=1e-11)


LOG_Q = torch.linspace(-6, -0.5, 9, dtype=torch.float64)
"""Of the reference batch's nine candidates."""


@pytest.mark.parametrize("block", [None, 4])
@pytest.mark.parametrize(
    "config", CONFIGS[: len(OBJECTIVES)] + [CONFIGS[-1], {"objective": "wpcl", "scope": "pair"}], ids=config_id
)
def test_the_log_q_correction_equals_the_naive_reference(config, block):
    loss = VLM2RecLoss(**{"temperature": 0.2, "wpcl_lambda": 2.0, "crtr_temperature": 0.3, **config})
    batch = {**make_batch(seed=0), "candidate_log_q": LOG_Q}
    output, expected = loss(**batch, block=block), naive.terms(batch, loss.get_config_dict())
    for name, value in expected.items():
        torch.testing.assert_close(output.terms[name], value, rtol=1e-10, atol=1e-12)
    want = gradients(sum(expected.values()), batch)
    for got, reference in zip(gradients(output.total, batch), want, strict=True):
        torch.testing.assert_close(got, reference, rtol=1e-8, atol=1e-11)
    same = loss(**{**batch, "candidate_log_q": torch.full((9,), -3.0)})  # one q for all: no correction
    torch.testing.assert_close(same.total, loss(**make_batch(seed=0)).total)


def test_a_log_q_of_other_candidates_is_refused():
    with pytest.raises(ValueError, match="`candidate_log_q` must hold one number per candidate \\(9\\)"):
        VLM2RecLoss("sft")(**make_batch(seed=0), candidate_log_q=LOG_Q[:5])


def test_the_reference_batch_reaches_every_special_case():
    """Were the batch plain, the comparison above would prove little."""
    batch = make_batch(seed=0)
    output = VLM2RecLoss("wpcl", wpcl_lambda=2.0)(**batch)
    assert 0 < output.diagnostics["comparable_share"] < 1
    assert 0 < output.diagnostics["weak_image_share"] < 1
    assert output.diagnostics["masked_false_negatives"] > 0
    assert output.diagnostics["gap"] > 0.1
    users, target = batch["users"], batch["candidates"]
    assert any(users.has_text & users.has_image & ~target.has_image[batch["positive"]])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_diagnostics_are_complete_and_detached(objective):
    output = VLM2RecLoss(objective, wpcl_lambda=3.0, crtr_beta=0.5)(**make_batch(seed=2))
    assert output.diagnostics.keys() == DIAGNOSTICS
    for name, value in output.diagnostics.items():
        assert value.shape == () and not value.requires_grad and torch.isfinite(value), name
    assert float(output.diagnostics["lambda"]) == (3.0 if "wpcl" in objective else 0.0)
    assert float(output.diagnostics["beta"]) == (0.5 if "crtr" in objective else 0.0)
    assert (float(output.diagnostics["omega"]) == 1.0) == ("wpcl" not in objective)


def test_diagnostics_equal_the_naive_numbers():
    batch = make_batch(seed=3)
    loss = VLM2RecLoss("wpcl", wpcl_lambda=2.0, temperature=0.2, margin="hardest")
    got = loss(**batch).diagnostics
    n_users, n_candidates = len(batch["target_ids"]), len(batch["candidate_ids"])
    negatives = [naive.negatives_of(u, batch) for u in range(n_users)]
    mean = {
        m: [naive.margin(batch, u, m, negatives[u], "mean", 0.2) for u in range(n_users)] for m in ("text", "image")
    }
    for m, values in mean.items():
        values = [float(v.detach()) for v in values if v is not None]
        assert float(got[f"margin_{m}"]) == pytest.approx(sum(values) / len(values))
    hardest = [
        [naive.margin(batch, u, m, negatives[u], "hardest", 0.2) for m in ("text", "image")] for u in range(n_users)
    ]
    pairs = [(float(t.detach()), float(i.detach())) for t, i in hardest if t is not None and i is not None]
    assert float(got["gap"]) == pytest.approx(sum(abs(t - i) for t, i in pairs) / len(pairs))
    assert float(got["weak_image_share"]) == pytest.approx(sum(i < t for t, i in pairs) / len(pairs))
    n_skipped = n_users - len(pairs)
    weights = [math.exp(2.0 * abs(t - i)) for t, i in pairs] + [1.0] * n_skipped
    assert float(got["omega"]) == pytest.approx(sum(weights) / n_users)
    n_negatives = sum(map(len, negatives))
    assert float(got["n_negatives"]) == pytest.approx(n_negatives / n_users)
    assert float(got["masked_false_negatives"]) == pytest.approx(1 - n_negatives / (n_users * (n_candidates - 1)))
    assert float(got["n_skipped_users"]) == 0


def test_lambda_and_beta_zero_are_info_nce_bit_for_bit():
    batch = make_batch(seed=4, dtype=torch.float32)
    plain = VLM2RecLoss("sft")(**batch).total
    for penalty, margin, scope in itertools.product(("exp", "linear"), ("mean", "logprob"), ("user", "pair")):
        switches = {"penalty": penalty, "margin": margin, "scope": scope}
        zero = VLM2RecLoss("wpcl+crtr", wpcl_lambda=0.0, crtr_beta=0.0, **switches)(**batch).total
        assert torch.equal(plain, zero)
        for got, want in zip(gradients(zero, batch), gradients(plain, batch), strict=True):
            assert torch.equal(got, want)
    negatives = negative_mask(batch["target_ids"], batch["candidate_ids"], batch["positive"], batch["history_ids"])
    users, candidates = batch["users"].fused, batch["candidates"].fused
    cosine = torch.nn.functional.cosine_similarity(users[:, None], candidates[None], dim=-1)
    torch.testing.assert_close(plain, info_nce(cosine, batch["positive"], negatives, 0.05).mean())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_exchanging_the_modalities_exchanges_the_roles(objective):
    mirror = {"text_only": "image_only", "image_only": "text_only"}.get(objective, objective)
    batch = make_batch(seed=5)
    other = {**batch, "users": swapped(batch["users"]), "candidates": swapped(batch["candidates"])}
    one, two = VLM2RecLoss(objective)(**batch), VLM2RecLoss(mirror)(**other)
    torch.testing.assert_close(one.total, two.total, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.diagnostics["margin_text"], two.diagnostics["margin_image"])
    torch.testing.assert_close(one.diagnostics["weak_image_share"], 1 - two.diagnostics["weak_image_share"])
    for got, want in zip(gradients(one.total, batch), gradients(two.total, batch), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_order_of_users_and_candidates_does_not_matter(objective):
    batch = make_batch(seed=6)
    user_order, candidate_order = torch.randperm(6), torch.randperm(9)

    def take(vectors, order):
        return ViewVectors(
            vectors.text[order], vectors.image[order], vectors.has_text[order], vectors.has_image[order]
        )

    shuffled = {
        "users": take(batch["users"], user_order),
        "candidates": take(batch["candidates"], candidate_order),
        "target_ids": batch["target_ids"][user_order],
        "candidate_ids": batch["candidate_ids"][candidate_order],
        "positive": candidate_order.argsort()[batch["positive"][user_order]],
        "history_ids": batch["history_ids"][user_order],
    }
    loss = VLM2RecLoss(objective, scope="pair")
    one, two = loss(**batch).total, loss(**shuffled).total
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    for got, want in zip(gradients(one, batch), gradients(two, batch), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_absent_modalities_receive_no_gradient_and_do_not_change_the_loss(objective):
    batch = make_batch(seed=7)
    loss = VLM2RecLoss(objective)
    value = loss(**batch).total
    for matrix, has in zip(gradients(value, batch), presence(batch), strict=True):
        assert (matrix[~has] == 0).all()
        assert objective.endswith("_only") or (matrix[has] != 0).any()
    with torch.no_grad():
        for matrix, has in zip(leaves(batch), presence(batch), strict=True):
            matrix[~has] = float("nan")
    assert torch.equal(loss(**batch).total, value)


def presence(batch):
    users, candidates = batch["users"], batch["candidates"]
    return [users.has_text, users.has_image, candidates.has_text, candidates.has_image]


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("margin", ["mean", "hardest", "logmeanexp", "logprob"])
@pytest.mark.parametrize("scope", ["user", "pair"])
def test_stable_in_bfloat16_at_temperature_one_hundredth(objective, margin, scope):
    batch = make_batch(seed=8, dim=16, dtype=torch.bfloat16)
    loss = VLM2RecLoss(objective, temperature=0.01, crtr_temperature=0.01, margin=margin, scope=scope)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = loss(**batch)
    assert output.total.dtype == torch.float32
    assert all(torch.isfinite(value) for value in output.diagnostics.values())
    for gradient in gradients(output.total, batch):
        assert torch.isfinite(gradient).all()
    exact = {**batch, "users": in_float64(batch["users"]), "candidates": in_float64(batch["candidates"])}
    torch.testing.assert_close(output.total.double(), loss(**exact).total, rtol=1e-4, atol=1e-4)


def in_float64(vectors):
    return ViewVectors(vectors.text.double(), vectors.image.double(), vectors.has_text, vectors.has_image)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_without_any_negative_gives_loss_and_gradient_zero(objective, dtype):
    batch = make_batch(seed=9, missing=False, dtype=dtype)
    batch["history_ids"] = batch["candidate_ids"].expand(6, -1).clone()
    output = VLM2RecLoss(objective, temperature=0.01)(**batch)
    assert float(output.total.detach()) == 0.0
    assert all((gradient == 0).all() for gradient in gradients(output.total, batch))
    assert float(output.diagnostics["n_skipped_users"]) == 6
    assert float(output.diagnostics["n_negatives"]) == 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_some_users_without_negatives_do_not_dilute_the_others(objective):
    batch = make_batch(seed=10, missing=False, history=False)
    kept = {
        **batch,
        "users": ViewVectors(*(getattr(batch["users"], f.name)[1:] for f in dataclasses.fields(ViewVectors))),
        "target_ids": batch["target_ids"][1:],
        "positive": batch["positive"][1:],
    }
    batch["history_ids"] = torch.full((6, 9), -1)
    batch["history_ids"][0] = batch["candidate_ids"]
    loss = VLM2RecLoss(objective)
    with_skipped, without = loss(**batch), loss(**kept)
    torch.testing.assert_close(with_skipped.total, without.total)
    assert float(with_skipped.diagnostics["n_skipped_users"]) == 1
    assert (gradients(with_skipped.total, batch)[0][0] == 0).all()


def test_unequal_columns_marked_invalid_do_not_exist():
    batch = make_batch(seed=11)
    padded = dict(batch)
    padding = make_batch(seed=12, n_users=2, n_extra=0)["candidates"]
    padded["candidates"] = ViewVectors(
        *(torch.cat([getattr(batch["candidates"], f.name), getattr(padding, f.name)])
          for f in dataclasses.fields(ViewVectors))
    )  # fmt: skip
    padded["candidate_ids"] = torch.cat([batch["candidate_ids"], torch.tensor([77, 78])])
    valid = torch.arange(11) < 9
    loss = VLM2RecLoss("wpcl+crtr")
    one, two = loss(**batch), loss(**padded, candidate_valid=valid)
    torch.testing.assert_close(one.total, two.total)
    for name, value in one.diagnostics.items():
        torch.testing.assert_close(two.diagnostics[name], value, msg=name)


def test_schedules_follow_progress():
    batch = make_batch(seed=13)
    loss = VLM2RecLoss("wpcl+crtr", wpcl_lambda="linear:0->4@0.5", crtr_beta="linear:0->0.2@0.2-0.6")
    for progress, strength, beta in ((0.0, 0.0, 0.0), (0.25, 2.0, 0.025), (0.4, 3.2, 0.1), (1.0, 4.0, 0.2)):
        got = loss(**batch, progress=progress)
        want = VLM2RecLoss("wpcl+crtr", wpcl_lambda=strength, crtr_beta=beta)(**batch)
        torch.testing.assert_close(got.total, want.total)
        assert float(got.diagnostics["lambda"]) == pytest.approx(strength)
        assert float(got.diagnostics["beta"]) == pytest.approx(beta)


def test_lambda_widens_the_pull_on_the_weak_modality():
    """In a batch where images carry no signal, a larger lambda raises the images' share of the gradient."""
    batch = make_batch(seed=14, missing=False, history=False, dim=8)
    with torch.no_grad():
        batch["users"].text.copy_(batch["candidates"].text[batch["positive"]])
    shares = []
    for strength in (0.0, 2.0, 10.0):
        output = VLM2RecLoss("wpcl", wpcl_lambda=strength, temperature=0.2)(**batch)
        text, image = gradients(output.total, batch)[:2]
        shares.append(float(image.norm() / text.norm()))
    assert output.diagnostics["weak_image_share"] == 1
    assert shares[0] < shares[1] < shares[2]


def test_config_round_trip_is_json_and_the_same_loss():
    loss = VLM2RecLoss("wpcl+crtr", wpcl_lambda="linear:0->5@0.2", margin="logprob", scope="pair", temperature=0.1)
    again = VLM2RecLoss(**json.loads(json.dumps(loss.get_config_dict())))
    assert again.get_config_dict() == loss.get_config_dict()
    assert again.wpcl_lambda == Schedule.parse("linear:0->5@0.2")
    batch = make_batch(seed=15)
    assert torch.equal(loss(**batch, progress=0.1).total, again(**batch, progress=0.1).total)
    assert "2603.17450" in loss.citation and "wpcl_lambda='linear" in repr(loss)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"objective": "clip"}, "`objective` must be one of .*got 'clip'"),
        ({"margin": "max"}, "`margin` must be one of"),
        ({"penalty": "square"}, "`penalty` must be one of"),
        ({"detach": "none"}, "`detach` must be one of"),
        ({"scope": "batch"}, "`scope` must be one of"),
        ({"crtr_stop_gradient": "weak"}, "`crtr_stop_gradient` must be one of"),
        ({"temperature": 0.0}, "`temperature` must be above 0 .*got '0.0'"),
        ({"temperature": "linear:0.1->0@1"}, "`temperature` must be above 0"),
        ({"wpcl_lambda": -1.0}, "`wpcl_lambda` must be at least 0"),
        ({"crtr_beta": "linear:0->-1@0.5"}, "`crtr_beta` must be at least 0"),
        ({"crtr_temperature": -0.1}, "`crtr_temperature` must be above 0"),
        ({"unimodal_weight": 0.6}, "`unimodal_weight` must be at least 0 and at most 0.5"),
        ({"wpcl_lambda": "ramp"}, "`wpcl_lambda`: .*linear:0->5@0.2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        VLM2RecLoss(**arguments)


def test_bad_inputs_are_named():
    batch = make_batch(seed=16)
    loss = VLM2RecLoss("sft")
    with pytest.raises(ValueError, match="`positive` must point at each user's target: user 0"):
        loss(**{**batch, "positive": (batch["positive"] + 1) % 9})
    with pytest.raises(ValueError, match="`target_ids` and `candidate_ids` must hold one id per row"):
        loss(**{**batch, "candidate_ids": batch["candidate_ids"][:-1]})
    with pytest.raises(ValueError, match="`progress` must lie in"):
        loss(**batch, progress=1.5)
