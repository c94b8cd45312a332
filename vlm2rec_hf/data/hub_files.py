"""The files of a dataset repo: parquet shards that `datasets` reads by itself, and what only `RecDataset` knows.

    README.md                          front matter with the configs
    dataset.json                       provenance, fingerprint, coverage, and every data file with its size
    interactions/train-*.parquet       likewise validation, test
    items/train-*.parquet              images as the `Image` feature
    quarantine/train-*.parquet         rows taken out, where there are any

Interactions lie in one Hub split per split of ours, so that `load_dataset(..., split="train")` never hands test rows
to somebody's training. Within a user the splits follow one another in time, so that putting the files together and
sorting by user gives back the exact order.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..columns import ITEM_ID, USER_ID
from ..files import json_bytes
from ..hub.card_marks import CARD_FILE, marked, unmarked
from ..hub.card_marks import is_ours as is_our_card
from . import quarantine as q
from .hub_card import with_configs
from .hub_images import for_hub, from_hub
from .ids import encode_stored_ids
from .ingest import Provenance
from .interaction_log import SPLIT, InteractionLog, log_from_stored, order_users, sort_order
from .sequences import SPLIT_CODES

if TYPE_CHECKING:
    import datasets

    from .dataset import RecDataset

INFO_FILE = "dataset.json"
INTERACTIONS, ITEMS, QUARANTINE = "interactions", "items", "quarantine"
FORMAT_VERSION = 1


class PushedFiles(NamedTuple):
    """What a dataset repo of ours holds.

    Attributes:
        log: the interactions in stored order.
        items: the item dataset, images encoded.
        quarantine: the rows taken out.
        provenance: as recorded; its `source` is what the pushed dataset itself was made from.
        fingerprint: as recorded, not computed.
    """

    log: InteractionLog
    items: datasets.Dataset
    quarantine: pa.Table
    provenance: Provenance
    fingerprint: str


def write_repo_files(
    dataset: RecDataset,
    folder: Path,
    *,
    card: str,
    license: str | None = None,
    max_shard_size: int | str = "500MB",
    quarantine: bool = True,
) -> dict[str, Any]:
    """Write all files of a dataset repo into an empty folder.

    Args:
        dataset: what to write.
        folder: where; exists and is empty.
        card: the README; its `configs` are replaced by the right ones.
        license: licence id for the front matter.
        max_shard_size: bytes in memory per parquet file, or "500MB" and the like.
        quarantine: whether the quarantined rows go along.

    Returns:
        The content of `dataset.json`.

    Raises:
        ValueError: `card` or `max_shard_size` cannot be used.
    """
    import datasets

    most = _shard_bytes(max_shard_size)
    events = dataset.interactions.with_format("arrow")[:]
    for name in _splits(dataset):
        rows = events.filter(pc.equal(events[SPLIT], pa.scalar(SPLIT_CODES[name], events[SPLIT].type)))
        _write_shards(datasets.Dataset(rows), folder / INTERACTIONS, name, most)
    items, label = for_hub(dataset.items)
    _write_shards(items, folder / ITEMS, "train", most)
    if quarantine and len(dataset.quarantine):
        _write_shards(dataset.quarantine, folder / QUARANTINE, "train", most)
    text = with_configs(unmarked(card), repo_configs(dataset, quarantine), license)
    text = marked(text) if is_our_card(card) else text
    (folder / CARD_FILE).write_text(text, encoding="utf-8")
    info = {
        "format_version": FORMAT_VERSION,
        **dataset._provenance.to_dict(),
        "fingerprint": dataset.fingerprint,
        "coverage": dataset.coverage.to_dict(),
        "image_path_column": label,
        "files": {str(p.relative_to(folder).as_posix()): p.stat().st_size for p in sorted(folder.rglob("*.parquet"))},
    }
    (folder / INFO_FILE).write_bytes(json_bytes(info))
    return info


def repo_configs(dataset: RecDataset, quarantine: bool = True) -> list[dict[str, Any]]:
    """Which files each config of a dataset's repo has, as the Hub's cards declare it.

    Args:
        dataset: what is published.
        quarantine: whether the quarantined rows go along.
    """
    parts = {INTERACTIONS: _splits(dataset), ITEMS: ["train"]}
    if quarantine and len(dataset.quarantine):
        parts[QUARANTINE] = ["train"]
    return [
        {
            "config_name": part,
            "data_files": [{"split": name, "path": f"{part}/{name}-*.parquet"} for name in names],
            **({"default": True} if part == INTERACTIONS else {}),
        }
        for part, names in parts.items()
    ]


def _splits(dataset: RecDataset) -> list[str]:
    """The splits with interactions; `train` alone where there are none."""
    return [name for name in SPLIT_CODES if dataset.coverage.splits[name]] or ["train"]


def read_repo_files(folder: Path, *, cache_dir: str | Path | None = None) -> PushedFiles:
    """Read what `write_repo_files` wrote; images stay on disk, memory-mapped.

    Args:
        folder: a clone or a downloaded snapshot.
        cache_dir: where `datasets` keeps its Arrow copies; its own place by default.

    Raises:
        ValueError: a file that `dataset.json` lists is missing or cut off, or `dataset.json` is damaged or newer.
    """
    import datasets

    info = read_info(folder / INFO_FILE)
    _check_files(folder, info["files"])
    by_part: dict[str, list[str]] = {INTERACTIONS: [], ITEMS: [], QUARANTINE: []}
    for name in info["files"]:
        by_part.setdefault(name.split("/")[0], []).append(str(folder / name))
    cache = None if cache_dir is None else str(cache_dir)
    shards = datasets.load_dataset("parquet", data_files=sorted(by_part[ITEMS]), split="train", cache_dir=cache)
    items = from_hub(shards, info["image_path_column"])
    splits = {name: code for code, name in enumerate(SPLIT_CODES)}
    by_part[INTERACTIONS].sort(key=lambda path: (splits.get(Path(path).name.split("-")[0], len(splits)), path))
    events = pa.concat_tables([_read(path) for path in by_part[INTERACTIONS]])
    user, _ = order_users(*encode_stored_ids(events[USER_ID]))
    order = sort_order(user, [])
    log = log_from_stored(events if order is None else events.take(pa.array(order)), _item_ids(items))
    quarantine = q.concat(_read(path) for path in sorted(by_part[QUARANTINE]))
    return PushedFiles(log, items, quarantine, Provenance.from_dict(info), info["fingerprint"])


def read_info(path: Path) -> dict[str, Any]:
    """The content of a `dataset.json`.

    Raises:
        ValueError: it is damaged, or of a newer format.
    """
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        version = int(info["format_version"])
        missing = {"files", "fingerprint", "image_path_column", "name", "split", "steps"} - set(info)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{INFO_FILE} of the dataset repo is damaged ({error!r}); push the dataset again.") from error
    if version > FORMAT_VERSION:
        raise ValueError(f"The dataset repo has format {version}, this package reads {FORMAT_VERSION}; upgrade it.")
    if missing:
        raise ValueError(f"{INFO_FILE} of the dataset repo lacks {sorted(missing)}; push the dataset again.")
    files = info["files"]
    if not isinstance(files, dict) or not all(isinstance(size, int) for size in files.values()):
        raise ValueError(f"{INFO_FILE} of the dataset repo is damaged (`files`); push the dataset again.")
    for name in files:
        # Neither outside the repo nor a pattern: these names say what is to be downloaded.
        if (
            ".." in Path(name).parts
            or Path(name).is_absolute()
            or set("*?[:\\") & set(name)
            or name[-8:] != ".parquet"
        ):
            raise ValueError(f"{INFO_FILE} lists {name!r}, which is no data file of a dataset repo; push it again.")
    for part in (INTERACTIONS, ITEMS):
        if not any(name.startswith(f"{part}/") for name in files):
            raise ValueError(f"{INFO_FILE} of the dataset repo lists no file of {part!r}; push the dataset again.")
    return info


def is_ours(folder: Path) -> bool:
    """Whether a local clone of a dataset repo was written by `write_repo_files`."""
    if not (folder / INFO_FILE).is_file():
        return False
    try:
        info = json.loads((folder / INFO_FILE).read_text(encoding="utf-8"))
    except ValueError:
        # Somebody else's file of this name may hold anything; ours is plain JSON.
        return False
    return isinstance(info, dict) and {"format_version", "fingerprint", "files"} <= set(info)


def _shard_bytes(size: int | str) -> int:
    from datasets.utils.py_utils import convert_file_size_to_int

    try:
        number = convert_file_size_to_int(size)
    except ValueError as error:
        raise ValueError(f"`max_shard_size` must be bytes or a text such as '500MB', got {size!r}.") from error
    if number < 1:
        raise ValueError(f"`max_shard_size` must be at least 1 byte, got {size!r}.")
    return number


def _read(path: str) -> pa.Table:
    import pyarrow.parquet as pq

    return pq.ParquetFile(path).read().replace_schema_metadata(None)


def _item_ids(items: datasets.Dataset) -> pa.Array:
    ids = items.select_columns([ITEM_ID]).with_format("arrow")[:][ITEM_ID]
    return pa.concat_arrays(ids.chunks) if ids.num_chunks else pa.array([], pa.string())


def _check_files(folder: Path, files: dict[str, int]) -> None:
    for name, size in files.items():
        path = folder / name
        present = path.stat().st_size if path.is_file() else None
        if present != size:
            state = "is missing" if present is None else f"has {present} bytes instead of {size}"
            raise ValueError(
                f"The dataset repo is incomplete: {name} {state}. Name a complete version with `revision=`, or push "
                "the dataset again."
            )


def _write_shards(table: datasets.Dataset, folder: Path, split: str, most: int) -> None:
    """Write one Hub split as parquet files of about `most` bytes each, with the features in their metadata."""
    share = len(table) / max(len(table.data), 1)
    count = max(1, min(math.ceil(table.data.nbytes * share / most), len(table)))
    folder.mkdir(exist_ok=True)
    for index in range(count):
        part = table.shard(num_shards=count, index=index, contiguous=True) if count > 1 else table
        part.to_parquet(str(folder / f"{split}-{index:05d}-of-{count:05d}.parquet"))
