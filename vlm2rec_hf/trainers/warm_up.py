"""A warm-up for backbones without pretrained weights: views of an item learn to match a target vector of the item.

A pretrained vision-language model has read captions, so its image states already mean something. A backbone built
from config has not, and then no loss on user sequences moves its image view (see `docs/background/log.md`). This stage
stands in for that pretraining; it is no part of the paper (our choice).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..columns import DESCRIPTION
from ..losses.similarity import products
from .adapters import refuse_quantized

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

TARGETS = ("semantic", "identity")
ENCODER = "encoder:"
"""A target of this form names a text encoder: `encoder:sentence-transformers/all-MiniLM-L6-v2`."""


def captions_of(dataset: RecDataset) -> list[str | None]:
    """What captions would say of a dataset's items: the column `description` where there is one, else their texts."""
    if DESCRIPTION in dataset.items.column_names:
        return dataset.items[DESCRIPTION]
    return dataset.item_texts()


def semantic_targets(descriptions: Sequence[str | None], dimension: int = 64, seed: int = 0) -> Tensor:
    """What captions say, as vectors: TF-IDF, reduced by a truncated SVD, L2-normalised.

    Args:
        descriptions: one text per item; items without one get a zero vector and are left out of the warm-up.
        dimension: length of a target at most.
        seed: of the SVD's random start.

    Returns:
        `(n_items, dimension)` float32.

    Raises:
        ValueError: fewer than two items have a description.
    """
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfVectorizer

    rows = [i for i, text in enumerate(descriptions) if text and text.strip()]
    if len(rows) < 2:
        raise ValueError(
            f"`descriptions` must describe at least 2 items, got {len(rows)} with text; a warm-up towards the target "
            "'identity' needs none."
        )
    words = TfidfVectorizer(sublinear_tf=True)
    analyse = words.build_analyzer()
    if not any(analyse(str(descriptions[i])) for i in rows):
        raise ValueError(f"`descriptions` hold no word of two letters or more, such as {descriptions[rows[0]]!r}.")
    counts = words.fit_transform([str(descriptions[i]) for i in rows])
    size = min(dimension, counts.shape[1] - 1, len(rows) - 1)
    if size < 1:
        raise ValueError("`descriptions` use a single word; there is nothing to tell items apart by.")
    reduced = TruncatedSVD(size, random_state=seed).fit_transform(counts)
    out = torch.zeros(len(descriptions), size)
    out[rows] = F.normalize(torch.tensor(np.ascontiguousarray(reduced), dtype=torch.float32), dim=-1)
    return out


def encoder_targets(descriptions: Sequence[str | None], encoder: str, show_progress: bool = False) -> Tensor:
    """What a frozen text encoder makes of captions, L2-normalised; see `semantic_targets` for the shape.

    Args:
        descriptions: one text per item; items without one get a zero vector and are left out of the warm-up.
        encoder: Hub id or folder of a `SentenceTransformer`, or `"lsa"`.
        show_progress: draw a progress bar.

    Raises:
        ValueError: nothing loadable under that name, or no item with a text.
    """
    from ..descriptions.encoding import encode_texts
    from ..descriptions.text_encoders import load_text_encoder

    loaded, _ = load_text_encoder(encoder, [text for text in descriptions if text and text.strip()])
    return F.normalize(torch.from_numpy(encode_texts(descriptions, loaded, show_progress=show_progress)), dim=-1)


class _Targets(nn.Module):
    """Targets in the embedder's space: a linear map of fixed vectors, or a free table."""

    def __init__(self, vectors: Tensor | None, count: int, width: int) -> None:
        super().__init__()
        self.table = None if vectors is not None else nn.Embedding(count, width)
        self.project = nn.Linear(vectors.shape[1], width, bias=False) if vectors is not None else None
        if vectors is not None:
            self.register_buffer("vectors", vectors)

    def forward(self, rows: Tensor) -> Tensor:
        if self.table is not None:
            return F.normalize(self.table(rows), dim=-1)
        assert self.project is not None
        vectors: Tensor = self.vectors  # type: ignore[assignment]
        return F.normalize(self.project(vectors[rows]), dim=-1)


