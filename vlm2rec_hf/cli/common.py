"""What the commands share: opening a dataset, telling the user something, errors in the words of the options."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .arguments import given_options

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..evaluation.report import Report
    from .arguments import DataArguments, EncoderModelArguments


def open_dataset(arguments: DataArguments) -> RecDataset:
    """Load, filter and split a dataset as the arguments say; a split it already has is kept.

    Raises:
        ValueError: no dataset named, one without interactions, an unknown split, or filters or another split of a
            dataset that is split already.
    """
    return filtered(read_dataset(arguments), arguments)


def read_dataset(arguments: DataArguments) -> RecDataset:
    """The dataset that the arguments name, as it comes.

    Raises:
        ValueError: no dataset named, or nothing readable there.
    """
    from ..data.readers import load_recsys

    check_split(arguments.split or "leave_one_out")
    if not arguments.dataset:
        raise ValueError("`--dataset` is required: a folder that `vlm2rec prepare` wrote, raw data, or a Hub id.")
    options = reading_options(arguments)
    names = {"split_column=None": "--split_column none", **{name: f"--{name}" for name in ("day_first", *options)}}
    places = dict.fromkeys(("path_or_hub_id", "repo_id", "folder", "path"), "--dataset")
    with named_as_options(**places, **names):
        dataset = load_recsys(arguments.dataset, format=arguments.format, revision=arguments.revision, **options)
    if not dataset.n_interactions:
        raise ValueError(f"`--dataset` {arguments.dataset!r} holds no interactions; there is nothing to go on with.")
    return dataset


def reading_options(arguments: DataArguments) -> dict[str, Any]:
    """How raw tables are read, as far as the arguments say."""
    options: dict[str, Any] = {}
    if arguments.column_mapping:
        options["column_mapping"] = column_mapping(arguments.column_mapping)
    if arguments.text_columns:
        options["text_columns"] = item_ids(arguments.text_columns)
    if arguments.day_first is not None:
        options["day_first"] = arguments.day_first
    if arguments.split_column is not None:
        options["split_column"] = None if arguments.split_column == "none" else arguments.split_column
    return options


def filtered(dataset: RecDataset, arguments: DataArguments) -> RecDataset:
    """The dataset filtered and split as the arguments say.

    Raises:
        ValueError: an unknown split, or filters or another split of a dataset that is split already.
    """
    if arguments.k_core:
        dataset = dataset.k_core(arguments.k_core)
    if dataset.split_spec["kind"] == "none":
        dataset = split_dataset(dataset, arguments.split or "leave_one_out")
    elif arguments.split is not None and not _is_split(dataset, arguments.split):
        raise ValueError(
            f"`--split` {arguments.split!r} must come before the split (the dataset has one already: "
            f"{dataset.split_spec['kind']!r}). Leave the option out to keep that split, or prepare the dataset again "
            "from its raw files (with `--split_column none` if they hold the split)."
        )
    if arguments.cold_items:
        dataset = dataset.hold_out_cold_items(arguments.cold_items)
    return dataset


def split_dataset(dataset: RecDataset, split: str) -> RecDataset:
    """Split by `leave_one_out`, `temporal:A,B` (shares of all interactions before validation and test) or `none`."""
    shares = check_split(split)
    if shares is not None:
        return dataset.temporal_split(quantiles=shares)
    return dataset if split == "none" else dataset.leave_one_out()


def check_split(split: str) -> tuple[float, float] | None:
    """The shares of a temporal split; None of another one.

    Raises:
        ValueError: an unknown split.
    """
    kind, _, shares = split.partition(":")
    if kind == "temporal":
        try:
            first, second = (float(part) for part in shares.split(","))
        except ValueError:
            raise ValueError(f"`--split` {split!r} must look like temporal:0.8,0.9.") from None
        if not 0 < first <= second < 1:
            raise ValueError(f"`--split` {split!r} must name two rising shares between 0 and 1, as temporal:0.8,0.9.")
        return first, second
    if split not in ("leave_one_out", "none"):
        raise ValueError(f"`--split` must be leave_one_out, temporal:A,B or none, got {split!r}.")
    return None


def _is_split(dataset: RecDataset, split: str) -> bool:
    """Whether a dataset has the split that is asked for, so that nothing would change."""
    spec = dataset.split_spec
    if split.startswith("temporal:"):
        return spec["kind"] == "temporal" and split == "temporal:" + ",".join(map(str, spec.get("quantiles", ())))
    return split == spec["kind"]


def say(text: str) -> None:
    """Tell the user something; standard output stays free for results."""
    print(text, file=sys.stderr, flush=True)


def require(value: str | None, option: str, what: str) -> str:
    """The value of a required option.

    Raises:
        ValueError: it is missing.
    """
    if not value:
        raise ValueError(f"`{option}` is required: {what}.")
    return value


def print_report(report: Report) -> None:
    """Print a report, and what only a PixRec model's facts hold."""
    print(report.to_markdown())
    for name, words in (
        ("with_seen", "With the items of the past as candidates (repeat-last can only win here)"),
        ("generated", "By generated text and BM25, beside tower similarity, on the same users"),
    ):
        rows = {key: value for key, value in report.facts.get(name, {}).items() if isinstance(value, dict)}
        if rows:
            columns = list(next(iter(rows.values())))
            print(f"\n{words}:\n\n| method | {' | '.join(columns)} |\n" + "|---" * (len(columns) + 1) + "|")
            for method, row in rows.items():
                print("| " + " | ".join([method, *(f"{row[column]:.4f}" for column in columns)]) + " |")


