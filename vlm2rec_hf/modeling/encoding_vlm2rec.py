"""Encode items and histories of any number: what `VLM2RecEmbedder.encode_items` and `encode_histories` do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from tqdm.auto import tqdm
from transformers.utils import logging

from .encoding_budget_vlm2rec import DEFAULT_ROWS, pass_budget
from .encoding_feed_vlm2rec import Feed, prepare_distinct
from .encoding_rows_vlm2rec import KEPT_FEATURE_BYTES, RowEncoder
from .fusion_vlm2rec import fuse
from .processing_vlm2rec import PreparedItem, VLM2RecProcessor, check_list

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
    """

    both: Tensor
    text: Tensor
    image: Tensor
    has_text: Tensor
    has_image: Tensor

    def __len__(self) -> int:
        return len(self.both)

    def view(self, name: str) -> Tensor:
        """The `(n, d)` vectors of view `"text"`, `"image"` or `"both"`."""
        if name not in VIEWS:
            raise ValueError(f"`view` must be one of {VIEWS}, got {name!r}.")
        return getattr(self, name)


class EncodingMixin:
    """Encoding of an embedder."""

    if TYPE_CHECKING:
        config: Any
        vlm: Any
        family: Any
        training: bool

        def train(self, mode: bool = True) -> Any:
            """`torch.nn.Module.train`."""
            ...

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

        Text rows and picture rows are sorted by length and run in passes of like length; equal rows and equal pictures
        are run once. None of the options changes a vector by more than 1e-5 (in float32).

        Args:
            items: a sequence of items (`as_item`); it is read chunk by chunk, so a lazy sequence of decoded pictures
                works. A `PreparedItem` is taken as it is.
            processor: made for this backbone.
            batch_size: rows per pass at most; `None`: no limit but `max_tokens`.
            max_tokens: padded tokens per pass through the language model, and vision patches per pass through the
                tower, at most (a longer row or picture passes alone); `"auto"`: what is useful and surely fits into
                half of the free memory, halved where an accelerator runs out all the same; `None`: no limit.
            packing: run the rows of a pass one behind the other without padding; `"auto"`: where attention is one of
                the flash kernels. With the others it is right too, but slow.
            workers: processes that read, decode, resize and tokenise ahead; 0: this process does.
            vision_cache: knows vision features: its `prepare(model, processor, items)` takes the place of the
                processor's preparation (in this process; `workers` are not used).
            show_progress: draw a progress bar.

        Returns:
            `Encoding` with all three views, in input order.

        Raises:
            ValueError: an option out of range, or an item without text and picture. Whatever goes wrong with an item
                carries a note with its number.
        """
        check_list("items", items)
        bar = "Items" if show_progress else None
        return self._encode(items, "item", processor, batch_size, max_tokens, packing, workers, vision_cache, bar)

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
    ) -> Encoding:
        """Embed user histories (lists of items, oldest first); see `encode_items` for the arguments."""
        check_list("histories", histories)
        bar = "Histories" if show_progress else None
        return self._encode(histories, "user", processor, batch_size, max_tokens, packing, workers, vision_cache, bar)

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
        progress: str | None,
    ) -> Encoding:
        budget = pass_budget(self, batch_size, max_tokens)
        out = _empty(len(source), self.config.hidden_size)
        external = self.config.fusion == "external"
        views = {view: out.view(view) for view in (("text", "image") if external else VIEWS)}
        encoder = RowEncoder(self, processor, role, views, budget, _packs(self, packing))
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
            with tqdm(total=len(source), desc=progress, disable=progress is None, leave=False) as bar:
                bar.set_postfix({"max_tokens": budget.tokens})
                chunk = _Chunk(encoder, out)
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
            f"{encoder.features.passed} pictures went through the tower; waited {sum(feed.waits):.2f} s for items, "
            f"{sum(feed.waits[:1]):.2f} s of it for the first."
        )
        return out

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the language model in place, with the arguments of `torch.compile`; of dynamic shapes by default.

        `forward` and encoding use it. What is around it decides by the data, and the vision tower cuts its rows by the
        pictures' sizes: compiled, they break into many graphs and compile anew for sizes they have not seen.
        """
        kwargs.setdefault("dynamic", True)
        self.family.language_model(self.vlm).compile(*args, **kwargs)


class _Chunk:
    """Examples whose rows are sorted together."""

    def __init__(self, encoder: RowEncoder, out: Encoding) -> None:
        self.encoder, self.out = encoder, out
        self.start = 0
        self._clear()

    def _clear(self) -> None:
        self.pieces = 0
        self.examples: list[list[PreparedItem]] = []
        self.alone: dict[int, PreparedItem] = {}

    def add(self, piece: list[list[PreparedItem]]) -> None:
        """Run the tower on the pictures of some more examples; their pixels are let go."""
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
        self.encoder.encode(self.examples, self.start)
        self.encoder.features.end_chunk()
        end = self.start + len(self.examples)
        self.out.has_text[self.start : end] = torch.tensor(
            [any(item.text is not None for item in example) for example in self.examples], dtype=torch.bool
        )
        self.out.has_image[self.start : end] = torch.tensor(
            [any(item.grid is not None for item in example) for example in self.examples], dtype=torch.bool
        )
        self.start = end
        self._clear()


def _empty(count: int, width: int) -> Encoding:
    vectors = [torch.zeros(count, width) for _ in VIEWS]
    return Encoding(*vectors, *(torch.zeros(count, dtype=torch.bool) for _ in range(2)))


def _packs(model: Any, packing: bool | str) -> bool:
    if packing == "auto":
        return "flash" in (model.family.language_model(model.vlm).config._attn_implementation or "")
    if not isinstance(packing, bool):
        raise ValueError(f"`packing` must be True, False or 'auto', got {packing!r}.")
    return packing
