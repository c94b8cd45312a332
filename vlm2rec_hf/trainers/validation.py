"""What is ranked when training is validated."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples


class EvaluationCatalogues:
    """The prepared items of the dataset that is evaluated.

    A dataset with the items of the training dataset uses the training catalogue; any other gets one of its own, which
    is kept until yet another dataset is asked for. A user's vector and an item's must speak of the same items.

    Args:
        dataset: the training dataset.
        catalogue: its prepared items.
        prepare: prepares the items of another dataset.
    """

    def __init__(
        self, dataset: RecDataset, catalogue: PreparedCatalogue, prepare: Callable[[RecDataset], PreparedCatalogue]
    ) -> None:
        self._known = [(dataset, catalogue)]
        self._prepare = prepare

    def of(self, dataset: RecDataset) -> PreparedCatalogue:
        """The catalogue in whose order `dataset` counts its items."""
        from ..data.catalogue_items import same_items

        for known, catalogue in self._known:
            if dataset is known or same_items(dataset, known):
                return catalogue
        self._known[1:] = [(dataset, self._prepare(dataset))]
        return self._known[1][1]


def has_validation(dataset: RecDataset) -> bool:
    """Whether the dataset has a validation split with anybody to rank."""
    return dataset.split_spec["kind"] != "none" and len(dataset.examples("validation", max_history=1)) > 0


def validation_examples(dataset: RecDataset, max_history: int, users: int | None = None) -> Examples:
    """The validation split's examples, or only `users` of them, evenly spread.

    Raises:
        ValueError: the dataset has no validation split.
    """
    examples = dataset.examples("validation", max_history=max_history)
    if len(examples) == 0:
        raise ValueError(
            "`eval_dataset` has no validation split; call `leave_one_out()` or `temporal_split(...)` on it first."
        )
    return examples.spread(users)
