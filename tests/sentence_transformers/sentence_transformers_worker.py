"""What each of two processes runs for `test_sentence_transformers_devices.py`; results go to a file per rank."""

import torch
import torch.distributed as dist
from sentence_transformers import SentenceTransformer

from vlm2rec_hf.sentence_transformers import CachedVLM2RecRankingLoss, VLM2RecRankingLoss

from .sentence_transformer_models import batch_of, interactions, table

# Unequal shares; the users of the two processes want some of the same items.
SHARES = [slice(0, 3), slice(3, 5)]
HISTORIES, POSITIVES = interactions(5)
POSITIVES[4] = POSITIVES[0]
NEGATIVES = [8, 0, 1, 5, 2]
LOSSES = {"plain": (VLM2RecRankingLoss, {}), "cached": (CachedVLM2RecRankingLoss, {"mini_batch_size": 2})}


def run(model, name, share, **options):
    """Terms and gradients of one loss on some of the users."""
    loss_class, more = LOSSES[name]
    loss = loss_class(model, temperature=0.2, **more, **options)
    terms = loss(*batch_of(model, table(HISTORIES[share], POSITIVES[share], NEGATIVES[share])))
    model.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    gradients = {key: p.grad.clone() for key, p in model.named_parameters() if p.grad is not None}
    return {key: term.detach() for key, term in terms.items()}, gradients


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    model = SentenceTransformer(f"{folder}/embedder")
    result = {name: run(model, name, SHARES[rank], gather_across_devices=True, sync_counts=True) for name in LOSSES}
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
