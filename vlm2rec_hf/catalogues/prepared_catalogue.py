"""A catalogue ready for use: each item is tokenised once, each image passes a frozen vision tower once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm.auto import tqdm

from ..modeling.encoding_vlm2rec import image_key
from ..modeling.family_vlm2rec import ImageFeatures
from ..modeling.items_vlm2rec import PreparedItem, check_list
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .image_reader import ImageReader, ReadImage, reads_images, typed_or_empty
from .vision_cache import StoredImages, VisionCache, encode_waiting
from .vision_cache_files import KEY_BYTES
from .vision_tower import is_sharded, ready_to_encode, tower_fingerprint

if TYPE_CHECKING:
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder


class PreparedCatalogue(Sequence[PreparedItem]):
    """Items by catalogue index, as the processor lays them out.

    Texts are tokenised on construction. Images are decoded and preprocessed when an item is asked for, unless
    `cache_features` was called: then they are vision features and nothing is decoded any more. Items whose images show
    the same share its key, so that each distinct image is encoded once.

    Args:
        items: the catalogue in order; entries as `as_item` takes them, read lazily. An entry may hold neither text
            nor image (it then has zero vectors and never trains).
        processor: made for the backbone at hand.
        item_ids: `(n_items,)` raw ids of `items`. By default those of `items`, if it has an attribute `item_ids`
            (as a dataset's `catalogue_items()` has); else None, and `check_items` can compare lengths only.

    Raises:
        ValueError: another number of ids than of items.
    """

    def __init__(
        self, items: Sequence[Any], processor: VLM2RecProcessor, *, item_ids: Sequence[str] | np.ndarray | None = None
    ) -> None:
        items = check_list("items", items)
        if item_ids is not None and len(item_ids) != len(items):
            raise ValueError(f"`item_ids` must have one id per item ({len(items)}), got {len(item_ids)}.")
        self.items = items
        self.processor = processor
        self._item_ids = None if item_ids is None else np.array([str(item) for item in item_ids], dtype=object)
        self._texts: list[list[int] | None] = [None] * len(items)
        self._features: FeaturesInMemory | StoredImages | None = None
        self._keys: dict[int, bytes | None] = {}
        self._tower: str | None = None
        texts = [(i, text) for i, text in enumerate(texts_of(items)) if text is not None]
        for (i, _), ids in zip(texts, processor.tokenize_texts([text for _, text in texts]), strict=True):
            self._texts[i] = ids or None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[int(index)]
        if not reads_images(self.processor):
            return PreparedItem(text=self._texts[index])
        if self._features is not None:
            grid, features = self._features.get(index)
            return PreparedItem(self._texts[index], grid, features=features, key=self._features.key(index))
        shown = self.processor.image_of(typed_or_empty(self.items[index]))
        if not shown:
            return PreparedItem(text=self._texts[index])
        prepared = self.processor.prepare_items([shown], keys=[image_key(*shown.values())])[0]
        self._keys[index] = prepared.key
        prepared.text = self._texts[index]
        return prepared

    def tokens(self, index: int) -> tuple[int, ...] | None:
        """Tokens of an item's text; `None` without one."""
        text = self._texts[index]
        return None if text is None else tuple(text)

    def image_keys(self, rows: Sequence[int] | np.ndarray) -> torch.Tensor:
        """`image_key` of some items: `(n, 20)` uint8, zeros for `None`."""
        keys = (self.image_key(int(row)) or bytes(KEY_BYTES) for row in rows)
        return torch.from_numpy(np.frombuffer(b"".join(keys), np.uint8).reshape(-1, KEY_BYTES).copy())

    def image_key(self, index: int) -> bytes | None:
        """Hash of what an item's image shows, 20 bytes; `None` without an image, or where the processor reads none.

        Items of equal tokens and keys are equal. An image is decoded for this at most once.
        """
        if not reads_images(self.processor):
            return None
        if self._features is not None:
            return self._features.key(index)
        if index not in self._keys:
            shown = self.processor.image_of(typed_or_empty(self.items[index]))
            self._keys[index] = image_key(*shown.values()) if shown else None
        return self._keys[index]

    def __iter__(self) -> Iterator[PreparedItem]:
        return (self[i] for i in range(len(self)))

    def __repr__(self) -> str:
        named = "with ids" if self.item_ids is not None else "without ids"
        cached = ", vision features cached" if self.has_cached_features else ""
        return f"PreparedCatalogue({len(self):,} items {named}{cached})"

    @property
    def item_ids(self) -> np.ndarray | None:
        """Raw ids in order, `(n_items,)`; None where `items` has none."""
        return getattr(self.items, "item_ids", None) if self._item_ids is None else self._item_ids

    def check_items(self, item_ids: Sequence[str] | np.ndarray, name: str = "catalogue") -> None:
        """Check that the catalogue holds these items in this order; without ids of its own, that it holds as many.

        Args:
            item_ids: raw ids, such as `dataset.item_ids` or `examples.sequences.item_ids`.
            name: the argument that the error names.

        Raises:
            ValueError: other items, or another order.
        """
        if len(self) != len(item_ids):
            raise ValueError(
                f"`{name}` holds {len(self)} items, but the dataset has {len(item_ids)}; prepare the items of the "
                "same dataset (`PreparedCatalogue(dataset.catalogue_items(), processor)`)."
            )
        if self.item_ids is None or np.array_equal(self.item_ids, item_ids):
            return
        row = next(i for i, (own, other) in enumerate(zip(self.item_ids, item_ids, strict=True)) if own != other)
        raise ValueError(
            f"`{name}` must hold the dataset's items in the dataset's order, but item {row} is {self.item_ids[row]!r} "
            f"instead of {item_ids[row]!r}; prepare the items of the same dataset "
            "(`PreparedCatalogue(dataset.catalogue_items(), processor)`)."
        )

    @property
    def has_cached_features(self) -> bool:
        """Whether images are held as vision features (in memory or in a cache on disk)."""
        return self._features is not None

    def text_lengths(self) -> list[int]:
        """Tokens of each item's text; 0 without one."""
        return [len(text or ()) for text in self._texts]

    def is_empty(self, index: int) -> bool:
        """Whether an item has neither a text nor an image that decodes; decodes only where there is no text."""
        return self._texts[index] is None and self.image_key(index) is None

    def cache_features(
        self,
        model: VLM2RecEmbedder,
        cache: VisionCache | None = None,
        *,
        batch_size: int = 64,
        workers: int = 0,
        show_progress: bool = False,
        device: torch.device | str | None = None,
    ) -> PreparedCatalogue:
        """Run every distinct image through the (frozen) vision tower once and keep the features.

        Valid for as long as the tower's weights stay the same (`check_features`).

        Args:
            model: its tower is run in evaluation mode.
            cache: keeps the features on disk for this and later runs, read as memory-mapped views; without one they
                are kept in memory for as long as the catalogue.
            batch_size: images per forward pass.
            workers: processes that decode and preprocess; 0: this one does.
            show_progress: draw a progress bar.
            device: where the tower runs; where it is by default.
        """
        self._features = None
        tower = tower_fingerprint(model)
        if cache is not None:
            how: dict[str, Any] = {"batch_size": batch_size, "workers": workers, "show_progress": show_progress}
            self._features = cache.fill(model, self.processor, self.items, device=device, **how)
        else:
            with ready_to_encode(model, device):
                self._features = self._in_memory(model, batch_size, workers, show_progress)
        self._tower = tower
        return self

    def check_features(self, model: VLM2RecEmbedder) -> None:
        """Check that the cached features, if any, come from the vision tower of `model`.

        Raises:
            ValueError: the features were made with other weights.
        """
        if self._features is not None and not is_sharded(model) and tower_fingerprint(model) != self._tower:
            raise ValueError(
                "`catalogue` holds vision features made with other vision tower weights than this model's (it was "
                "trained since, or the features are another model's); call `catalogue.cache_features(model)` with it."
            )

    def _in_memory(
        self, model: VLM2RecEmbedder, batch_size: int, workers: int, show_progress: bool
    ) -> FeaturesInMemory:
        reader = ImageReader(self.items, range(len(self)), self.processor)
        known: dict[bytes, tuple[tuple[int, ...], ImageFeatures]] = {}
        waiting: dict[bytes, ReadImage] = {}
        keys: dict[int, bytes] = {}

        def keep(key: bytes, features: ImageFeatures) -> None:
            known[key] = tuple(features.grid[0].tolist()), features.clone()

        with tqdm(total=len(self), desc="Images", disable=not show_progress, leave=False) as bar:
            for batch in reader.batches(batch_size, workers):
                for read in batch:
                    if read.key is not None:
                        keys[read.index] = read.key
                        if read.key not in known:
                            waiting.setdefault(read.key, read)
                    if len(waiting) == batch_size:
                        encode_waiting(model, waiting, keep)
                bar.update(len(batch))
            encode_waiting(model, waiting, keep)
        return FeaturesInMemory(keys, known)


class FeaturesInMemory:
    """Features by item; equal images share theirs.

    Args:
        keys: of the items' images, by place.
        known: grid and features of each distinct image.
    """

    def __init__(self, keys: dict[int, bytes], known: dict[bytes, tuple[tuple[int, ...], ImageFeatures]]) -> None:
        self.keys, self.known = keys, known

    def key(self, index: int) -> bytes | None:
        """The key of an item's image; `None` without one."""
        return self.keys.get(index)

    def get(self, index: int) -> tuple[tuple[int, ...] | None, ImageFeatures | None]:
        """Vision grid and features of an item's image; `(None, None)` without one."""
        return self.known[self.keys[index]] if index in self.keys else (None, None)


def texts_of(items: Sequence[Any]) -> Iterator[str | None]:
    """Texts of the items, without decoding images if the sequence can give its texts alone."""
    source = items.texts() if hasattr(items, "texts") else (typed_or_empty(item)["text"] for item in items)
    return (text if text and text.strip() else None for text in source)
