"""Read what lies in a model folder, as plain data, and leave out what is nobody's business on the Hub."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from ..loading import TRAINING_FILE as TRAINING_FILE
from ..loading import weight_files_fingerprint

EVALUATION = "evaluation"
REPORT_FILE = "evaluation/report.json"
_ABSOLUTE = re.compile(r"^(/|~|[A-Za-z]:[\\/]|\\\\|file:)")
_DROPPED = re.compile(r"(^|_)(token|api_key|password|secret)$|(^|_)dir$|^(run_name|hub_model_id)$")


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None where there is no file.

    Raises:
        ValueError: the file holds something else.
    """
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:  # JSON and Unicode errors are both ValueErrors
        raise ValueError(f"`folder` holds a damaged {path.name} ({error}); write it again.") from error
    if not isinstance(values, dict):
        raise ValueError(
            f"`folder` holds a {path.name} with a {type(values).__name__}, expected an object; write it again."
        )
    return values


def read_report(folder: Path) -> dict[str, Any] | None:
    """The report in a model folder; None where there is none, or one of other weights than lie there now.

    Training again into the same folder leaves the earlier report behind; its numbers must not get onto the new card.
    """
    report = read_json(folder / REPORT_FILE)
    measured = text_or_none(section(report or {}, "facts", REPORT_FILE), "weights")
    return None if measured is not None and measured != weight_files_fingerprint(folder) else report


def section(values: dict[str, Any], name: str, source: str) -> dict[str, Any]:
    """A nested object of a JSON file; empty where absent or null.

    Raises:
        ValueError: it is something else.
    """
    content = values.get(name)
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ValueError(
            f"`folder` holds a {source} whose `{name}` is {content!r}, expected an object; write it again."
        )
    return content


def text_or_none(values: dict[str, Any], name: str) -> str | None:
    """A value as text; None where absent, null or blank."""
    value = values.get(name)
    return None if value is None or not str(value).strip() else str(value)


def publishable(value: Any, *, nulls: bool = False) -> Any:
    """Plain data without secrets (`hub_token`, ...), folders (`output_dir`, ...) and the beginnings of local paths.

    Args:
        value: anything.
        nulls: keep what is null.
    """
    if isinstance(value, dict):
        kept = {
            str(name): publishable(inner, nulls=nulls)
            for name, inner in value.items()
            if not _DROPPED.search(str(name))
        }
        return {name: inner for name, inner in kept.items() if nulls or inner is not None}
    if isinstance(value, (list, tuple)):
        return [publishable(inner, nulls=nulls) for inner in value]
    if isinstance(value, (set, frozenset)):
        return [publishable(inner, nulls=nulls) for inner in sorted(value, key=str)]
    if isinstance(value, str):
        return local_name(value)
    return value if value is None or isinstance(value, (bool, int, float)) else str(value)


def local_name(text: str) -> str:
    """The last part of a local path, other text as it is: a path says something of a machine, nothing of a model."""
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1] if _ABSOLUTE.search(text) else text


def embedder_name(config: dict[str, Any]) -> str | None:
    """The embedder that a head's configuration names; of a folder, relative or not, the last part alone.

    A version by weights, not by commit, says that it was a folder: `runs/shop` reads like a Hub id of somebody else.
    """
    where = text_or_none(config, "embedder")
    if where is None or not str(config.get("embedder_revision")).startswith("sha256:"):
        return where and local_name(where)
    return re.split(r"[\\/]", where.rstrip("\\/"))[-1]


def find_figures(folder: Path) -> tuple[str, ...]:
    """Paths of the images of the evaluation, relative to the model folder, with forward slashes, by name."""
    return tuple(f"{EVALUATION}/{path.name}" for path in sorted((folder / EVALUATION).glob("*.png")))


def has_remote_code(folder: Path, config: dict[str, Any]) -> bool:
    """Whether the folder holds the code that its config's `auto_map` names, so that it loads without this package."""
    named = config.get("auto_map")
    if not isinstance(named, dict) or "AutoModel" not in named:
        return False
    modules = {str(target).split("--")[-1].rpartition(".")[0] for target in named.values() if isinstance(target, str)}
    return all((folder / f"{module}.py").is_file() for module in modules)


def first_item_ids(folder: Path, count: int) -> tuple[str, ...]:
    """The first ids of a head's `catalogue.parquet`, for a snippet that runs; empty without the file or the column."""
    path = folder / "catalogue.parquet"
    if not path.is_file():
        return ()
    import pyarrow.parquet as pq

    from ..columns import ITEM_ID

    with pq.ParquetFile(path) as file:
        if ITEM_ID not in file.schema_arrow.names:
            return ()
        batch = next(file.iter_batches(batch_size=count, columns=[ITEM_ID]), None)
    return tuple(str(value) for value in batch.column(0).to_pylist()) if batch is not None else ()
