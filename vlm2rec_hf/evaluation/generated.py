"""Rank by generated text: the catalogue's items by how well their texts match what a model wrote (BM25)."""

from __future__ import annotations

import importlib.util
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sequences import spread_rows
from .encoding_inputs import PreparedHistories, check_ranked
from .metrics import ranking_metrics
from .ranking import Ranking, rank_targets
from .scorers import VectorScorer

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.sequences import Examples
    from ..modeling.modeling_pixrec import PixRecModel
    from .generation import Beams
    from .pixrec import PixRecEvaluation

logger = logging.getLogger(__name__)
_WORD = re.compile(r"\w+")


def require_bm25s() -> None:
    """Check that the optional library is installed.

    Raises:
        ValueError: `bm25s` is not installed.
    """
    if importlib.util.find_spec("bm25s") is None:
        raise ValueError(
            "`generate_users` needs the library bm25s, which is not installed; `pip install 'vlm2rec-hf[pixrec]'`."
        )


@dataclass(frozen=True)
class GenerationOptions:
    """Ranking a PixRec model's generated texts by BM25, beside its towers.

    Attributes:
        users: how many users, evenly spread.
        beams: beams of the generation.
        max_new_tokens: tokens of a generated text at most.

    Raises:
        ValueError: a number below 1, or `bm25s` is not installed.
    """

    users: int
    beams: int = 4
    max_new_tokens: int = 24

    def __post_init__(self) -> None:
        for name in ("users", "beams", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        require_bm25s()


@dataclass(frozen=True)
class GeneratedRanking:
    """Result of `rank_generated`.

    Attributes:
        ranking: ranks and top items of every example.
        beams: per example the texts, best first.
    """

    ranking: Ranking
    beams: list[Beams]


class LexicalScorer:
    """BM25 scores of the catalogue's texts for what was written, summed over the beams by their probability.

    Args:
        texts: `(n_items,)` the catalogue's texts; `None` matches nothing.
        beams: per example the texts written, with mean log-probabilities.

    Raises:
        ValueError: `bm25s` is not installed, or no item has a text.
    """

    def __init__(self, texts: Sequence[str | None], beams: Sequence[Beams]) -> None:
        require_bm25s()
        import bm25s

        words = [_words(text or "") for text in texts]
        if not any(words):
            raise ValueError("`texts` hold no word; there is nothing to match generated text against.")
        self._known = {word for one in words for word in one}
        self._index: Any = bm25s.BM25()
        self._index.index(words, show_progress=False)
        self._n_items = len(texts)
        self._beams = beams

    @property
    def n_items(self) -> int:
        """Size of the catalogue."""
        return self._n_items

    def __len__(self) -> int:
        return len(self._beams)

    def scores(self, rows: slice) -> np.ndarray:
        """`(b, n_items)` float64, 0 where no word matches."""
        return np.stack([self._scores_of(beams) for beams in self._beams[rows]])

    def _scores_of(self, beams: Beams) -> np.ndarray:
        total = np.zeros(self._n_items)
        best = max((score for _, score in beams), default=0.0)
        weights = [math.exp(score - best) for _, score in beams]
        for (text, _), weight in zip(beams, weights, strict=True):
            known = [word for word in _words(text) if word in self._known]
            if known:
                total += weight / sum(weights) * np.asarray(self._index.get_scores(known), dtype=np.float64)
        return total


def rank_generated(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    texts: Sequence[str | None],
    examples: Examples,
    *,
    beams: int = 4,
    max_new_tokens: int = 24,
    k: int = 20,
    exclude_seen: bool = True,
    batch_size: int = 16,
    show_progress: bool = False,
) -> GeneratedRanking:
    """Write the next item's text for each example and rank the full catalogue by lexical match.

    Items that share no word with any text tie at 0, and ties count against the target.

    Args:
        model: the model.
        catalogue: the prepared items.
        texts: `(n_items,)` the items' texts, to match against.
        examples: who to rank for.
        beams: texts per example.
        max_new_tokens: longest text.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out of the candidates.
        batch_size: histories at once.
        show_progress: draw a progress bar.

    Raises:
        ValueError: a catalogue of other items than the examples' (or in another order), features of another vision
            tower, another number of texts, or no examples.
    """
    from .generation import generate_next_items

    require_bm25s()
    check_ranked(catalogue, examples)
    if len(texts) != len(catalogue):
        raise ValueError(
            f"`texts` must have one entry per item of the catalogue ({len(catalogue)}), got {len(texts)}."
        )
    catalogue.check_features(model)  # type: ignore[arg-type]
    histories = PreparedHistories(catalogue, examples.histories(), examples.max_history)
    written: list[list[tuple[str, float]]] = [[] for _ in range(len(histories))]
    generated = generate_next_items(
        model,
        histories.readable(),
        catalogue.processor,  # type: ignore[arg-type]
        beams=beams,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        show_progress=show_progress,
    )
    for row, texts_of_row in zip(histories.known, generated, strict=True):
        written[row] = texts_of_row
    ranking = rank_targets(LexicalScorer(texts, written), examples, k=k, exclude_seen=exclude_seen)
    return GeneratedRanking(ranking, written)


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def compare_generated(
    model: PixRecModel,
    catalogue: PreparedCatalogue,
    examples: Examples,
    towers: PixRecEvaluation,
    options: GenerationOptions,
    *,
    ks: Sequence[int] = (10, 20),
    exclude_seen: bool = True,
) -> dict[str, Any]:
    """Rank some users by generated text and by tower similarity, side by side.

    Args:
        model: the model.
        catalogue: the prepared items; `catalogue.items.texts()` are matched.
        examples: all examples that `towers` ranks.
        towers: the model's ranking of them by its towers.
        options: how many users, and how texts are generated.
        ks: cut-offs.
        exclude_seen: leave items of the user's past out.

    Returns:
        Plain JSON values: the options, `generation` and `towers` (metrics of the same users), the first texts.
    """
    rows = spread_rows(len(examples), options.users)
    some = examples.take(rows)
    logger.info(f"Generating the next item's text for {len(some)} users with {options.beams} beams.")
    generated = rank_generated(
        model,
        catalogue,
        list(catalogue.items.texts()),  # type: ignore[attr-defined]
        some,
        beams=options.beams,
        max_new_tokens=options.max_new_tokens,
        exclude_seen=exclude_seen,
        show_progress=True,
    )
    scorer = VectorScorer(towers.users[rows], towers.items, normalize=True)
    return {
        "beams": options.beams,
        "max_new_tokens": options.max_new_tokens,
        "n_examples": len(some),
        "generation": ranking_metrics(generated.ranking.ranks, ks),
        "towers": ranking_metrics(rank_targets(scorer, some, exclude_seen=exclude_seen).ranks, ks),
        "first_texts": [texts[0][0] if texts else "" for texts in generated.beams[:5]],
    }
