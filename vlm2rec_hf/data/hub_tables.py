"""The tables of a dataset repo that somebody laid out: what its card names, checked before any of it is fetched.

`datasets.load_dataset(repo)` fetches whatever a card names, web addresses included, and picks a reader by the endings
it finds, some of which unpickle (`.pth` in a webdataset). Here the card is read as plain YAML, its patterns are
matched against the repo's own list of files, and what remains is a list of files and the one plain reader for them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ..columns import DESCRIPTION, ITEM_ID, TEXT, TITLE, USER_ID
from ..hub.front_matter import front_matter

logger = logging.getLogger(__name__)

READERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
}
COMPRESSED = (".gz", ".zst")  # of texts
_TEXTS = ("csv", "json")
_OPTIONS = {
    "csv": (
        "sep", "delimiter", "header", "names", "column_names", "usecols", "skiprows", "quotechar", "quoting",
        "doublequote", "escapechar", "encoding", "comment", "decimal", "thousands", "na_values", "keep_default_na",
        "skipinitialspace",
    ),
    "json": ("field", "encoding"),
}  # fmt: skip
_ABOUT_THE_CONFIG = ("config_name", "data_files", "data_dir", "default", "features", "version", "description")
# What `datasets` takes for no data either, unless it is named outright.
_NO_DATA = ("README.md", "config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")
_INSTEAD = "nothing of it was fetched. Read such tables yourself and give them to `RecDataset.from_tables`."


class HubTable(NamedTuple):
    """One table of a repo.

    Attributes:
        reader: the builder of `datasets` that reads its files: "parquet", "arrow", "csv" or "json".
        files: paths within the repo, in order.
        options: of the reader, as the card sets them.
    """

    reader: str
    files: list[str]
    options: dict[str, Any]


def declared_tables(card: str, paths: Iterable[str], where: str, names: tuple[str, ...]) -> dict[str, HubTable]:
    """What a repo's card says of the tables `names`; the first must be there. Other configs are not looked at.

    Args:
        card: the whole README; "" where there is none.
        paths: every file of the repo.
        where: repo id or folder, for the messages.
        names: the configs that are wanted.

    Raises:
        ValueError: the card cannot be read or lacks the first config, or a wanted one names something outside the
            repo, no file at all, or files that are none of `READERS` or of several kinds.
    """
    data, _ = front_matter(card, f"The dataset {where!r} has a card that")
    configs = data.get("configs") or []
    if not isinstance(configs, list) or not all(isinstance(each, dict) for each in configs):
        raise ValueError(f"The dataset {where!r} has a card whose `configs` is no list of configs; {_INSTEAD}")
    by_name = {each.get("config_name"): each for each in configs}
    if names[0] not in by_name:
        more = "".join(f" (and `{name}`)" for name in names[1:])
        raise ValueError(f"The dataset {where!r} has the configs {list(by_name)}; it needs `{names[0]}`{more}.")
    repo_files = sorted(paths)
    infos = data.get("dataset_info") or []
    return {
        name: _table(by_name[name], infos if isinstance(infos, list) else [infos], repo_files, where)
        for name in names
        if name in by_name
    }


def _table(config: dict[str, Any], infos: list[Any], repo_files: list[str], where: str) -> HubTable:
    name = config["config_name"]
    what = f"The dataset {where!r}: the config {name!r} of its card"
    folder = config.get("data_dir") or ""
    _check_inside(folder, what, "data_dir")
    chosen: dict[str, None] = {}
    for pattern in _patterns(config.get("data_files"), what):
        _check_inside(pattern, what, "data_files")
        matched = _matched(f"{folder.rstrip('/')}/{pattern}" if folder else pattern, repo_files)
        if not matched:
            raise ValueError(f"{what} names {pattern!r} under `data_files`, which is no file of the repo; {_INSTEAD}")
        chosen.update(dict.fromkeys(matched))
    readers: dict[tuple[str, bool], str] = {}
    for path in chosen:
        _check_inside(path, what, "data_files")
        if (reader := _reader(path)) is None:
            endings = f"{', '.join(READERS)} (texts also {', '.join(COMPRESSED)})"
            raise ValueError(f"{what} names {path!r}, which has none of the endings {endings}; {_INSTEAD}")
        readers.setdefault((reader, ".tsv" in PurePosixPath(path).suffixes), path)
    if len(readers) > 1:
        raise ValueError(f"{what} names files of several kinds ({', '.join(readers.values())}); {_INSTEAD}")
    ((reader, tabs),) = readers
    return HubTable(reader, list(chosen), _options(reader, tabs, config, infos, what))


def _patterns(declared: Any, what: str) -> list[str]:
    """The patterns of a config in the order of its splits; the splits are put together anyway."""
    if declared is None:
        return ["**"]
    patterns: list[Any] = []
    for each in declared if isinstance(declared, list) else [declared]:
        paths = each.get("path") if isinstance(each, dict) else each
        patterns += paths if isinstance(each, dict) and isinstance(paths, list) else [paths]
    if not patterns or not all(isinstance(pattern, str) and pattern for pattern in patterns):
        raise ValueError(
            f"{what} has {str(declared)[:200]} under `data_files`, which is neither paths nor splits with paths; "
            f"{_INSTEAD}"
        )
    return patterns


def _check_inside(path: Any, what: str, key: str) -> None:
    """Refuse addresses, paths that leave the repo, and `::`, by which `datasets` opens archives and addresses."""
    if (
        not isinstance(path, str)
        or path.startswith(("/", "~"))
        or ":" in path
        or "\\" in path
        or not path.isprintable()
        or ".." in path.split("/")
    ):
        raise ValueError(f"{what} names {path!r} under `{key}`, which is no relative path within the repo; {_INSTEAD}")


def _matched(pattern: str, there: list[str]) -> list[str]:
    """The files that a pattern names, as `datasets` understands patterns, without asking anybody."""
    from fsspec.utils import glob_translate

    pattern = "/".join(part for part in pattern.split("/") if part not in ("", "."))
    fits = re.compile(glob_translate(pattern)).match
    hidden = _hidden(pattern)
    ignored = set(_NO_DATA) - {PurePosixPath(pattern).name}
    return [
        path for path in there if fits(path) and _hidden(path) == hidden and PurePosixPath(path).name not in ignored
    ]


def _hidden(path: str) -> int:
    """How many parts of a path are hidden; a pattern matches such parts only where it spells them out."""
    parts = PurePosixPath(path).parts
    return sum(part.startswith(".") for part in parts) + sum(part.startswith("__") for part in parts[:-1])


def _reader(path: str) -> str | None:
    suffixes = PurePosixPath(path.lower()).suffixes
    packed = suffixes[-1:] and suffixes[-1] in COMPRESSED
    reader = READERS.get(suffixes[-2 if packed else -1]) if len(suffixes) > bool(packed) else None
    return None if packed and reader not in _TEXTS else reader


def reader_options(table: HubTable) -> dict[str, Any]:
    """The options of a table's reader: the card's, and for CSV what keeps ids and texts as they stand there.

    Only an empty field is null (`NA` may be an id or a title), and the columns of our names are text.
    """
    if table.reader != "csv":
        return table.options
    texts = dict.fromkeys((USER_ID, ITEM_ID, TITLE, TEXT, DESCRIPTION), str)
    typed = {} if "features" in table.options else {"converters": texts}
    return {"keep_default_na": False, "na_values": [""], **typed, **table.options}


def _options(reader: str, tabs: bool, config: dict[str, Any], infos: list[Any], what: str) -> dict[str, Any]:
    known = _OPTIONS.get(reader, ())
    options: dict[str, Any] = {"sep": "\t"} if tabs else {}
    options |= {key: config[key] for key in known if key in config}
    if unused := sorted(str(key) for key in config if key not in (*known, *_ABOUT_THE_CONFIG)):
        logger.warning("%s sets %s, which is not used for %s files.", what, unused, reader)
    if reader in _TEXTS:
        # Texts have no types: in a column that is not named as ours "001" is an id only if the card says so.
        of_name = (i.get("features") for i in infos if isinstance(i, dict) and _is_of(i, config, len(infos)))
        declared = config.get("features") or next(of_name, None)
        if declared:
            options["features"] = _features(declared, what)
    return options


def _is_of(info: dict[str, Any], config: dict[str, Any], count: int) -> bool:
    return info.get("config_name") == config["config_name"] or (count == 1 and "config_name" not in info)


def _features(declared: Any, what: str) -> Any:
    import datasets

    try:
        return datasets.Features._from_yaml_list(declared)
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{what} has `features` that `datasets` cannot read ({error!r}); {_INSTEAD}") from error
