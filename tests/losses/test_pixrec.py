"""PixRec's objective against naive float64 loops, its masks, and its closed forms."""

import math

import pytest
import torch
from torch.nn import functional as F

from vlm2rec_hf.losses.pixrec import PixRecLoss
from vlm2rec_hf.modeling.states_pixrec import IGNORED, mean_pool, next_token_nll


def batch(seed=0, n=6, width=5, repeat=True):
    generator = torch.Generator().manual_seed(seed)

    def vectors():
        raw = torch.randn(n, width, generator=generator, dtype=torch.float64)
        return F.normalize(raw, dim=-1).requires_grad_()

    ids = torch.arange(10, 10 + n)
    if repeat:
        ids[4] = ids[1]  # two users want the same item
    history = torch.full((n, 3), -1)
    history[0, 0], history[2, 1] = ids[3], ids[5]
    nll = torch.rand(9, generator=generator, dtype=torch.float64)
    return vectors(), vectors(), vectors(), nll, ids, history


def naive_contrast(first, second, ids, seen, tau):
    """Symmetric InfoNCE, one pair at a time."""

    def one_way(rows, columns, spared):
        losses = []
        for i in range(len(ids)):
            negatives = [j for j in range(len(ids)) if ids[j] != ids[i] and not spared(i, j)]
            if negatives:
                scores = [math.exp(float(rows[i] @ columns[j]) / tau) for j in [i, *negatives]]
                losses.append(-math.log(scores[0] / sum(scores)))
        return sum(losses) / len(losses) if losses else 0.0

    forth = one_way(first, second, lambda i, j: ids[j] in seen[i])
    back = one_way(second, first, lambda i, j: ids[i] in seen[j])
    return (forth + back) / 2


@pytest.mark.parametrize(("alpha", "beta", "tau"), [(0.125, 0.125, 0.5), (0.3, -0.025, 0.1), (0.0, 1.0, 1.0)])
def test_equals_naive_loops(alpha, beta, tau):
    users, targets, items, nll, ids, history = batch()
    result = PixRecLoss(alpha, beta, tau)(users, targets, items, nll, target_ids=ids, history_ids=history)
    seen = [set(row.tolist()) - {-1} for row in history]
    none = [set() for _ in ids]
    expected = {
        "generation": (1 - alpha - beta) * sum(nll.tolist()) / len(nll),
        "item_item": alpha * naive_contrast(targets.detach(), items.detach(), ids.tolist(), none, tau),
        "user_item": beta * naive_contrast(users.detach(), items.detach(), ids.tolist(), seen, tau),
    }
    terms = {name: float(term.detach()) for name, term in result.terms.items()}
    assert terms == pytest.approx(expected, rel=1e-10, abs=1e-14)
    assert float(result.total.detach()) == pytest.approx(sum(expected.values()), rel=1e-10)
    assert float(result.diagnostics["user_item_nce"]) * beta == pytest.approx(expected["user_item"], abs=1e-12)


def test_gradients_reach_each_vector_as_the_weights_say():
    users, targets, items, nll, ids, history = batch()
    nll.requires_grad_()
    loss = PixRecLoss(alpha=0.0, beta=0.25)(users, targets, items, nll, target_ids=ids, history_ids=history).total
    by_users, by_targets, by_items, by_nll = torch.autograd.grad(loss, [users, targets, items, nll])
    assert not by_targets.any() and by_users.any() and by_items.any()
    assert torch.allclose(by_nll, torch.full_like(nll, 0.75 / len(nll)))


def test_a_negative_beta_turns_the_users_away():
    users, targets, items, nll, ids, _ = batch(repeat=False)

    def gradient(beta):
        loss = PixRecLoss(beta=beta)(users, targets, items, nll, target_ids=ids)
        return torch.autograd.grad(loss.terms["user_item"], users)[0]

    assert torch.allclose(gradient(0.125), -gradient(-0.125))
    assert float((gradient(0.125) * items).sum()) < 0  # descending moves users towards their items


