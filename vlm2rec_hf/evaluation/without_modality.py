"""What an embedder is worth where all texts, or all images, are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ..catalogues.image_reader import typed_or_empty
from ..catalogues.prepared_catalogue import PreparedCatalogue, texts_of
from ..columns import SCORED
from ..data.items import Item
from .embedder import EmbedderEvaluation, evaluate_embedder
from .score_vectors import rank_scored

if TYPE_CHECKING:
    from ..catalogues.vision_cache import VisionCache
    from ..data.sequences import Examples
    from ..modeling.modeling_vlm2rec import Encoding
    from .ranking import Ranking
    from .report import Report

WITHOUT = {"text": " without texts", "image": " without images"}
"""What is added to a method's name in a report where a modality was removed."""
_OTHER = {"text": "image", "image": "text"}


class ItemsWithout(Sequence[Item]):
    """The items of a catalogue with one modality removed.

    Args:
        items: the catalogue.
        modality: `text` or `image`.
    """

    def __init__(self, items: Any, modality: str) -> None:
        self._items, self._modality = items, modality
        self.item_ids = getattr(items, "item_ids", None)
        self._texts = [None] * len(items) if modality == "text" else list(texts_of(items))
        if modality == "text" and hasattr(items, "image_source"):  # else images are told apart by what they show
            self.image_source = items.image_source

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._modality == "image":
            return Item(text=self._texts[range(len(self))[index]], image=None)
        return {**typed_or_empty(self._items[index]), "text": None}

    def texts(self) -> Iterator[str | None]:
        """Every item's text."""
        return iter(self._texts)


def check_without(modalities: Sequence[str]) -> None:
    """Refuse what is no modality.

    Raises:
        ValueError: an unknown modality, or one named twice.
    """
    if isinstance(modalities, str) or len({*modalities} & {*WITHOUT}) < len(modalities):
        raise ValueError(f"`without` must hold some of {sorted(WITHOUT)}, each once, got {modalities!r}.")


def add_without(
    report: Report,
    method: str,
    modality: str,
    model: Any,
    catalogue: PreparedCatalogue,
    examples: Examples,
    whole: EmbedderEvaluation,
    **options: Any,
) -> None:
    """Add a method's rows without a modality to its report, and say so under `facts["without"]`.

    Args:
        report: on `examples`.
        method: name of the embedder in it.
        modality: the one that is removed.
        model: as for `rank_without`, like the rest.
        catalogue: likewise.
        examples: likewise.
        whole: likewise.
        options: likewise.
    """
    name, counts = method + WITHOUT[modality], examples.sequences.train_counts()
    for view, ranking in rank_without(model, catalogue, examples, whole, modality, **options).items():
        report.add(name, ranking, view=view, train_counts=counts)
    report.facts.setdefault("without", {})[name] = {"model": method, "modality": modality}


def rank_without(
    model: Any,
    catalogue: PreparedCatalogue,
    examples: Examples,
    whole: EmbedderEvaluation,
    modality: str,
    *,
    k: int = 20,
    exclude_seen: bool = True,
    batch_size: int | None = None,
    vision_cache: VisionCache | None = None,
    **sharing: Any,
) -> dict[str, Ranking]:
    """Rank the examples of an evaluation again, with one modality removed from every item and every history.

    With external fusion a view does not see the other modality, so that nothing is encoded: the sum of both is the
    view that is left, and the score is made of its vectors and zeros. With internal fusion, or histories with numbers
    (which count items of either kind), everything is encoded anew.

    Args:
        model: the embedder.
        catalogue: as `whole` was made from.
        examples: likewise.
        whole: the evaluation with both modalities.
        modality: the one that is removed, a key of `WITHOUT`.
        k: length of the top lists.
        exclude_seen: leave items of the user's past out of the candidates.
        batch_size: rows per pass of the encoder at most.
        vision_cache: keeps image features on disk.
        sharing: `show_progress` and `across_processes` of `evaluate_embedder`.

    Returns:
        `both`, and `scored` where `whole` has it.
    """
    options: dict[str, Any] = {"k": k, "exclude_seen": exclude_seen}
    numbered = "{number}" in catalogue.processor.history_template
    if model.config.fusion == "external" and not numbered:
        rankings = {"both": whole.rankings[_OTHER[modality]]}
        if SCORED in whole.rankings:
            users, items = (_without(side, modality) for side in (whole.users, whole.items))
            rankings[SCORED] = rank_scored(users, items, examples, whole.score_options, **options)
        return rankings
    others = ItemsWithout(catalogue.items, modality)
    left = PreparedCatalogue(others, catalogue.processor, item_ids=catalogue.item_ids)
    left.cache_features(model, vision_cache)
    result = evaluate_embedder(
        model, left, examples, batch_size=batch_size, score_options=whole.score_options, **options, **sharing
    )
    return {view: ranking for view, ranking in result.rankings.items() if view not in WITHOUT}


def _without(vectors: Encoding, modality: str) -> dict[str, Any]:
    """The views of vectors with external fusion, one modality zero."""
    other = _OTHER[modality]
    left = vectors.view(other)
    return {modality: vectors.view(modality).new_zeros(left.shape), other: left, "both": left}
