"""The negative mask against a loop over python sets."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vlm2rec_hf.losses import check_positives, negative_mask


def by_hand(target_ids, candidate_ids, positive, history_ids, candidate_valid):
    rows = []
    for u, target in enumerate(target_ids.tolist()):
        seen = set() if history_ids is None else {i for i in history_ids[u].tolist() if i >= 0}
        rows.append(
            [
                item != target and item not in seen and (candidate_valid is None or bool(candidate_valid[j]))
                for j, item in enumerate(candidate_ids.tolist())
            ]
        )
    return torch.tensor(rows)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("n_items", [5, 40, 10**12])
def test_equals_the_loop(seed, n_items):
    generator = torch.Generator().manual_seed(seed)
    n_users, n_candidates, n_history = 11, 23, 9
    candidate_ids = torch.randint(0, n_items, (n_candidates,), generator=generator)
    positive = torch.randint(0, n_candidates, (n_users,), generator=generator)
    history_ids = torch.randint(0, n_items, (n_users, n_history), generator=generator)
    history_ids[:, 3] = candidate_ids[torch.randint(0, n_candidates, (n_users,), generator=generator)]
    history_ids[torch.rand(history_ids.shape, generator=generator) < 0.3] = -1
    valid = torch.rand(n_candidates, generator=generator) < 0.8
    for history in (None, history_ids, history_ids[:, :0]):
        for candidate_valid in (None, valid):
            arguments = (candidate_ids[positive], candidate_ids, positive, history, candidate_valid)
            assert torch.equal(negative_mask(*arguments), by_hand(*arguments))


def test_hand_filled_table():
    mask = negative_mask(
        target_ids=torch.tensor([7, 8]),
        candidate_ids=torch.tensor([7, 8, 9, 7]),
        positive=torch.tensor([3, 1]),
        history_ids=torch.tensor([[9, -1], [-1, -1]]),
    )
    assert mask.tolist() == [[False, True, False, False], [True, False, True, True]]


def test_padding_never_matches_a_candidate_with_id_zero_or_below():
    mask = negative_mask(torch.tensor([5]), torch.tensor([5, 0, -1]), torch.tensor([0]), torch.tensor([[-1, -1]]))
    assert mask.tolist() == [[False, True, True]]


def test_memory_does_not_grow_with_history_times_candidates():
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(tensor, torch.Tensor):
                    self.numel = max(self.numel, tensor.numel())
            return out

    n_users, n_candidates, n_history = 64, 512, 100
    candidate_ids = torch.randint(0, 1000, (n_candidates,))
    positive = torch.arange(n_users)
    with Largest() as largest:
        negative_mask(candidate_ids[positive], candidate_ids, positive, torch.randint(0, 1000, (n_users, n_history)))
    assert largest.numel <= n_users * (n_candidates + 1)


def test_errors_name_the_argument():
    ids, positive = torch.arange(4), torch.arange(2)
    with pytest.raises(ValueError, match="`positive` must hold columns of the 4 candidates, got values from 0 to 4"):
        negative_mask(ids[:2], ids, torch.tensor([0, 4]))
    with pytest.raises(ValueError, match="user 1 wants item 1, but column 3 holds item 3"):
        check_positives(ids[:2], ids, torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="`positive` must hold one column per user"):
        negative_mask(ids, ids, positive)
    with pytest.raises(ValueError, match="`candidate_ids` must be a one-dimensional long tensor, got torch.float32"):
        negative_mask(ids[:2], ids.float(), positive)
    with pytest.raises(ValueError, match=r"`history_ids` must be a long tensor of shape \(2, H\)"):
        negative_mask(ids[:2], ids, positive, torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`candidate_valid` must be a bool tensor of shape \(4,\)"):
        negative_mask(ids[:2], ids, positive, None, torch.ones(4))