def test_the_same_item_and_seen_items_are_no_negatives():
    users, targets, items, nll, ids, history = batch()

    def user_item(changed, **options):
        return PixRecLoss(beta=1.0, alpha=0.0, symmetric=False)(
            users, targets, changed, nll, target_ids=ids, **options
        ).terms["user_item"]

    # Item 4 is item 1 again, so user 1's loss must not see column 4; user 0 has seen item 3.
    per_user = []
    for column in (4, 3):
        changed = items.detach().clone()
        changed[column] = F.normalize(torch.arange(1.0, 6.0, dtype=torch.float64), dim=0)
        loss = user_item(changed.requires_grad_(), history_ids=history)
        per_user.append(torch.autograd.grad(loss, users)[0])
    original = torch.autograd.grad(user_item(items, history_ids=history), users)[0]
    assert torch.equal(per_user[0][1], original[1]) and not torch.equal(per_user[0][2], original[2])
    assert torch.equal(per_user[1][0], original[0]) and not torch.equal(per_user[1][1], original[1])
    unmasked = torch.autograd.grad(user_item(items), users)[0]
    assert not torch.equal(unmasked[0], original[0])


def test_closed_form_and_no_negatives():
    eye = torch.eye(4, dtype=torch.float64)
    nothing = torch.zeros(0, dtype=torch.float64)
    loss = PixRecLoss(alpha=1.0, beta=0.0, temperature=0.5)
    result = loss(eye, eye, eye, nothing, target_ids=torch.arange(4))
    assert float(result.terms["item_item"]) == pytest.approx(math.log(1 + 3 * math.exp(-2.0)))
    assert float(result.terms["generation"]) == 0.0 and float(result.diagnostics["negatives"]) == 3.0
    alone = loss(eye, eye, eye, nothing, target_ids=torch.zeros(4, dtype=torch.long))
    assert float(alone.total) == 0.0


@pytest.mark.parametrize("name", ["alpha", "beta", "generation_weight", "temperature"])
def test_bad_numbers_are_refused(name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        PixRecLoss(**{name: float("nan")})


def test_generation_weight_can_be_set():
    users, targets, items, nll, ids, _ = batch()
    result = PixRecLoss(generation_weight=2.0)(users, targets, items, nll, target_ids=ids)
    assert float(result.terms["generation"]) == pytest.approx(2.0 * float(nll.mean()))
    assert PixRecLoss(0.2, 0.3).get_config_dict()["generation_weight"] == pytest.approx(0.5)


@pytest.mark.parametrize("chunk_size", [1, 3, 100])
def test_each_token_is_predicted_from_the_state_before_it(chunk_size):
    generator = torch.Generator().manual_seed(1)
    states = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.full((2, 5), IGNORED)
    labels[0, 2], labels[0, 3], labels[1, 4] = 3, 6, 0
    labels[1, 0] = 2  # nothing stands before it
    result = next_token_nll(states, labels, weight, chunk_size)
    expected = []
    for row, place in ((0, 2), (0, 3), (1, 4)):
        logits = [float(states[row, place - 1] @ weight[token]) for token in range(7)]
        expected.append(math.log(sum(map(math.exp, logits))) - logits[int(labels[row, place])])
    assert result.tolist() == pytest.approx(expected, rel=1e-5)
    touched = torch.autograd.grad(result.sum(), states)[0].abs().sum(-1) > 0
    assert touched.nonzero().tolist() == [[0, 1], [0, 2], [1, 3]]


def test_chunks_change_no_gradient():
    states = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(2), requires_grad=True)
    weight = torch.randn(9, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    labels = torch.arange(12).reshape(2, 6) % 9
    whole, parts = (
        torch.autograd.grad(next_token_nll(states, labels, weight, size).mean(), [states, weight]) for size in (100, 4)
    )
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(whole, parts, strict=True))


def test_masked_means_leave_padding_out():
    states = torch.randn(2, 4, 3)
    states[0, 3] = torch.nan  # what stands on padding is nobody's business
    mask = torch.tensor([[True, True, False, False], [False, False, False, False]])
    states.requires_grad_()
    result = mean_pool(states, mask)
    assert torch.allclose(result[0], (states[0, 0] + states[0, 1]) / 2) and not result[1].any()
    gradient = torch.autograd.grad(result.sum(), states)[0]
    assert torch.equal(gradient.abs().sum(-1) > 0, mask)
