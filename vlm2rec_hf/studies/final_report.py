"""The one time that a run's test split is read: its report, with every rank and with one modality removed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..data.items import Item
from .report_options import report_options
from .runs import MODEL_FOLDER, REPORT_FOLDER, Run
from .shared_work import shared_start, vision_cache
from .study_file import DEMO_SHOP

if TYPE_CHECKING:
    import numpy as np

    from ..data.catalogue_items import CatalogueItems
    from ..data.dataset import RecDataset
    from ..evaluation.report import Report

WITHOUT = {"text": " without texts", "image": " without images"}
"""What is added to a method's name in a report where a modality was removed."""


class ItemsWithout(Sequence[Item]):
    """The items of a catalogue with one modality removed.

    Args:
        items: the catalogue.
        modality: `text` or `image`.
    """

    def __init__(self, items: CatalogueItems, modality: str) -> None:
        self._items, self._modality = items, modality
        self._texts = [None] * len(items) if modality == "text" else list(items.texts())

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if self._modality == "image":
            return Item(text=self._texts[range(len(self))[index]], image=None)
        return {**self._items[index], "text": None}

    @property
    def item_ids(self) -> np.ndarray:
        """Raw ids in order: `(n,)`."""
        return self._items.item_ids

    def image_source(self, index: int) -> bytes | None:
        """Hash of an item's image file; `None` without one."""
        return None if self._modality == "image" else self._items.image_source(index)

    def texts(self) -> Iterator[str | None]:
        """Every item's text."""
        return iter(self._texts)


def report_test_users(run: Run, dataset: RecDataset) -> dict[str, Any]:
    """Rank a run's test users and save the report, with every single rank.

    Args:
        run: trained.
        dataset: the prepared data set.

    Returns:
        Facts for the run's result.
    """
    from ..evaluation.evaluating import encodable_items, evaluate
    from ..loading import load_with_processor, weight_files_fingerprint

    began, folder = time.perf_counter(), run.folder / MODEL_FOLDER
    facts: dict[str, Any] = {"seed": run.seed, "study": run.study.name}
    if run.method.kind == "zero_shot":
        loaded = shared_start(run, dataset)
    else:
        loaded = load_with_processor(folder)
        facts["weights"] = weight_files_fingerprint(folder)
    chosen = report_options(run)
    options = {**chosen, "max_users": run.data.max_users, "report_name": run.method.name, "facts": facts}
    if run.method.kind == "head":
        report = evaluate(loaded.model, dataset, **options)
    else:
        catalogue = encodable_items(loaded, dataset, vision_cache=vision_cache(run.study))
        report = evaluate(loaded, dataset, catalogue=catalogue, **options)
        for modality in WITHOUT:
            _add_without(report, run, loaded, dataset, modality, chosen)
    if run.data.source == DEMO_SHOP:
        _add_oracle(report, run, dataset, loaded, chosen)
    report.facts["seconds"] = round(time.perf_counter() - began, 1)
    report.save(run.folder / REPORT_FOLDER)
    return {"weights": facts.get("weights")}


def _add_oracle(report: Report, run: Run, dataset: RecDataset, loaded: Any, chosen: Mapping[str, Any]) -> None:
    """What a model that knew the demo shop's true choice probabilities would score."""
    from ..data.demo_shop import make_demo_shop
    from ..evaluation.evaluating import users_of
    from ..evaluation.ranking import rank_targets

    is_head = run.method.kind == "head"
    history = loaded.model.config.max_length if is_head else chosen.get("max_history", loaded.max_history)
    examples = users_of(dataset, "test", history, run.data.max_users, loaded.model if is_head else None)
    oracle, exclude_seen = make_demo_shop(**run.data.shop).oracle(examples), report.protocol.exclude_seen
    ranking = rank_targets(oracle, examples, k=max(report.protocol.k), exclude_seen=exclude_seen)
    report.add_floor("oracle", ranking, train_counts=examples.sequences.train_counts())


def _add_without(
    report: Report, run: Run, loaded: Any, dataset: RecDataset, modality: str, chosen: Mapping[str, Any]
) -> None:
    """Rank the same users with one modality removed from every item and history, in all views but the two alone."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..evaluation.embedder import evaluate_embedder
    from ..evaluation.evaluating import users_of

    catalogue = PreparedCatalogue(ItemsWithout(dataset.catalogue_items(), modality), loaded.processor)
    catalogue.cache_features(loaded.model, vision_cache(run.study))
    examples = users_of(dataset, "test", chosen.get("max_history", loaded.max_history), run.data.max_users)
    same: dict[str, Any] = {name: chosen.get(name) for name in ("batch_size", "score_options")}
    same |= {"k": max(report.protocol.k), "exclude_seen": report.protocol.exclude_seen}
    result = evaluate_embedder(loaded.model, catalogue, examples, **same)
    counts = examples.sequences.train_counts()
    for view, ranking in result.rankings.items():
        if view not in ("text", "image"):
            report.add(run.method.name + WITHOUT[modality], ranking, view=view, train_counts=counts)