@contextmanager
def named_as_options(**names: str) -> Iterator[None]:
    """Let errors about arguments of Python functions name the options that they came from.

    Args:
        names: argument -> option, such as `where="--model"`.

    Raises:
        ValueError: as raised inside, with `` `where` `` written as `` `--model` ``.
    """
    try:
        yield
    except ValueError as error:
        text = str(error)
        for argument, option in names.items():
            text = text.replace(f"`{argument}`", f"`{option}`")
        raise (
            error if text == str(error) else ValueError(text).with_traceback(error.__traceback__)
        ) from error.__cause__


def refuse_given(kind: str | None, owners: Sequence[str], whose: str, given: Sequence[str]) -> None:
    """Refuse options that the user set and the kind of model at hand does not have; see `refuse_options`.

    Raises:
        ValueError: there is one.
    """
    from ..loading import refuse_options

    with named_as_options(model="--model", **{name: f"--{name}" for name in given}):
        refuse_options(kind, owners, whose, **dict.fromkeys(given, True))


def refuse_for_trained(kind: str | None, models: EncoderModelArguments) -> None:
    """Refuse options of a new embedder that the user set beside a model which is trained already and has its own.

    Args:
        kind: `model_type` of what `--model` names.
        models: the arguments.

    Raises:
        ValueError: there is one.
    """
    from ..loading import METHODS

    for name in ("fusion", "template"):
        if kind in METHODS and name in given_options(models):
            raise ValueError(
                f"`--{name}` {getattr(models, name)!r} is an option of a new embedder, and `--model` {models.model!r} "
                f"is a trained {kind} model, which is as it was made; leave it out."
            )


def item_ids(text: str) -> list[str]:
    """`1,2,3` as a list of ids; the empty text is no ids."""
    return [part.strip() for part in text.split(",") if part.strip()]


def column_mapping(text: str) -> dict[str, str]:
    """`user=user_id,sku=item_id` as a mapping."""
    pairs = [pair.split("=") for pair in text.split(",")]
    if any(len(pair) != 2 or not all(part.strip() for part in pair) for pair in pairs):
        raise ValueError(f"`--column_mapping` must look like user=user_id,sku=item_id, got {text!r}.")
    return {theirs.strip(): ours.strip() for theirs, ours in pairs}
