"""What each of the two processes of `test_gather.py` runs; results go to a file per rank."""

import dataclasses

import torch
import torch.distributed as dist

from vlm2rec_hf.losses import (
    PixRecLoss,
    ViewVectors,
    VLM2RecLoss,
    average_over_processes,
    gather_candidates,
    gather_pairs,
    gather_sizes,
    gather_with_grad,
)

from .batches import leaves, make_batch

OBJECTIVES = ("sft", "wpcl+crtr", "sft+unimodal")
USERS = [slice(0, 4), slice(4, 6)]
CANDIDATES = [slice(0, 5), slice(5, 9)]


def split_batch(rank):
    """This process's users and candidates; each user's positive is moved into the process that holds the user."""
    batch = regrouped()
    part = {name: batch[name][USERS[rank]] for name in ("target_ids", "history_ids")}
    part["positive"] = batch["positive"][USERS[rank]] - CANDIDATES[rank].start
    part["candidate_ids"] = batch["candidate_ids"][CANDIDATES[rank]]
    part["users"] = rows(batch["users"], USERS[rank])
    part["candidates"] = rows(batch["candidates"], CANDIDATES[rank])
    return part


def regrouped():
    """The whole batch with candidates reordered: targets of users 0-3, one extra, targets of users 4-5, two extras."""
    batch = make_batch(seed=0)
    extras = [j for j in range(9) if j not in batch["positive"].tolist()]
    positive = batch["positive"].tolist()
    order = torch.tensor([*positive[:4], extras[0], *positive[4:], *extras[1:]])
    batch["candidates"] = rows(batch["candidates"], order)
    batch["candidate_ids"] = batch["candidate_ids"][order]
    batch["positive"] = order.argsort()[batch["positive"]]
    return batch


def log_q(objective, candidate_ids):
    """Of each candidate, by id; plain SFT goes without."""
    return None if objective == "sft" else -candidate_ids.double() / 7


def rows(vectors, index):
    parts = (getattr(vectors, field.name)[index] for field in dataclasses.fields(ViewVectors))
    return ViewVectors(*(p.detach().clone().requires_grad_(p.is_floating_point()) for p in parts))


PIXREC = [slice(0, 3), slice(3, 7)]
TOKENS = [slice(0, 5), slice(5, 20)]


def pixrec_batch(part=slice(None), tokens=slice(None)):
    """Rows of a batch of PixRec, in float64; two users want the same item, histories are of unequal lengths."""
    generator = torch.Generator().manual_seed(3)
    vectors = torch.nn.functional.normalize(torch.randn(3, 7, 5, generator=generator, dtype=torch.float64), dim=-1)
    nll = torch.rand(20, generator=generator, dtype=torch.float64)
    ids, seen = torch.tensor([4, 9, 4, 7, 1, 2, 9]), torch.full((7, 3), -1)
    seen[0, 0], seen[4, :3] = 7, torch.tensor([4, 2, 30])
    seen = seen[part][:, : 1 if part == PIXREC[0] else 3]
    leaves = [*(v[part].clone().requires_grad_() for v in vectors), nll[tokens].clone().requires_grad_()]
    return leaves, ids[part], seen


def pixrec_loss(leaves, ids, seen, gather, **options):
    """Loss and gradients, with or without the rows of all processes."""
    vectors = leaves[:3]
    if gather:
        vectors, ids, seen = gather_pairs(vectors, ids, seen)
    output = PixRecLoss(0.3, -0.2, 0.2, **options)(*vectors, leaves[3], target_ids=ids, history_ids=seen)
    output.total.backward()
    return {name: term.detach() for name, term in output.terms.items()}, [leaf.grad for leaf in leaves]


def work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = {}

    local = (torch.arange(3.0 + rank)[:, None] + 10 * rank).expand(-1, 2).clone().requires_grad_()
    gathered = gather_with_grad(local)
    # Rank r weighs row k with (r + 1) * (k + 1), so row k should receive 3 * (k + 1) in all.
    (gathered.sum(dim=1) * (rank + 1) * torch.arange(1.0, 8.0)).sum().backward()
    result["rows"], result["row_gradients"] = gathered.detach(), local.grad
    result["integers"] = gather_with_grad(torch.full((rank + 1,), rank + 5))
    result["bools"] = gather_with_grad(torch.tensor([True, False, True])[: rank + 2])
    half = torch.full((2, 2), 1.0 + rank, dtype=torch.bfloat16, requires_grad=True)
    gather_with_grad(half, [2, 2]).float().square().sum().backward()
    result["half_gradient"] = half.grad
    result["sizes"] = gather_sizes(4 - rank, "cpu")
    result["average"] = average_over_processes(torch.tensor(float(rank)))
    try:
        gather_with_grad(half, [2, 3 if rank else 2, 1])
    except ValueError as error:
        result["error"] = str(error)

    for objective in OBJECTIVES:
        batch = split_batch(rank)
        own = dict(batch)
        batch["candidates"], batch["candidate_ids"], batch["positive"] = gather_candidates(
            batch["candidates"], batch["candidate_ids"], batch["positive"]
        )
        batch["candidate_log_q"] = log_q(objective, batch["candidate_ids"])
        output = VLM2RecLoss(objective, temperature=0.2, sync_counts=True)(**batch)
        output.total.backward()
        result[objective] = (
            {name: term.detach() for name, term in output.terms.items()},
            [leaf.grad for leaf in leaves(own)],
        )
    for gather in (True, False):
        result[f"pixrec-{gather}"] = pixrec_loss(
            *pixrec_batch(PIXREC[rank], TOKENS[rank]), gather=gather, sync_counts=True
        )
    alone = gather_pairs([torch.ones(2 - rank, 2)], torch.full((2 - rank,), rank))
    result["without histories"] = (alone[0][0], alone[1], alone[2])
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
