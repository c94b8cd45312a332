"""PixRec in two gloo processes trains as one with the same global batch; heads average their processes' batches."""

import pytest
import torch

from .process_worker import assert_equal_gradients, assert_same_course, found_by_two
from .sibling_worker import HEADS, PIXREC, head_trainer, pixrec, work

TERMS = ("loss", "generation", "item_item", "user_item", "negatives")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("siblings")


@pytest.fixture(scope="module")
def pair(folder):
    return found_by_two(work, folder)


@pytest.mark.parametrize("name", [name for name in PIXREC if name != "alone"])
def test_pixrec_equals_one_process(folder, pair, name):
    whole, parts = pixrec(folder / "one", name, 1), [pair[rank][name] for rank in range(2)]
    assert len(whole["logs"]) == len(parts[0]["logs"]) == 3
    for one, other in zip(whole["logs"], parts[0]["logs"], strict=True):
        for key in TERMS:
            assert other[key] == pytest.approx(one[key], rel=2e-4), key
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=2e-3)
    assert_same_course(whole, parts)


def test_targets_of_all_processes_are_distinct(pair):
    for ours, theirs in zip(pair[0]["plain"]["batches"], pair[1]["plain"]["batches"], strict=True):
        targets = ours["target_ids"].tolist() + theirs["target_ids"].tolist()
        assert len(targets) == len(set(targets)) == 12


def test_the_processes_hold_unequal_parts(pair):
    """Otherwise a mean of the processes' means would do, and the tests above would prove little."""
    for name in ("plain", "tower"):
        tokens = [[int((batch["labels"] >= 0).sum()) for batch in part[name]["batches"]] for part in pair]
        assert tokens[0] != tokens[1]
        assert pair[0][name]["batches"][0]["seen_ids"].shape != pair[1][name]["batches"][0]["seen_ids"].shape


def test_the_gather_matters(pair):
    """Without it a process contrasts its own examples only: five negatives, where there are eleven."""
    alone, whole = pair[0]["alone"]["logs"][0], pair[0]["plain"]["logs"][0]
    assert alone["negatives"] <= 5 < whole["negatives"] <= 11
    assert alone["item_item"] < whole["item_item"] - 0.01


def test_pixrec_evaluation_gives_the_same_metrics_everywhere(folder, pair):
    whole = pixrec(folder / "one", "plain", 1)
    metrics = [part["plain"]["metrics"] for part in pair]
    assert metrics[0] == metrics[1] and whole["metrics"].keys() == metrics[0].keys()
    for key, value in whole["metrics"].items():
        assert metrics[0][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key
    assert (whole["facts"], pair[0]["plain"]["facts"]) == (None, 2)


@pytest.mark.parametrize("name", HEADS)
def test_heads_follow_the_mean_of_their_processes_batches(folder, pair, name):
    run = head_trainer(folder / "one", name)
    run.current_gradient_accumulation_steps = 1
    mean, losses = {}, []
    for part in pair:
        run.model.zero_grad()
        losses.append(float(run.training_step(run.model, part[name]["batches"][0])))
        for key, parameter in run.model.named_parameters():
            if parameter.grad is not None:
                mean[key] = mean.get(key, 0) + parameter.grad / 2
    assert abs(losses[0] - losses[1]) > 1e-6
    assert pair[0][name]["logs"][0]["loss"] == pytest.approx(sum(losses) / 2, rel=1e-4)
    for part in pair:
        assert part[name]["gradients"][0].keys() == mean.keys()
        assert_equal_gradients(part[name]["gradients"][0], mean, 1e-5)
    weights = [part[name]["weights"] for part in pair]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    assert pair[0][name]["metrics"] == pair[1][name]["metrics"] != {}
