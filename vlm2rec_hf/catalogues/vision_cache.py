"""The frozen-vision cache: each distinct image passes a vision tower once, and its features stay on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..files import whole_file
from ..modeling.family_vlm2rec import ImageFeatures
from ..modeling.items_vlm2rec import PreparedItem, as_item, check_list
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .image_reader import ImageReader, ReadImage
from .vision_cache_files import DTYPES, FORMAT_VERSION, KEY_BYTES
from .vision_cache_store import KEY, FeatureStore
from .vision_tower import (
    preprocessing_fingerprint,
    preprocessing_settings,
    ready_to_encode,
    run_vision_tower,
    tower_fingerprint,
)

if TYPE_CHECKING:
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

_ROUNDS = 3


class StoredImages:
    """Which item of a sequence has which image of a store. Pickles without the features.

    Args:
        store: where the features are.
        keys: `(n,)` keys of the items' images.
        present: `(n,)` bool; an item without an image has no key.
    """

    def __init__(self, store: FeatureStore, keys: np.ndarray, present: np.ndarray) -> None:
        self.store, self.keys, self.present = store, keys, present

    def key(self, index: int) -> bytes | None:
        """The key of an item's image."""
        return bytes(self.keys[index]).ljust(KEY_BYTES, b"\0") if self.present[index] else None

    def get(self, index: int) -> tuple[tuple[int, ...] | None, ImageFeatures | None]:
        """Vision grid and features of an item's image, mapped from the disk; `(None, None)` without one."""
        key = self.key(index)
        return (None, None) if key is None else self.store.get(key)


