"""Is a model evaluated on the data it was trained on, and are its items described as in training?"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.sequences import make_examples
from ..data.training_part import choose_users, with_validation_trained

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from ..modeling.modeling_seqrec import HeadModel

logger = logging.getLogger(__name__)


def dataset_warning(training: Mapping[str, Any], dataset: RecDataset) -> str | None:
    """What to tell before a model is evaluated on `dataset`; `None` where nothing is odd or nothing is known.

    Args:
        training: the model's `training.json`.
        dataset: as evaluated, after filters and split.
    """
    trained = training.get("dataset")
    if trained is not None and not isinstance(trained, dict):
        return f"Cannot tell which data the model was trained on: `dataset` in its training.json is {trained!r}."
    return None if trained is None else difference(trained, dataset.fingerprint, dataset.source)


def difference(trained: Mapping[str, Any], fingerprint: str, source: Mapping[str, Any] | None) -> str | None:
    """How the data at hand differs from what a model was trained on, in words; `None` where it does not.

    Args:
        trained: `repo_id`, `revision`, `fingerprint` of the training data, each may be missing or None.
        fingerprint: of the data at hand.
        source: its `{"repo_id", "revision"}`, or None where it did not come from the Hub.
    """
    known = trained.get("fingerprint")
    theirs, ours = _place(trained), _place(source or {})
    if known and known != fingerprint:
        return (
            f"The model was trained on other data than it is evaluated on: on {theirs or 'data'} with fingerprint "
            f"{known}; this is {ours or 'data'} with fingerprint {fingerprint}. Test users may have been trained on; "
            "name the same version (`--revision`) and the same filters and split to rule that out."
        )
    if theirs and ours and theirs != ours:
        content = "the content is the same" if known else "whether the content is the same is not known"
        return f"The model was trained on {theirs}; this is {ours} ({content})."
    return None


def as_trained(head: HeadModel, examples: Examples) -> Examples:
    """The examples of a head, their sequences marked with what the head was trained on.

    Floors, slices and novelty then count just that. Examples whose targets were trained on are left out: there are
    some in the validation split of a head that `validation_users` of them were held out for.

    Args:
        head: which knows how many users were held out, and how often it saw each item.
        examples: of the dataset that the head was trained on.

    Raises:
        ValueError: all of the targets were trained on.
    """
    users, seed = head.config.validation_users, head.config.validation_seed
    sequences = examples.sequences
    if users is not None:
        everybody = make_examples(sequences, "validation")
        held_out = choose_users(everybody, min(users, len(np.unique(everybody.user))), seed or 0)
        sequences = with_validation_trained(sequences, np.unique(held_out.user))
    seen = None if head.catalogue is None else head.catalogue.popularity.numpy()
    if seen is not None and seen.any() and not np.array_equal(seen, sequences.train_counts()):
        logger.warning(
            "The head saw its items in training at other counts than this dataset has: it was trained on other "
            "interactions, or by an earlier version. Floors, slices and novelty count the dataset's."
        )
    known = sequences.in_training[examples.position]
    if known.all() and len(known):
        raise ValueError("`dataset` has only targets in this `split` that the head was trained on; choose another.")
    if known.any():
        logger.warning(
            f"{int(known.sum()):,} of {len(known):,} examples are left out: the head was trained on their targets "
            f"(`validation_users` {users})."
        )
    return replace(examples, sequences=sequences).take(np.flatnonzero(~known))


def trained_on(head: HeadModel) -> dict[str, Any]:
    """The fact `trained_on` of a report on a head that saw validation items in training; nothing for others."""
    users, seed = head.config.validation_users, head.config.validation_seed
    if users is None:
        return {}
    return {"trained_on": f"train and the validation items of all but {users} users (seed {seed})"}


def trained_columns(training: Mapping[str, Any], dataset: RecDataset) -> list[str] | None:
    """The item columns whose words a PixRec model was trained on, as far as the dataset has them.

    Args:
        training: the model's `training.json`.
        dataset: to be evaluated on.

    Returns:
        Columns for `DescribedItems`; `None` where nothing is known or the dataset has none of them.
    """
    trained = training.get("item_columns")
    if not isinstance(trained, list):
        return None
    present = [name for name in trained if name in dataset.items.column_names]
    if present != trained:
        used = f"by {', '.join(present)}" if present else "by the dataset's usual columns"
        logger.warning(
            f"The model was trained on the item columns {', '.join(trained)}, some of which this dataset lacks; "
            f"items are described {used}. Choose others with `item_columns`."
        )
    return present if present or not trained else None


def _place(source: Mapping[str, Any]) -> str:
    repo_id, revision = source.get("repo_id"), source.get("revision")
    return f"{repo_id} at {revision}" if repo_id and revision else ""
