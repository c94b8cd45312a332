"""Encode items and histories of any number: what `VLM2RecEmbedder.encode_items` and `encode_histories` do."""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers.utils import logging

from .items_vlm2rec import PreparedItem, as_item, check_list
from .passes_vlm2rec import DEFAULT_ROWS, KEPT_FEATURE_BYTES, RowEncoder, fuse, pass_budget
from .processing_vlm2rec import VLM2RecProcessor

logger = logging.get_logger(__name__)

VIEWS = ("text", "image", "both")
PIECES_PER_CHUNK = 16


@dataclass
class Encoding:
    """Vectors of many items or histories on the CPU, float32, all three views.

    Attributes:
        both: `(n, d)` the fused vectors (not normalised: scores are cosine similarities of these sums).
        text: `(n, d)`, zero where absent.
        image: `(n, d)`, zero where absent.
        has_text: `(n,)` bool.
        has_image: `(n,)` bool.
        offsets: with `every_click`, `(histories + 1,)` long: rows `offsets[i]` to `offsets[i + 1]` are history `i`'s.
    """

    both: Tensor
    text: Tensor
    image: Tensor
    has_text: Tensor
    has_image: Tensor
    offsets: Tensor | None = None

    def __len__(self) -> int:
        return len(self.both)

    def __repr__(self) -> str:
        texts, images = int(self.has_text.sum()), int(self.has_image.sum())
        return f"Encoding({len(self):,} x {self.both.shape[1]}, {texts:,} with text, {images:,} with image)"

    def view(self, name: str) -> Tensor:
        """The `(n, d)` vectors of view `"text"`, `"image"` or `"both"`."""
        if name not in VIEWS:
            raise ValueError(f"`view` must be one of {VIEWS}, got {name!r}.")
        return getattr(self, name)


class EncodingMixin:
    """Encoding of an embedder."""

    config: Any
    vlm: Any
    family: Any
    training: bool
    train: Any

    @torch.no_grad()
    def encode_items(
        self,
        items: Sequence[Any],
        processor: VLM2RecProcessor,
        *,
        batch_size: int | None = None,
        max_tokens: int | str | None = "auto",
        packing: bool | str = "auto",
        workers: int = 0,
        vision_cache: Any | None = None,
        show_progress: bool = False,
    ) -> Encoding:
        """Embed items one by one into the space of histories.

        Text rows and image rows are sorted by length and run in passes of like length; equal rows and equal images
        are run once. None of the options changes a vector by more than 1e-5 (in float32).

        Args:
            items: a sequence of items (`as_item`); it is read chunk by chunk, so a lazy sequence of decoded images
                works. A `PreparedItem` is taken as it is.
            processor: made for this backbone.
            batch_size: rows per pass at most; `None`: no limit but `max_tokens`.
            max_tokens: padded tokens per pass through the language model, and vision patches per pass through the
                tower, at most (a longer row or image passes alone); `"auto"`: what is useful and surely fits into
                half of the free memory, halved where an accelerator runs out all the same; `None`: no limit.
            packing: run the rows of a pass one behind the other without padding; `"auto"`: where attention is one of
                the flash kernels. With the others it is correct, too, but slow.
            workers: processes that read, decode, resize and tokenise ahead; 0: this process does.
            vision_cache: holds vision features: its `prepare(model, processor, items)` replaces the processor's
                preparation (in this process; `workers` are not used).
            show_progress: draw a progress bar.

        Returns:
            `Encoding` with all three views, in input order.

        Raises:
            ValueError: an option out of range, or an item without text and image. Whatever goes wrong with an item
                carries a note with its number.
        """
        items = check_list("items", items)
        options = (batch_size, max_tokens, packing, workers, vision_cache, show_progress)
        return self._encode(items, "item", processor, *options)

    @torch.no_grad()
    def encode_histories(
        self,
        histories: Sequence[Sequence[Any]],
        processor: VLM2RecProcessor,
        *,
        batch_size: int | None = None,
        max_tokens: int | str | None = "auto",
        packing: bool | str = "auto",
        workers: int = 0,
        vision_cache: Any | None = None,
        show_progress: bool = False,
        every_click: bool = False,
    ) -> Encoding:
        """Embed user histories (lists of items, oldest first); see `encode_items` for the other arguments.

        The last `processor.max_history` items of each history are read. With `every_click` there is a vector after
        each of them, what the history that ends there would give, from the same pass; see `Encoding.offsets`.
        """
        histories = check_list("histories", histories)
        options = (batch_size, max_tokens, packing, workers, vision_cache, show_progress, every_click)
        return self._encode(histories, "user", processor, *options)

    def _encode(
        self,
        source: Sequence[Any],
        role: str,
        processor: VLM2RecProcessor,
        batch_size: int | None,
        max_tokens: int | str | None,
        packing: bool | str,
        workers: int,
        vision_cache: Any | None,
        show_progress: bool,
        every_click: bool = False,
    ) -> Encoding:
        budget = pass_budget(self, batch_size, max_tokens)
        source = [check_list("histories[i]", one) for one in source] if every_click else source
        counts = [min(len(one), processor.max_history) for one in source] if every_click else [1] * len(source)
        vectors = [torch.zeros(sum(counts), self.config.hidden_size) for _ in VIEWS]
        out = Encoding(*vectors, *(torch.zeros(sum(counts), dtype=torch.bool) for _ in range(2)))
        out.offsets = torch.tensor([0, *counts]).cumsum(0) if every_click else None
        external = self.config.fusion == "external"
        views = {"text": out.text, "image": out.image, "both": out.both}
        present = {"text": out.has_text, "image": out.has_image}
        encoder = RowEncoder(self, processor, role, views, present, budget, packs(self, packing))
        grids = encoder.features.grids

        def prepare(raw: list[Any]) -> list[PreparedItem]:
            if vision_cache is not None:
                return vision_cache.prepare(self, processor, raw)
            return prepare_distinct(processor, raw, grids)

        feed = Feed(
            source, role, processor, batch_size or DEFAULT_ROWS, 0 if vision_cache is not None else workers, prepare
        )
        logger.info(f"Encoding {len(source)} with passes of at most {budget.tokens} tokens ({budget.why}).")
        was_training = self.training
        self.train(False)
        try:
            name = "Items" if role == "item" else "Histories"
            with tqdm(total=len(source), desc=name, disable=not show_progress, leave=False) as bar:
                bar.set_postfix({"max_tokens": budget.tokens})
                chunk = _Chunk(encoder, out, every_click)
                for piece in feed:
                    chunk.add(piece)
                    bar.update(len(piece))
                    if chunk.pieces == PIECES_PER_CHUNK or encoder.features.bytes > 2 * KEPT_FEATURE_BYTES:
                        chunk.finish()
                        bar.set_postfix({"max_tokens": budget.tokens})
                chunk.finish()
        finally:
            self.train(was_training)
        if external:
            out.both = fuse(out.text, out.image)
        logger.info(
            f"Encoded in {encoder.passes} passes of {encoder.tokens} tokens, padding included; "
            f"{encoder.features.passed} images went through the tower; waited {sum(feed.waits):.2f} s for items, "
            f"{sum(feed.waits[:1]):.2f} s of it for the first."
        )
        return out

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the language model in place, with the arguments of `torch.compile`; of dynamic shapes by default.

        `forward` and encoding use it. What is around it decides by the data, and the vision tower cuts its rows by the
        images' sizes: compiled, they break into many graphs and compile anew for sizes they have not seen.
        """
        kwargs.setdefault("dynamic", True)
        self.family.language_model(self.vlm).compile(*args, **kwargs)


class _Chunk:
    """Examples whose rows are sorted together."""

    def __init__(self, encoder: RowEncoder, out: Encoding, every_click: bool) -> None:
        self.encoder, self.out, self.every_click = encoder, out, every_click
        self.start = 0
        self._clear()

    def _clear(self) -> None:
        self.pieces = 0
        self.examples: list[list[PreparedItem]] = []
        self.alone: dict[int, PreparedItem] = {}

    def add(self, piece: list[list[PreparedItem]]) -> None:
        """Run the tower on the images of further examples; their pixels are released."""
        keyed = [[self._keyed(item) for item in example] for example in piece]
        self.encoder.features.add([item for example in keyed for item in example])
        self.examples += [[replace(item, pixel_values=None, features=None) for item in example] for example in keyed]
        self.pieces += 1

    def _keyed(self, item: PreparedItem) -> PreparedItem:
        """With a key of its own where it has none: the object's number, which holds as long as we keep the object."""
        if item.grid is None or item.key is not None:
            return item
        self.alone[id(item)] = item
        return replace(item, key=("own", self.start, id(item)))

    def finish(self) -> None:
        """Encode the rows of all examples so far."""
        self.start = self.encoder.encode(self.examples, self.start, self.every_click)
        self.encoder.features.end_chunk()
        self._clear()


