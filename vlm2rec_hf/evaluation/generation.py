"""Generate the next item's text: deterministic beam search over a `PixRecModel`, for any backbone family."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from tqdm.auto import tqdm

from ..modeling.items_vlm2rec import PreparedItem
from ..modeling.passes_vlm2rec import last_token_pool
from ..modeling.states_pixrec import token_logits

if TYPE_CHECKING:
    from ..modeling.modeling_pixrec import PixRecModel
    from ..modeling.processing_pixrec import PixRecProcessor

Beams = list[tuple[str, float]]
"""Texts with their mean log-probability per token (the end token included), best first."""
Scored = tuple[list[int], float]
"""Token ids and a log-probability."""


@torch.no_grad()
def generate_next_items(
    model: PixRecModel,
    histories: Sequence[Sequence[PreparedItem]],
    processor: PixRecProcessor,
    *,
    beams: int = 4,
    max_new_tokens: int = 24,
    batch_size: int = 16,
    show_progress: bool = False,
) -> list[Beams]:
    """What the model expects the next item's text to be, after each history.

    No sampling: the same model and history give the same texts. Each step reads the rows anew (the families share no
    cache), so the cost grows with `beams * max_new_tokens` rows per history; images should come as features.

    Args:
        model: the model.
        histories: prepared items, oldest first.
        processor: made for this backbone; its `end_token` ends a text.
        beams: texts kept at each step, and returned.
        max_new_tokens: longest text.
        batch_size: histories at once; `beams` times as many rows.
        show_progress: draw a progress bar.

    Returns:
        Per history `beams` texts, best first.

    Raises:
        ValueError: a size below 1.
    """
    for name, value in (("beams", beams), ("max_new_tokens", max_new_tokens), ("batch_size", batch_size)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    was_training = model.training
    model.eval()
    out: list[Beams] = []
    try:
        for start in tqdm(range(0, len(histories), batch_size), desc="Texts", disable=not show_progress, leave=False):
            part = [list(histories[i]) for i in range(start, min(start + batch_size, len(histories)))]
            out += _search(model, part, processor, beams, max_new_tokens)
    finally:
        model.train(was_training)
    return out


def _search(
    model: PixRecModel, histories: list[list[PreparedItem]], processor: PixRecProcessor, beams: int, longest: int
) -> list[Beams]:
    end = processor.tokenizer.convert_tokens_to_ids(processor.end_token)
    never = _never_written(processor, len(model.head_weight))
    begun: list[list[Scored]] = [[([], 0.0)] for _ in histories]
    done: list[list[Scored]] = [[] for _ in histories]
    for _ in range(longest):
        places = [(h, b) for h, kept in enumerate(begun) for b in range(len(kept))]
        if not places:
            break
        rows = [histories[h] for h, _ in places], [begun[h][b][0] for h, b in places]
        scores = _next_scores(model, *rows, processor)
        scores[:, never] = -torch.inf
        totals = scores + torch.tensor([begun[h][b][1] for h, b in places], dtype=scores.dtype)[:, None]
        first = 0
        for h, kept in enumerate(begun):
            own = totals[first : first + len(kept)]
            first += len(kept)
            if kept:
                begun[h], ended = _extend(kept, own, end, beams)
                done[h] += ended
                begun[h] = _with_a_future(begun[h], done[h], beams, longest)
    # Beams that did not end in time compete with what they hold so far.
    for h, kept in enumerate(begun):
        done[h] += [(ids, total / len(ids)) for ids, total in kept]
    return [_best(texts, processor, beams) for texts in done]


def _extend(kept: list[Scored], totals: torch.Tensor, end: int, beams: int) -> tuple[list[Scored], list[Scored]]:
    """One history's best continuations with their summed log-probability, and texts that end with their mean one."""
    # A stable sort decides ties by beam and token id, the same on every machine.
    values, order = totals.flatten().sort(descending=True, stable=True)
    following: list[Scored] = []
    ended: list[Scored] = []
    for value, place in zip(values[: 2 * beams].tolist(), order[: 2 * beams].tolist(), strict=True):
        if value == -torch.inf:
            break
        beam, token = divmod(place, totals.shape[1])
        ids = kept[beam][0]
        if token == end:
            ended.append((ids, value / (len(ids) + 1)))
        elif len(following) < beams:
            following.append(([*ids, token], value))
    return following, ended


def _with_a_future(begun: list[Scored], done: list[Scored], beams: int, longest: int) -> list[Scored]:
    """Those that could still come before the worst of the texts to return, were all their further tokens certain."""
    if len(done) < beams:
        return begun
    least = sorted((mean for _, mean in done), reverse=True)[beams - 1]
    return [(ids, total) for ids, total in begun if total / (longest + 1) > least]


def _next_scores(
    model: PixRecModel, histories: list[list[PreparedItem]], begun: list[list[int]], processor: PixRecProcessor
) -> torch.Tensor:
    """Log-probabilities of the next token: `(rows, vocabulary)` float64 on the CPU."""
    batch: Any = processor.collate_sequences(histories, begun=begun).to(model.device)
    batch.pop("history_mask")
    states = last_token_pool(model.hidden_states(**batch), batch["attention_mask"])
    logits = token_logits(states, model.head_weight, model.logit_softcap)
    return torch.log_softmax(logits.double(), dim=-1).cpu()


def _never_written(processor: PixRecProcessor, vocabulary: int) -> list[int]:
    """Special tokens but the end (a text may not open an image), and rows of the head that stand for no token."""
    tokenizer = processor.tokenizer
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    nothing = set(range(vocabulary)).difference(tokenizer.get_vocab().values())
    return sorted((special | nothing) - {tokenizer.convert_tokens_to_ids(processor.end_token)})


def _best(texts: list[Scored], processor: PixRecProcessor, beams: int) -> Beams:
    ordered = sorted(texts, key=lambda text: (-text[1], text[0]))[:beams]
    return [(processor.tokenizer.decode(ids, skip_special_tokens=True), mean) for ids, mean in ordered]
