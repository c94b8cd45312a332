"""Two gloo processes against one: equal loss and gradients, with unequal batches and missing modalities."""

import pytest
import torch

from vlm2rec_hf.losses import VLM2RecLoss, average_over_processes, gather_candidates, gather_sizes, gather_with_grad

from .batches import gradients
from .gather_worker import (
    CANDIDATES,
    OBJECTIVES,
    PIXREC,
    TOKENS,
    USERS,
    log_q,
    pixrec_batch,
    pixrec_loss,
    regrouped,
    split_batch,
    work,
)


@pytest.fixture(scope="module")
def gathered(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gather")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def test_rows_come_in_rank_order_and_gradients_are_summed(gathered):
    expected = torch.tensor([0.0, 1, 2, 10, 11, 12, 13])[:, None].expand(-1, 2)
    for rank in range(2):
        assert torch.equal(gathered[rank]["rows"], expected)
        assert gathered[rank]["integers"].tolist() == [5, 6, 6]
        assert gathered[rank]["bools"].tolist() == [True, False, True, False, True]
        assert gathered[rank]["sizes"] == [4, 3]
        assert float(gathered[rank]["average"]) == 0.5
    weights = 3 * torch.arange(1.0, 8.0)[:, None].expand(-1, 2)
    assert torch.equal(gathered[0]["row_gradients"], weights[:3])
    assert torch.equal(gathered[1]["row_gradients"], weights[3:])


def test_bfloat16_gradients_keep_their_type(gathered):
    for rank in range(2):
        assert gathered[rank]["half_gradient"].dtype == torch.bfloat16
        assert (gathered[rank]["half_gradient"] == 2 * 2 * (1.0 + rank)).all()


def test_wrong_sizes_are_named(gathered):
    assert "`sizes` must hold the rows of each of the 2 processes (2 on rank 0)" in gathered[0]["error"]
    assert "gather_sizes" in gathered[1]["error"]


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_gathered_value_and_gradient_equal_one_process(gathered, objective):
    batch = regrouped()
    whole = VLM2RecLoss(objective, temperature=0.2)(**batch, candidate_log_q=log_q(objective, batch["candidate_ids"]))
    parts = [gathered[rank][objective] for rank in range(2)]
    for name, term in whole.terms.items():
        torch.testing.assert_close((parts[0][0][name] + parts[1][0][name]) / 2, term.detach())
    want = gradients(whole.total, batch)
    for k, slices in enumerate((USERS, USERS, CANDIDATES, CANDIDATES)):
        # Data-parallel training averages over processes, hence the division by two.
        got = torch.cat([parts[rank][1][k] for rank in range(2)]) / 2
        torch.testing.assert_close(got, torch.cat([want[k][part] for part in slices]), rtol=1e-9, atol=1e-12)
        assert (got != 0).any()


def test_pixrec_equals_one_process_with_unequal_parts(gathered):
    terms, gradients_of_one = pixrec_loss(*pixrec_batch(), gather=False)
    parts = [gathered[rank]["pixrec-True"] for rank in range(2)]
    for name, term in terms.items():
        torch.testing.assert_close((parts[0][0][name] + parts[1][0][name]) / 2, term)
    for k, slices in enumerate((PIXREC, PIXREC, PIXREC, TOKENS)):
        got = torch.cat([parts[rank][1][k] for rank in range(2)]) / 2
        torch.testing.assert_close(got, torch.cat([gradients_of_one[k][part] for part in slices]))
        assert (got != 0).any()
    alone = [gathered[rank]["pixrec-False"][0] for rank in range(2)]
    assert abs((alone[0]["item_item"] + alone[1]["item_item"]) / 2 - terms["item_item"]) > 0.05
    rows, ids, histories = gathered[1]["without histories"]
    assert rows.shape == (3, 2) and ids.tolist() == [0, 0, 1] and histories is None


def test_the_gather_matters():
    """Without it each process sees fewer negatives: the comparison above would fail."""
    whole = VLM2RecLoss("sft", temperature=0.2)(**regrouped()).total
    alone = [VLM2RecLoss("sft", temperature=0.2)(**split_batch(rank)).total for rank in range(2)]
    assert abs(float(sum(alone).detach()) / 2 - float(whole.detach())) > 0.1


def test_one_process_changes_nothing():
    batch = split_batch(0)
    candidates, ids, positive = gather_candidates(batch["candidates"], batch["candidate_ids"], batch["positive"])
    assert candidates is batch["candidates"] and ids is batch["candidate_ids"] and positive is batch["positive"]
    assert gather_with_grad(ids) is ids and gather_sizes(3, "cpu") == [3]
    assert float(average_over_processes(torch.tensor(2.0))) == 2.0