class VisionCache:
    """Features of images on disk, for any number of vision towers.

    An image is known by its pixels, not by its file's name. Features live in one sub-folder per tower weights,
    preprocessing and `dtype`, so that another tower never finds them. Several processes may use one folder at once;
    a process killed while writing leaves everything committed before. Features are read as memory-mapped views.

    Args:
        folder: made if absent; on a disk of this machine where speed counts.
        dtype: `"float32"` (exact for a float32 tower), `"bfloat16"` (exact for a bfloat16 tower) or `"float16"`.
        verify: check the stored checksums of the features a fill relies on before it ends, which reads them once;
            with `False` they are checked when they are first read.
        segment_bytes: commit when this much waits in memory.
        commit_seconds: commit at least this often while filling: what a killed process can lose.

    Raises:
        ValueError: an unknown `dtype`, a `folder` that is a file, or numbers below 1 (`commit_seconds`: below 0).
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        dtype: str = "float32",
        verify: bool = True,
        segment_bytes: int = 256 * 2**20,
        commit_seconds: float = 60.0,
    ) -> None:
        if dtype not in DTYPES:
            raise ValueError(f"`dtype` must be one of {DTYPES}, got {dtype!r}.")
        if segment_bytes < 1 or commit_seconds < 0:
            raise ValueError(
                f"`segment_bytes` must be at least 1 and `commit_seconds` at least 0, got {segment_bytes} and "
                f"{commit_seconds}."
            )
        self.folder, self.dtype, self.verify = Path(folder), dtype, verify
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"`folder` {str(folder)!r} is a file; name a folder for the vision cache.")
        self._segment_bytes, self._commit_seconds = segment_bytes, commit_seconds
        self._stores: dict[str, FeatureStore] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_stores": {}}

    def __enter__(self) -> VisionCache:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def store(self, model: VLM2RecEmbedder, processor: VLM2RecProcessor) -> FeatureStore:
        """The part of the cache that belongs to a model's tower and a processor's settings."""
        tower, preprocessing = tower_fingerprint(model), preprocessing_fingerprint(processor)
        name = f"v{FORMAT_VERSION}-{tower}-{preprocessing[:16]}-{self.dtype}"
        if name not in self._stores:
            self._stores[name] = FeatureStore(
                self.folder / name, self.dtype, self._segment_bytes, self._commit_seconds
            )
            vision: Any = model.config.vlm_config
            about = {
                "model_type": vision.model_type,
                "tower": tower,
                "preprocessing": preprocessing_settings(processor),
            }
            _describe(self.folder / name, {**about, "dtype": self.dtype})
        return self._stores[name]

    def flush(self) -> None:
        """Commit what waits in memory. `fill` does so at its end; `prepare` leaves it to the next commit.

        Raises:
            OSError: the disk is full; nothing is lost.
        """
        for store in self._stores.values():
            store.flush()

    def fill(
        self,
        model: VLM2RecEmbedder,
        processor: VLM2RecProcessor,
        items: Sequence[Any],
        *,
        batch_size: int = 64,
        workers: int = 0,
        show_progress: bool = False,
        device: torch.device | str | None = None,
    ) -> StoredImages:
        """Run those images through the tower that the cache does not hold yet, equal ones once, and commit them.

        Args:
            model: its tower is run in evaluation mode.
            processor: preprocesses the images.
            items: as `as_item` takes them, or empty; read lazily and in order (with several ranks of
                `torch.distributed` each starts elsewhere and takes over what the others have committed).
            batch_size: images per forward pass.
            workers: processes that decode and preprocess.
            show_progress: draw a progress bar.
            device: where the tower runs; where it is by default.

        Raises:
            OSError: the disk is full; what was committed before is kept.
            ValueError: see `FeatureStore.add` and `tower_fingerprint`.
        """
        items = check_list("items", items)
        store = self.store(model, processor)
        store.refresh()
        keys, present = np.zeros(len(items), KEY), np.zeros(len(items), dtype=bool)
        left = _own_order(len(items))
        with tqdm(total=len(items), desc="Images", disable=not show_progress, leave=False) as bar:
            for _ in range(_ROUNDS):  # again where a segment was set aside after it had been relied on
                reader = ImageReader(items, left, processor, store, verify=self.verify)
                with ready_to_encode(model, device):
                    waiting: dict[bytes, ReadImage] = {}
                    for batch in reader.batches(batch_size, workers):
                        for read in batch:
                            if read.key is None:
                                continue
                            keys[read.index], present[read.index] = read.key, True
                            if read.source is not None:
                                store.add_source(read.source, read.key)
                            if read.pixel_values is not None and not store.has(read.key):
                                waiting.setdefault(read.key, read)
                            if len(waiting) == batch_size:
                                encode_waiting(model, waiting, store.add)
                        bar.update(len(batch))
                    encode_waiting(model, waiting, store.add)
                store.flush()
                left = left[present[left]]
                left = left[store.missing(keys[left])]
                if not len(left):
                    return StoredImages(store, keys, present)
                bar.total = (bar.total or 0) + len(left)
        raise OSError(
            f"The vision cache in `folder` {str(store.folder)!r} lost {len(left):,} images right after they were "
            "written; is another process deleting its files, or is the disk failing?"
        )

    def prepare(
        self, model: VLM2RecEmbedder, processor: VLM2RecProcessor, items: Sequence[Any], *, batch_size: int = 64
    ) -> list[PreparedItem]:
        """Raw items as `processor.prepare_items` gives them, but with vision features in the place of pixels.

        Args:
            model: its tower is run for the images that the cache does not hold yet.
            processor: made for this model.
            items: see `as_item`.
            batch_size: images per forward pass.

        Returns:
            In input order. Equal images have equal `key`s.
        """
        typed = [as_item(item) for item in items]
        store = self.store(model, processor)
        texts = [item["text"] for item in typed if item["text"] is not None]
        tokens = iter(processor.tokenize_texts(texts))
        prepared = [PreparedItem(text=next(tokens) if item["text"] is not None else None) for item in typed]
        waiting: dict[bytes, ReadImage] = {}
        with ready_to_encode(model):
            for read in map(ImageReader(typed, range(len(typed)), processor, store).__getitem__, range(len(typed))):
                prepared[read.index].key = read.key
                if read.pixel_values is not None:
                    waiting.setdefault(read.key, read)  # type: ignore[arg-type]
                if len(waiting) == batch_size:
                    encode_waiting(model, waiting, store.add)
            encode_waiting(model, waiting, store.add)
        for item in prepared:
            if item.key is not None:
                item.grid, item.features = store.get(item.key)
        return prepared


def encode_waiting(
    model: VLM2RecEmbedder, waiting: dict[bytes, ReadImage], keep: Callable[[bytes, ImageFeatures], None]
) -> None:
    """Run what waits through the tower, hand each image's features to `keep`, and leave nothing waiting."""
    if not waiting:
        return
    pixels = [read.pixel_values for read in waiting.values() if read.pixel_values is not None]
    grids = [read.grid for read in waiting.values() if read.grid is not None]
    for key, features in zip(waiting, run_vision_tower(model, pixels, grids), strict=True):
        keep(key, features)
    waiting.clear()


def _own_order(count: int) -> np.ndarray:
    """All places; each rank begins at its own share, so that ranks filling one cache divide the work."""
    start = 0
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        start = count * torch.distributed.get_rank() // torch.distributed.get_world_size()
    return np.roll(np.arange(count), -start)


def _describe(folder: Path, about: dict[str, Any]) -> None:
    """Write what a sub-folder belongs to, for people who look into it; nothing reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "about.json").exists():
        with whole_file(folder / "about.json") as partial:
            partial.write_text(json.dumps(about, indent=2, default=str) + "\n", encoding="utf-8")