def warm_up_backbone(
    model: VLM2RecEmbedder,
    catalogue: PreparedCatalogue,
    descriptions: Sequence[str | None] | None = None,
    *,
    target: str = "semantic",
    steps: int = 350,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    temperature: float = 0.07,
    seed: int = 0,
    show_progress: bool = False,
) -> list[dict[str, float]]:
    """Train the whole backbone (vision tower included) so that both views of an item match the item's target.

    Loss: symmetric InfoNCE between the view's vector and the target over the batch, per view; items whose targets
    are the same (cosine > 0.999) are not each other's negatives.

    Args:
        model: changed in place; external fusion.
        catalogue: the items; images must not be cached as features, since the tower trains.
        descriptions: captions for every target but `"identity"`, one per item (`None`: no caption).
        target: `"semantic"` (the default: TF-IDF + SVD of descriptions), `"encoder:MODEL"` (the descriptions' vectors
            by any `SentenceTransformer`), or `"identity"` (a free vector per item; identification alone leaves the
            image view unable to learn preferences, see `docs/background/log.md`).
        steps: optimiser steps.
        batch_size: items per step.
        learning_rate: peak of a one-cycle schedule (AdamW).
        temperature: divides the cosine similarities.
        seed: order of the items and the new layers.
        show_progress: draw a progress bar.

    Returns:
        One record per 10 steps with `step`, `loss_text`, `loss_image`, `accuracy_text`, `accuracy_image`.

    Raises:
        ValueError: internal fusion, cached features, an unknown target or missing descriptions.
    """
    if model.config.fusion != "external":
        raise ValueError("`model` must use external fusion: the warm-up trains its two views separately.")
    refuse_quantized(model)
    if catalogue.has_cached_features:
        raise ValueError("`catalogue` holds cached vision features; warm up before calling `cache_features`.")
    encoder = target.removeprefix(ENCODER) if target.startswith(ENCODER) else None
    if target not in TARGETS and not encoder:
        raise ValueError(f"`target` must be one of {TARGETS} or 'encoder:MODEL', got {target!r}.")
    if steps < 1 or batch_size < 2:
        raise ValueError(f"`steps` must be >= 1 and `batch_size` >= 2, got {steps} and {batch_size}.")
    vectors = None
    if target != "identity":
        if descriptions is None or len(descriptions) != len(catalogue):
            raise ValueError(f"`descriptions` must hold one entry per item of the catalogue for target={target!r}.")
        if encoder:
            vectors = encoder_targets(descriptions, encoder, show_progress)
        else:
            vectors = semantic_targets(descriptions, seed=seed)
    # Decoded once: the pixels of a small catalogue fit in memory and every item is visited many times.
    items = list(catalogue)
    usable = np.array([
        i for i, item in enumerate(items)
        if (item.text is not None or item.grid is not None) and (vectors is None or bool(vectors[i].any()))
    ])  # fmt: skip
    if len(usable) < 2:
        raise ValueError(f"`catalogue` must hold at least 2 items that have a target, got {len(usable)}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        heads = _Targets(vectors, len(items), model.config.hidden_size).to(model.device)
    trained = [*model.parameters(), *heads.parameters()]
    frozen = [parameter for parameter in trained if not parameter.requires_grad]
    for parameter in frozen:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.01)
    rise = 0.1 if steps >= 20 else 0.3  # a rise of exactly one step divides by zero
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=rise)
    order = _batches(usable, min(batch_size, len(usable)), np.random.default_rng(seed))
    model.train()
    log: list[dict[str, float]] = []
    bar = tqdm(range(1, steps + 1), desc="Warm-up", disable=not show_progress, leave=False)
    try:
        for step in bar:
            rows = next(order)
            batch = catalogue.processor.collate([[items[i]] for i in rows], "item").to(model.device)
            losses = _view_losses(model(**batch), heads(torch.tensor(rows, device=model.device)), temperature)
            optimizer.zero_grad(set_to_none=True)
            (losses["loss_text"] + losses["loss_image"]).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            if step % 10 == 0 or step == steps:
                log.append({"step": step, **{name: float(value.detach()) for name, value in losses.items()}})
                bar.set_postfix({name: f"{value:.2f}" for name, value in log[-1].items() if name != "step"})
    finally:
        optimizer.zero_grad(set_to_none=True)
        for parameter in frozen:
            parameter.requires_grad_(False)
        model.eval()
    return log


def _batches(rows: np.ndarray, size: int, rng: np.random.Generator) -> Any:
    """Endless batches: shuffled passes, a last incomplete batch is dropped."""
    while True:
        shuffled = rng.permutation(rows)
        for start in range(0, len(rows) - size + 1, size):
            yield shuffled[start : start + size]


def _view_losses(output: Any, targets: Tensor, temperature: float) -> dict[str, Tensor]:
    same = (targets @ targets.T).detach() > 0.999
    same.fill_diagonal_(False)
    out: dict[str, Tensor] = {}
    for name, vectors, has in (
        ("text", output.text_embeddings, output.has_text),
        ("image", output.image_embeddings, output.has_image),
    ):
        rows = has.nonzero().squeeze(-1)
        if len(rows) < 2:
            out[f"loss_{name}"], out[f"accuracy_{name}"] = vectors.sum() * 0.0, torch.tensor(float("nan"))
            continue
        logits = products(vectors[rows], targets[rows]) / temperature
        logits = logits.masked_fill(same[rows][:, rows], float("-inf"))
        labels = torch.arange(len(rows), device=logits.device)
        out[f"loss_{name}"] = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
        out[f"accuracy_{name}"] = (logits.argmax(-1) == labels).float().mean()
    return out