def packs(model: Any, packing: bool | str) -> bool:
    """Whether rows run one behind the other: as asked for, or (`"auto"`) where attention is a flash kernel."""
    if packing == "auto":
        return "flash" in (model.family.language_model(model.vlm).config._attn_implementation or "")
    if not isinstance(packing, bool):
        raise ValueError(f"`packing` must be True, False or 'auto', got {packing!r}.")
    return packing


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
            _Shipped(self.pieces), batch_size=None, num_workers=self.workers, prefetch_factor=2, collate_fn=tuple
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
        history = check_list("histories[i]", self.source[row])
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


@contextmanager
def _quiet_tokenizers() -> Iterator[None]:
    """Forked processes must not use the tokenizer's threads; set beforehand, so that the library does not warn."""
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
    """Prepare items, keyed by what their images show; equal images are preprocessed once.

    Args:
        processor: prepares them.
        items: see `as_item`.
        known: keys of images whose pixels are not needed any more, and their grids.

    Returns:
        One per item; `pixel_values` are shared between equal images and absent for `known` ones.
    """
    typed = [as_item(item) for item in items]
    texts = [i for i, item in enumerate(typed) if item["text"] is not None]
    tokens: dict[int, list[int]] = dict(
        zip(texts, processor.tokenize_texts([typed[i]["text"] for i in texts]), strict=True)
    )
    images: dict[Any, PreparedItem] = {}
    prepared = []
    for i, item in enumerate(typed):
        one = PreparedItem(text=tokens.get(i) or None)
        if shown := processor.image_of(item):
            key = ("image", image_key(*shown.values()))
            if known is not None and key in known:
                images[key] = PreparedItem(grid=known[key], key=key)
            elif key not in images:
                images[key] = processor.prepare_items([shown], keys=[key])[0]
            one = replace(images[key], text=one.text)
        prepared.append(one)
    return prepared


def image_key(image: Image.Image | np.ndarray) -> bytes:
    """Hash of an image's size and RGB pixels, 20 bytes: the same image has one key whatever file it came from.

    Of features (typed by `as_item`) the hash of their shape and numbers.
    """
    if not isinstance(image, Image.Image):
        whole = np.ascontiguousarray(image)
        return hashlib.blake2b(f"{whole.shape}:".encode() + whole.tobytes(), digest_size=20).digest()
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.blake2b(f"{rgb.width}x{rgb.height}:".encode(), digest_size=20)
    digest.update(rgb.tobytes())
    return digest.digest()
