"""A dataset repo with the configs `interactions` and `items`, on the Hub or as a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vlm2rec_hf.columns import IMAGE
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.interaction_log import SPLIT

INTERACTIONS, ITEMS = "interactions", "items"


def matches(folder: Path) -> bool:
    """Whether a local folder looks like a dataset repo: its card declares the config `interactions`."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    head = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    return len(head) == 3 and "config_name: interactions" in head[1]


def read_hub(path: str | Path, *, revision: str | None = None, **kwargs: Any) -> RecDataset:
    """Read a dataset repo.

    Args:
        path: `owner/name` on the Hub, or a local folder with a card that declares the configs.
        revision: branch, tag or commit; name one to get the same data for ever.
        **kwargs: passed to `RecDataset.from_tables`. A column `split` of the interactions is taken over by default.

    Raises:
        ValueError: the repo cannot be reached, or has no config `interactions`.
    """
    import datasets

    path = str(path)
    if Path(path).is_dir() and revision is not None:
        raise ValueError(f"`revision` = {revision!r} applies to Hub repos; {path!r} is a local folder.")
    try:
        configs = datasets.get_dataset_config_names(path, revision=revision)
    except (OSError, ValueError) as error:
        raise ValueError(f"The dataset {path!r} (`revision` = {revision!r}) cannot be read: {error}") from error
    if INTERACTIONS not in configs:
        raise ValueError(f"The dataset {path!r} has the configs {configs}; it needs `{INTERACTIONS}` (and `{ITEMS}`).")
    events = _all_rows(datasets.load_dataset(path, INTERACTIONS, revision=revision))
    items = _all_rows(datasets.load_dataset(path, ITEMS, revision=revision)) if ITEMS in configs else None
    if items is not None and isinstance(items.features.get(IMAGE), datasets.Image):
        items = items.cast_column(IMAGE, datasets.Image(decode=False))
    kwargs.setdefault("name", Path(path).name)
    kwargs.setdefault("split_column", SPLIT if SPLIT in events.column_names else None)
    return RecDataset.from_tables(events, items, **kwargs)


def _all_rows(loaded: Any) -> Any:
    import datasets

    # Files of a config may be laid out as several Hub splits; our own split is a column.
    return datasets.concatenate_datasets(list(loaded.values()))
