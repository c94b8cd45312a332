"""What is read, decoded and tokenised for encoding, in this process or ahead of it in others."""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from .processing_vlm2rec import PreparedItem, VLM2RecProcessor, as_item, check_list

Example = list[PreparedItem]
Prepare = Callable[[list[Any]], list[PreparedItem]]


class Feed:
    """Prepared examples, a piece at a time, in order.

    Args:
        source: items, or histories (lists of items).
        role: `"item"` or `"user"`, what `source` holds.
        processor: prepares them.
        piece: examples per piece.
        workers: processes that prepare ahead; 0: the calling process does, when a piece is asked for.
        prepare: raw items -> prepared ones, in the calling process; by default, and in workers, `prepare_distinct`.

    Attributes:
        waits: seconds that the caller waited for each piece.
    """

    def __init__(
        self,
        source: Sequence[Any],
        role: str,
        processor: VLM2RecProcessor,
        piece: int,
        workers: int = 0,
        prepare: Prepare | None = None,
    ) -> None:
        if not isinstance(workers, int) or workers < 0:
            raise ValueError(f"`workers` must be a whole number of at least 0, got {workers!r}.")
        # What another process gets must not hold this one's model, which `prepare` knows.
        self.pieces = _Pieces(source, role, processor, piece, None if workers else prepare)
        self.workers = min(workers, len(self.pieces))
        self.waits: list[float] = []

    def __iter__(self) -> Iterator[list[Example]]:
        pieces = self._ahead() if self.workers else (self.pieces[i] for i in range(len(self.pieces)))
        while True:
            before = time.perf_counter()
            piece = next(pieces, None)
            if piece is None:
                return
            self.waits.append(time.perf_counter() - before)
            yield piece

    def _ahead(self) -> Iterator[list[Example]]:
        loader = DataLoader(
            _Shipped(self.pieces), batch_size=None, num_workers=self.workers, prefetch_factor=2, collate_fn=_same
        )
        with _quiet_tokenizers():
            if multiprocessing.get_start_method() == "fork":
                shipped = iter(loader)
            else:
                try:
                    shipped = iter(loader)
                except Exception as error:  # what cannot be pickled fails in as many ways as there are classes
                    raise ValueError(
                        f"`workers={self.workers}`: what is encoded cannot be handed to another process "
                        f"({error}); pass a sequence that can be pickled (a class of a module, no open files), or "
                        "`workers=0`."
                    ) from error
        return (_unpacked(*piece) for piece in shipped)


class _Pieces:
    """Pieces by number, prepared when asked for."""

    def __init__(
        self, source: Sequence[Any], role: str, processor: VLM2RecProcessor, piece: int, prepare: Prepare | None
    ) -> None:
        self.source, self.role, self.processor, self.piece, self.prepare = source, role, processor, piece, prepare

    def __len__(self) -> int:
        return -(-len(self.source) // self.piece)

    def __getitem__(self, number: int) -> list[Example]:
        rows = range(number * self.piece, min(len(self.source), (number + 1) * self.piece))
        prepare = self.prepare or (lambda items: prepare_distinct(self.processor, items))
        examples = []
        for row in rows:
            with self._naming(row):
                examples.append(self._example(row))
        raw = [
            (row, item)
            for row, example in zip(rows, examples, strict=True)
            for item in example
            if not isinstance(item, PreparedItem)
        ]
        try:
            prepared = iter(prepare([item for _, item in raw]) if raw else [])
        except Exception:
            for row, item in raw:  # which one was it?
                with self._naming(row):
                    prepare([item])
            raise
        return [[item if isinstance(item, PreparedItem) else next(prepared) for item in row] for row in examples]

    def _example(self, row: int) -> list[Any]:
        if self.role == "item":
            return [self.source[row]]
        history = self.source[row]
        check_list("histories[i]", history)
        if not len(history):
            raise ValueError("`histories` must not hold an empty history: it has no embedding; leave that user out.")
        return list(history)[-self.processor.max_history :]

    @contextmanager
    def _naming(self, row: int) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            error.add_note(f"This was `{'items' if self.role == 'item' else 'histories'}[{row}]`.")
            raise


class _Shipped(Dataset):
    """Pieces as they travel between processes: all pixels in one tensor, because each takes a file descriptor."""

    def __init__(self, pieces: _Pieces) -> None:
        self.pieces = pieces

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> tuple[list[Example], torch.Tensor | None, list[tuple[int, int]]]:
        examples = self.pieces[number]
        pixels: dict[int, tuple[int, torch.Tensor]] = {}
        places = []
        for example in examples:
            for i, item in enumerate(example):
                if item.pixel_values is not None:
                    mine = pixels.setdefault(id(item.pixel_values), (len(pixels), item.pixel_values))
                    places.append((mine[0], len(item.pixel_values)))
                    example[i] = replace(item, pixel_values=None)
                else:
                    places.append((-1, 0))
        joined = torch.cat([tensor for _, tensor in pixels.values()]) if pixels else None
        return examples, joined, places


def _unpacked(examples: list[Example], joined: torch.Tensor | None, places: list[tuple[int, int]]) -> list[Example]:
    if joined is not None:
        parts = joined.split([size for _, size in sorted({place for place in places if place[0] >= 0})])
        items = (item for example in examples for item in example)
        for item, (number, _) in zip(items, places, strict=True):
            if number >= 0:
                item.pixel_values = parts[number]
    return examples


def _same(value: Any) -> Any:
    return value


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Forked processes must not use the tokenizer's threads; said beforehand, the library does not warn."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ.setdefault(name, "false")
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)


def prepare_distinct(
    processor: VLM2RecProcessor, items: Sequence[Any], known: Mapping[Any, tuple[int, ...]] | None = None
) -> list[PreparedItem]:
    """Prepare items, keyed by what their pictures show; equal pictures are preprocessed once.

    Args:
        processor: prepares them.
        items: see `as_item`.
        known: keys of pictures whose pixels are not needed any more, and their grids.

    Returns:
        One per item; `pixel_values` are shared between equal pictures and absent for `known` ones.
    """
    typed = [as_item(item) for item in items]
    texts = [i for i, item in enumerate(typed) if item["text"] is not None]
    tokens: dict[int, list[int]] = dict(
        zip(texts, processor.tokenize_texts([typed[i]["text"] for i in texts]), strict=True)
    )
    pictures: dict[Any, PreparedItem] = {}
    prepared = []
    for i, item in enumerate(typed):
        one = PreparedItem(text=tokens.get(i))
        if item["image"] is not None:
            image = item["image"].convert("RGB")
            key = ("picture", picture_key(image))
            if known is not None and key in known:
                pictures[key] = PreparedItem(grid=known[key], key=key)
            elif key not in pictures:
                pictures[key] = processor.prepare_items([{"image": image}], keys=[key])[0]
            one = replace(pictures[key], text=one.text)
        prepared.append(one)
    return prepared


def picture_key(image: Image.Image) -> bytes:
    """Hash of a picture's size and RGB pixels, 20 bytes: the same picture has one key whatever file it came from."""
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height}:".encode(), digest_size=20)
    digest.update(rgb.tobytes())
    return digest.digest()
