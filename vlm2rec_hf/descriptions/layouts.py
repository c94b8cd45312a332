"""From an item and a prompt to the inputs of `generate`: our own rows, or those of the model's processor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from ..modeling.hub_loading import repo_file
from .generation_inputs import generation_inputs

if TYPE_CHECKING:
    from ..modeling.processing_vlm2rec import VLM2RecProcessor
    from .prompts import Prompts

MAX_TEXT_TOKENS = 512
_MARK = "\u241fITEM\u241f"


class Layout(Protocol):
    """Lays out requests of one kind as a left-padded batch."""

    tokenizer: Any

    def batch(self, kind: str, items: Sequence[dict[str, Any]], prompts: Prompts) -> dict[str, Any]:
        """Inputs of `generate`; each item has what the kind needs."""
        ...


class FamilyLayout:
    """Rows put together from tokens, for the backbones that this package knows; works without torchvision.

    A text that spells a special token stays text. A row begins with the token that the tokenizer begins texts with
    (Llama's `<s>`), unless the template or the image has written it.

    Args:
        processor: made by `VLM2RecProcessor.from_backbone`.
        config: of the model.
        template: chat template; without one the image and the prompt stand for themselves.
    """

    def __init__(self, processor: VLM2RecProcessor, config: Any, template: str | None) -> None:
        self.processor, self.config, self.template = processor, config, template
        self.tokenizer = processor.tokenizer
        self.processor.max_item_tokens = MAX_TEXT_TOKENS
        self.start = [token for token in self.tokenizer("")["input_ids"][:1] if token == self.tokenizer.bos_token_id]

    def batch(self, kind: str, items: Sequence[dict[str, Any]], prompts: Prompts) -> dict[str, Any]:
        """See `Layout.batch`."""
        shown = [{name: item[name] for name in ("text", "image") if kind in (name, "both")} for item in items]
        prepared = self.processor.prepare_items(shown)
        family, tokenizer = self.processor.family, self.tokenizer
        rows = []
        for item in prepared:
            row: list[int] = []
            for part in self._parts(kind, prompts):
                if part == _MARK:
                    row += item.text or []
                elif part == family.chat_image and item.grid is not None:
                    row += family.image_block(tokenizer, self.processor.image_processor, item.grid)
                elif part:
                    row += tokenizer(part, add_special_tokens=False)["input_ids"]
            rows.append(row if set(self.start) <= set(row) else self.start + row)
        ids, mask = left_padded(rows, tokenizer.pad_token_id if tokenizer.pad_token_id is not None else 0)
        pixels = [item.pixel_values for item in prepared if item.pixel_values is not None]
        grid = torch.tensor([item.grid for item in prepared]) if pixels else None
        more = generation_inputs(family, self.config, ids, torch.cat(pixels) if pixels else None, grid)
        return {"input_ids": ids, "attention_mask": mask, **more}

    def _parts(self, kind: str, prompts: Prompts) -> list[str]:
        """The prompt as the chat template writes it, cut at the image and at the item's text."""
        before, after = prompts.parts(kind)
        text = before + (_MARK if kind != "image" else "") + after
        image = self.processor.family.chat_image
        if self.template is None:
            written = (image if kind != "text" else "") + text
        else:
            content: list[dict[str, str]] = [] if kind == "text" else [{"type": "image"}]
            messages = [{"role": "user", "content": [*content, {"type": "text", "text": text}]}]
            written = self.tokenizer.apply_chat_template(
                messages, chat_template=self.template, add_generation_prompt=True, tokenize=False
            )
        if written.count(image) != (kind != "text") or written.count(_MARK) != (kind != "image"):
            raise ValueError(
                f"`model`'s chat template does not write {image!r} and the text once each for the prompt {kind!r}; "
                f"is {image!r} in `prompts`?"
            )
        head, *rest = written.split(image)
        pieces = [head] if not rest else [head, image, rest[0]]
        return [part for piece in pieces for part in _around(piece, _MARK)]


class ProcessorLayout:
    """The model's own processor, for models that this package does not know.

    Args:
        processor: as `AutoProcessor` loads it.
    """

    def __init__(self, processor: Any) -> None:
        self.processor, self.tokenizer = processor, processor.tokenizer
        self.tokenizer.padding_side = "left"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    def batch(self, kind: str, items: Sequence[dict[str, Any]], prompts: Prompts) -> dict[str, Any]:
        """See `Layout.batch`."""
        before, after = prompts.parts(kind)
        texts = [before + self._harmless(item["text"]) + after if kind != "image" else before for item in items]
        images = [[item["image"].convert("RGB")] for item in items] if kind != "text" else None
        if getattr(self.processor, "chat_template", None) is None:
            tag = getattr(self.processor, "image_token", "") if images else ""
            written = [f"{tag}\n{text}" if tag else text for text in texts]
        else:
            content: list[dict[str, str]] = [{"type": "image"}] if images else []
            written = [
                self.processor.apply_chat_template(
                    [{"role": "user", "content": [*content, {"type": "text", "text": text}]}],
                    add_generation_prompt=True,
                    tokenize=False,
                )
                for text in texts
            ]
        shown = {"images": images} if images else {}
        return dict(self.processor(text=written, padding=True, return_tensors="pt", **shown))

    def _harmless(self, text: str) -> str:
        """The text, cut to a bounded length, without strings that the tokenizer would read as special tokens."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if len(ids) > MAX_TEXT_TOKENS:
            text = self.tokenizer.decode(ids[:MAX_TEXT_TOKENS])
        for token in sorted(self.tokenizer.get_added_vocab(), key=len, reverse=True):
            if len(token) > 1:
                text = text.replace(token, f"{token[0]} {token[1:]}")
        return text


def chat_template_of(tokenizer: Any, where: str, revision: str | None) -> str | None:
    """The chat template of a checkpoint: the tokenizer's, else that of the processor's files, else `None`."""
    if tokenizer.chat_template is not None:
        return tokenizer.chat_template
    hub = {} if revision is None else {"revision": revision}
    for name in ("chat_template.jinja", "chat_template.json"):
        path = repo_file(where, name, hub)
        if path is not None:
            text = Path(path).read_text(encoding="utf-8")
            return json.loads(text)["chat_template"] if name.endswith(".json") else text
    return None


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`(rows, longest)` ids and mask; new tokens are written on the right."""
    longest = max(len(row) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    mask = torch.zeros((len(rows), longest), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, longest - len(row) :] = torch.tensor(row)
        mask[i, longest - len(row) :] = 1
    return ids, mask


def _around(text: str, mark: str) -> list[str]:
    """`a MARK b` as `[a, MARK, b]`."""
    before, marker, after = text.partition(mark)
    return [before, marker, after] if marker else [before]
