"""Random batches for the tests of the losses."""

import torch

from vlm2rec_hf.losses import ViewVectors, unit_rows


def views(generator, n, dim, missing, dtype):
    """Normalised leaf vectors; with `missing`, one row in four lacks its text and one in four its image."""
    text, image = (
        unit_rows(torch.randn(n, dim, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for _ in range(2)
    )
    has_text, has_image = torch.ones(2, n, dtype=torch.bool)
    if missing:
        has_text[1::4] = False
        has_image[3::4] = False
    return ViewVectors(text, image, has_text, has_image)


def make_batch(seed=0, n_users=6, n_extra=3, dim=4, missing=True, history=True, dtype=torch.float64):
    """Keyword arguments of `VLM2RecLoss.forward`.

    Users 0 and 3 want the same item, which stands in two columns; histories name other users' targets; the targets'
    columns are in no order.
    """
    generator = torch.Generator().manual_seed(seed)
    n_candidates = n_users + n_extra
    candidate_ids = torch.arange(10, 10 + n_candidates)
    positive = torch.randperm(n_candidates, generator=generator)[:n_users]
    if n_users > 3:
        candidate_ids[positive[3]] = candidate_ids[positive[0]]
    history_ids = None
    if history:
        history_ids = torch.full((n_users, 4), -1)
        history_ids[:, :2] = torch.randint(8, 10 + n_candidates, (n_users, 2), generator=generator)
        history_ids[0] = -1
    return {
        "users": views(generator, n_users, dim, missing, dtype),
        "candidates": views(generator, n_candidates, dim, missing, dtype),
        "target_ids": candidate_ids[positive],
        "candidate_ids": candidate_ids,
        "positive": positive,
        "history_ids": history_ids,
    }


def leaves(batch):
    """The four matrices that gradients flow to."""
    return [batch["users"].text, batch["users"].image, batch["candidates"].text, batch["candidates"].image]


def gradients(loss, batch):
    """Gradients of a scalar for the four matrices; zeros where it does not depend on one."""
    result = torch.autograd.grad(loss, leaves(batch), allow_unused=True, retain_graph=True)
    return [torch.zeros_like(x) if g is None else g for x, g in zip(leaves(batch), result, strict=True)]


def swapped(vectors):
    """The same users or items with their modalities exchanged."""
    return ViewVectors(vectors.image, vectors.text, vectors.has_image, vectors.has_text)
