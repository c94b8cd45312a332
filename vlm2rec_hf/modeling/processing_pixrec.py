"""Lay out histories, targets and items as the rows a `PixRecModel` reads: text and images in one row."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import BatchFeature

from .items_vlm2rec import PreparedItem
from .processing_vlm2rec import VLM2RecProcessor, _distinct_images
from .states_pixrec import IGNORED

NEITHER, HISTORY, TARGET = 0, 1, 2
"""To which part of a row a token belongs."""


@dataclass
class _Row:
    """A row while it is put together; the three lists have one length."""

    ids: list[int] = field(default_factory=list)
    part: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], part: int, *, predict: bool = False) -> None:
        self.ids += ids
        self.part += [part] * len(ids)
        self.labels += list(ids) if predict else [IGNORED] * len(ids)


class PixRecProcessor(VLM2RecProcessor):
    """Turns items and histories into batches for `PixRecModel`.

    A sequence row is: the user instruction, each item of the history (number, text, image), the bridge "the next
    item bought is as follows", and, in training, the target (text, end token, image). An item alone is the item
    instruction and the same tokens as a target. The wording is ours; every piece can be set.

    The target's text stands *before* its image: the tokens to generate then follow from the history alone, and not
    from an image that is unknown when one recommends.

    Args:
        image_processor: the backbone's image processor.
        tokenizer: the backbone's tokenizer.
        backbone_type: `model_type` of the backbone, which decides how an image stands in a row.
        images: False leaves every image out (the text-only ablation).
        item_instruction: text in front of an item alone; no part of its vector.
        user_instruction: text in front of a history; no part of its vector.
        history_template: how one item stands in a history; holds `{text}` once (the image follows the text) and may
            hold `{number}` (1 = oldest of those kept that say something) before it.
        next_item_prompt: the bridge between history and target; part of the history's vector.
        max_history: most recent items kept of a history.
        max_item_tokens: tokens kept of the text of a target and of an item alone.
        max_history_item_tokens: tokens kept of each text inside a history; `max_item_tokens` bounds it, too.
        end_token: what a target's text ends in; the tokenizer's end-of-sequence token by default.
        chat_template: kept for the library's loading code.
        pictures: what `images` was called in processors saved before.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        backbone_type: str = "qwen2_vl",
        images: bool = True,
        item_instruction: str = "A product of the shop:\n",
        user_instruction: str = "A customer bought these products, the oldest first:\n",
        history_template: str = "{number}. {text}\n",
        next_item_prompt: str = "The next item bought is as follows:\n",
        max_history: int = 5,
        max_item_tokens: int = 64,
        max_history_item_tokens: int = 64,
        end_token: str | None = None,
        chat_template: str | None = None,
        pictures: bool | None = None,
    ) -> None:
        super().__init__(
            image_processor,
            tokenizer,
            backbone_type=backbone_type,
            item_instruction=item_instruction,
            user_instruction=user_instruction,
            history_template=history_template,
            max_history=max_history,
            max_item_tokens=max_item_tokens,
            max_history_item_tokens=max_history_item_tokens,
            end_token=end_token,
            chat_template=chat_template,
        )
        del self.fusion, self.template  # choices of the other method; text and images always share a row here
        self.images = images if pictures is None else pictures
        self.next_item_prompt = next_item_prompt

    @property
    def model_input_names(self) -> list[str]:
        """Keys a batch can hold."""
        return [
            "input_ids", "attention_mask", "history_mask", "target_mask", "labels", "pixel_values", "image_grid_thw",
            "image_index", "image_features", "deepstack_features",
        ]  # fmt: skip

    def image_of(self, item: dict[str, Any]) -> dict[str, Any]:
        """As `VLM2RecProcessor.image_of`; `{}` with `images=False`: an image alone then says nothing."""
        return super().image_of(item) if self.images else {}

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """Refused: PixRec's rows are no conversations.

        Raises:
            ValueError: always.
        """
        raise ValueError("`conversation` is nothing PixRecProcessor lays out; call it with items=... or histories=...")

    def collate(self, examples: Sequence[Sequence[PreparedItem]], role: str) -> BatchFeature:
        """Rows of items alone (`role="item"`, lists of one) or of histories and the bridge (`role="user"`).

        Returns:
            `input_ids`, `attention_mask` `(n, length)`; `target_mask` (items) or `history_mask` (histories)
            `(n, length)` bool: the tokens whose states are averaged; images as `VLM2RecProcessor.collate` has them.
        """
        if not examples or any(not example for example in examples):
            raise ValueError("`histories` and `items` must not be empty; an empty history has no vector.")
        if role == "user":
            return self.collate_sequences(examples)
        if role != "item":
            raise ValueError(f"`role` must be 'item' or 'user', got {role!r}.")
        rows = []
        for (item,) in examples:
            row = _Row()
            row.add(self._ids(self.item_instruction), NEITHER)
            self._add_target(row, item)
            rows.append(row)
        return self._batch(rows, [item for (item,) in examples], ("target",))

    def collate_sequences(
        self,
        histories: Sequence[Sequence[PreparedItem]],
        targets: Sequence[PreparedItem] | None = None,
        begun: Sequence[Sequence[int]] | None = None,
    ) -> BatchFeature:
        """Rows of histories, each with its target behind it where `targets` are given.

        Args:
            histories: lists of items, oldest first; the last `max_history` are kept.
            targets: one item per history.
            begun: instead of targets: token ids generated so far, per history.

        Returns:
            As `collate`, with `target_mask` and `labels` `(n, length)` where there are targets. Labels are the
            target's text and the end token, aligned with `input_ids`; a target without text has none.
        """
        rows: list[_Row] = []
        slots: list[PreparedItem] = []
        for index, whole in enumerate(histories):
            history = whole[-self.max_history :]
            row = self._history_row(history)
            slots += history
            if targets is not None:
                self._add_target(row, targets[index])
                slots.append(targets[index])
            elif begun is not None:
                row.add(begun[index], TARGET)
            rows.append(row)
        return self._batch(rows, slots, ("history",) if targets is None else ("history", "target", "labels"))

    def _history_row(self, history: Sequence[PreparedItem]) -> _Row:
        before, after = self.history_template.split("{text}")
        row = _Row()
        row.add(self._ids(self.user_instruction), NEITHER)
        present = [item for item in history if item.text or item.grid is not None]
        for number, item in enumerate(present, 1):
            row.add(self._ids(before.replace("{number}", str(number))), HISTORY)
            row.add((item.text or [])[: self.max_history_item_tokens], HISTORY)
            row.add(self._image(item), HISTORY)
            row.add(self._ids(after), HISTORY)
        row.add(self._ids(self.next_item_prompt), HISTORY)
        return row

    def _add_target(self, row: _Row, item: PreparedItem) -> None:
        end = [self.tokenizer.convert_tokens_to_ids(self.end_token)]
        text = (item.text or [])[: self.max_item_tokens]
        row.add([*text, *end], TARGET, predict=bool(text))
        row.add(self._image(item), TARGET)

    def _image(self, item: PreparedItem) -> list[int]:
        if item.grid is None:
            return []
        return self.family.image_block(self.tokenizer, self.image_processor, item.grid)

    def _batch(self, rows: Sequence[_Row], slots: Sequence[PreparedItem], wanted: Sequence[str]) -> BatchFeature:
        data: dict[str, Any] = {}
        data["input_ids"], data["attention_mask"] = self._pad([row.ids for row in rows])
        real = data["attention_mask"].bool()
        if "history" in wanted:
            data["history_mask"] = _placed([row.part for row in rows], real, NEITHER) == HISTORY
        if "target" in wanted:
            data["target_mask"] = _placed([row.part for row in rows], real, NEITHER) == TARGET
        if "labels" in wanted:
            data["labels"] = _placed([row.labels for row in rows], real, IGNORED)
        with_image = [item for item in slots if item.grid is not None]
        if with_image:
            data.update(_distinct_images(with_image))
        return BatchFeature(data)


def _placed(values: Sequence[Sequence[int]], real: Tensor, filler: int) -> Tensor:
    """Put each row's values where its real tokens are: `(n, length)` long."""
    out = torch.full(real.shape, filler)
    out[real] = torch.tensor([value for row in values for value in row])
    return out
