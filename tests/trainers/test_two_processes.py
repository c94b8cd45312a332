"""Two real gloo processes train as one process with the same global batch: losses, gradients, weights, metrics."""

import pytest

from .process_worker import RUNS, USERS, assert_same_course, first_step, found_by_two, step_trainer, train, work


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("processes")


@pytest.fixture(scope="module")
def pair(folder):
    return found_by_two(work, folder)


@pytest.mark.parametrize("name", [name for name in RUNS if name != "alone"])
def test_losses_gradients_and_weights_equal_one_process(folder, pair, name):
    whole = train(folder / "one", name, 1)
    parts = [pair[rank][name] for rank in range(2)]
    assert len(whole["logs"]) == len(parts[0]["logs"]) == 3
    drop = {"learning_rate", "epoch", "step", "data_wait"}
    for one, other in zip(whole["logs"], parts[0]["logs"], strict=True):
        for key in ("loss", "grad_norm", *(k for k in one if k in ("wpcl", "crtr") or "info_nce" in k)):
            assert other[key] == pytest.approx(one[key], rel=2e-4), key
        for key in ("grad_norm_text", "grad_norm_image"):  # a target of both processes is one row here, two there
            assert other[key] == pytest.approx(one[key], rel=0.1), key
        assert one.keys() - drop == other.keys() - drop
    assert_same_course(whole, parts)


def test_the_processes_differ_in_what_they_encode(pair):
    assert any(
        one != other
        for name in RUNS
        for one, other in zip(pair[0][name]["distinct"], pair[1][name]["distinct"], strict=True)
    )


def test_evaluation_gives_the_same_metrics_everywhere(folder, pair):
    whole = train(folder / "one", "plain", 1)["metrics"]
    assert pair[0]["plain"]["metrics"] == pair[1]["plain"]["metrics"]
    assert whole.keys() == pair[0]["plain"]["metrics"].keys()
    for key, value in whole.items():
        assert pair[0]["plain"]["metrics"][key] == pytest.approx(value, rel=1e-3, abs=1e-4), key


def test_the_gather_matters(folder, pair):
    """Without it every process has its own targets as candidates only: fewer negatives, a smaller loss."""
    whole = train(folder / "one", "alone", 1)
    assert pair[0]["alone"]["logs"][0]["loss"] < whole["logs"][0]["loss"] - 0.1


@pytest.mark.parametrize("mini_batch_size", [None, 2], ids=["plain", "cached"])
def test_a_sharded_model_has_the_gradients_of_a_whole_one(folder, pair, mini_batch_size):
    """FSDP 2 on gloo by hand, over the layers the model names: accelerate drops FSDP on CPUs."""
    loss, gradients = first_step(step_trainer(folder / "one", 1), range(USERS))
    parts = [pair[rank]["sharded"][mini_batch_size] for rank in range(2)]
    assert (parts[0][0] + parts[1][0]) / 2 == pytest.approx(loss, rel=1e-5)
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for _, found in parts:
        assert found.keys() == gradients.keys()
        for name, gradient in gradients.items():
            assert (found[name] - gradient).abs().max() <= 1e-5 * max(largest, 1), name
