"""Two processes with `gather_across_devices` learn what one process learns from the whole batch."""

import pytest
import torch

from .sentence_transformer_models import save
from .sentence_transformers_worker import LOSSES, SHARES, run, work


@pytest.fixture(scope="module")
def outputs(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    model = save(*tiny("qwen2_vl"), folder / "embedder")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=2)
    return model, [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("name", LOSSES)
def test_gathered_losses_and_gradients_are_those_of_the_whole_batch(outputs, name):
    model, ranks = outputs
    terms, gradients = run(model, name, slice(0, 5))
    for key, term in terms.items():
        torch.testing.assert_close((ranks[0][name][0][key] + ranks[1][name][0][key]) / 2, term, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == ranks[0][name][1].keys() == ranks[1][name][1].keys()
    for key, gradient in gradients.items():
        # Data-parallel training averages over processes.
        mean = (ranks[0][name][1][key] + ranks[1][name][1][key]) / 2
        assert float((mean - gradient).abs().max() / (1 + gradient.abs().max())) < 1e-5, key
    assert max(float(gradient.abs().max()) for gradient in gradients.values()) > 0.01


def test_the_gather_matters(outputs):
    model, ranks = outputs
    for rank, share in enumerate(SHARES):
        alone, _ = run(model, "plain", share)
        assert abs(float(alone["wpcl"] - ranks[rank]["plain"][0]["wpcl"])) > 0.05
