"""Lay out items and histories as the rows a `VLM2RecEmbedder` reads.

Every text is tokenised on its own and rows are put together from token ids, so the tokens of an item are the same
wherever it stands (alone, or anywhere in a history) and can be computed once per item.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, BatchFeature, ProcessorMixin

from .families_vlm2rec import SavesOwnFamily, family_of
from .family_vlm2rec import BackboneFamily, ImageFeatures
from .items_vlm2rec import MessagesMixin, PreparedItem, as_item, check_list
from .templates_vlm2rec import TEMPLATES

ROLES = ("item", "user")
MAX_ASPECT = 100

_PIXELS = {"min_pixels": "shortest_edge", "max_pixels": "longest_edge"}
_COUNTS = ("max_history", "max_item_tokens", "max_history_item_tokens", *_PIXELS)
_TEXTS = ("item_instruction", "user_instruction", "next_item_prompt")
_RULES: dict[str, tuple[Any, str]] = {  # which values an option may have, and this in words
    **dict.fromkeys(_COUNTS, (lambda value: type(value) is int and value > 0, "be at least 1")),
    **dict.fromkeys(_TEXTS, (lambda value: isinstance(value, str), "be a text")),
    "fusion": (lambda value: value in ("external", "internal"), "be 'external' or 'internal'"),
    "template": (lambda value: value is None or value in TEMPLATES, f"be one of {sorted(TEMPLATES)} or None"),
    "images": (lambda value: isinstance(value, bool), "be True or False"),
    "history_template": (
        lambda value: str(value).count("{text}") == 1 and "{number}" not in value.partition("{text}")[2],
        "hold '{text}' once, and '{number}' only before it",
    ),
}


@dataclass
class Row:
    """One sequence for the language model.

    Attributes:
        ids: its tokens.
        ends: places of the end tokens in it, one per item that takes part.
        items: for each end token, the number of its item within the example.
        images: the items whose images stand in it, in order.
    """

    ids: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    images: list[PreparedItem] = field(default_factory=list)

    def newest(self, clicks: int) -> list[int]:
        """For each of the first `clicks` items of the example, which of `ends` is the newest then; -1: none yet."""
        return [bisect_right(self.items, click) - 1 for click in range(clicks)]


class VLM2RecProcessor(MessagesMixin, SavesOwnFamily, ProcessorMixin):  # type: ignore[misc]
    """Turns items and histories into batches for `VLM2RecEmbedder`.

    Rows are (our choice) the instruction, then every item, oldest first, with an end token behind it. The state of an
    end token is the vector after that item, so a history's row begins with the row of every earlier history, and the
    last state is what is pooled. The text row holds the titles, the image row the images; an item that lacks one of
    them is skipped in that row.

    Args:
        image_processor: the backbone's image processor.
        tokenizer: the backbone's tokenizer.
        backbone_type: `model_type` of the backbone, which decides how an image stands in a row.
        fusion: `"external"` (a text row and an image row per example) or `"internal"` (one row with both).
        item_instruction: text in front of an item.
        user_instruction: text in front of a history.
        history_template: how one text stands in a history; holds `{text}` once and may hold `{number}` (1 = oldest
            of those kept that say something) before it.
        max_history: most recent items kept of a history.
        max_item_tokens: tokens kept of an item's text.
        max_history_item_tokens: tokens kept of each text inside a history; `max_item_tokens` bounds it, too.
        end_token: stands behind every item; the tokenizer's end-of-sequence token by default.
        template: a published embedder's layout in place of ours, by name: see `TEMPLATES`; `from_backbone` then has
            that model's instructions and image sizes, too. Its closing stands where `end_token` would.
        chat_template: kept for the library's loading code.
    """

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        backbone_type: str = "qwen2_vl",
        fusion: str = "external",
        item_instruction: str = "Represent this item for recommendation:\n",
        user_instruction: str = "Represent what this user will choose next, given the history, oldest first:\n",
        history_template: str = "{text}",
        max_history: int = 10,
        max_item_tokens: int = 128,
        max_history_item_tokens: int = 32,
        end_token: str | None = None,
        template: str | None = None,
        chat_template: str | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer, chat_template=chat_template)
        self.backbone_type = backbone_type
        self.fusion = fusion
        self.template = template
        self.item_instruction = item_instruction
        self.user_instruction = user_instruction
        self.history_template = history_template
        self.max_history = max_history
        self.max_item_tokens = max_item_tokens
        self.max_history_item_tokens = max_history_item_tokens
        self.end_token = end_token if end_token is not None else tokenizer.eos_token

    def __setattr__(self, name: str, value: Any) -> None:
        """Refuse an option that could not be loaded again. `max_pixels` and `min_pixels` go to the image processor."""
        fits, wanted = _RULES.get(name, (None, ""))
        if name == "end_token":
            known = value and self.tokenizer.convert_tokens_to_ids(value) not in (None, self.tokenizer.unk_token_id)
            fits, wanted = (lambda _: known), "be a token that `tokenizer` knows"
        elif name in _PIXELS and not self.backbone_type.startswith("qwen"):
            fits, wanted = (lambda _: False), "be left out: it is an option of Qwen-VL backbones"
        if fits is not None and not fits(value):
            raise ValueError(f"`{name}` must {wanted}, got {value!r}.")
        if name in _PIXELS:
            size = self.image_processor.size
            low, high = min(size["shortest_edge"], value), max(size["longest_edge"], value)
            edges = {"shortest_edge": low, "longest_edge": high, _PIXELS[name]: value}
            self.image_processor.size = type(size)(**edges)
            return
        super().__setattr__(name, value)

    @classmethod
    def from_backbone(cls, backbone: str, *, revision: str | None = None, **options: Any) -> Self:
        """Build a processor from the files of a raw vision-language checkpoint.

        Args:
            backbone: Hub id or path, as for `VLM2RecEmbedder.from_backbone`.
            revision: tag, branch or commit.
            options: of `VLM2RecProcessor`, such as `fusion` or `max_history`, and `min_pixels`, `max_pixels`.
        """
        # By file: the plain name insists on torchvision in transformers 5.17.
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        config = AutoConfig.from_pretrained(backbone, revision=revision)
        image_processor = AutoImageProcessor.from_pretrained(backbone, revision=revision)
        family_of(config.model_type).set_up_image_processor(image_processor, config)
        tokenizer = AutoTokenizer.from_pretrained(backbone, revision=revision)
        if options.get("template") in TEMPLATES:
            given = {name: value for name, value in options.items() if value is not None}
            options = {**TEMPLATES[options["template"]].options, **given}
        pixels = {name: options.pop(name) for name in ("max_pixels", "min_pixels") if options.get(name) is not None}
        processor = cls(image_processor, tokenizer, backbone_type=config.model_type, **options)
        for name, value in pixels.items():
            setattr(processor, name, value)
        return processor

    @classmethod
    def from_parts(
        cls,
        *,
        language_model: str,
        image_encoder: str | None = None,
        feature_size: int | None = None,
        tokens_per_image: int = 4,
        revision: str | None = None,
        image_encoder_revision: str | None = None,
        **options: Any,
    ) -> Self:
        """Build a processor from the files of a language model and an image encoder.

        Args:
            language_model: as for `VLM2RecEmbedder.from_parts`, likewise the next three.
            image_encoder: whose image processor is read.
            feature_size: of given features, instead.
            tokens_per_image: of an encoder.
            revision: of the language model.
            image_encoder_revision: of the encoder.
            options: of `VLM2RecProcessor`.
        """
        parts: Any = family_of("vlm2rec_parts")
        encoder = (image_encoder, image_encoder_revision)
        image_processor, tokenizer = parts.read((language_model, revision), encoder, feature_size, tokens_per_image)
        return cls(image_processor, tokenizer, backbone_type=parts.model_types[0], **options)

    @property
    def family(self) -> BackboneFamily:
        """How this backbone places images in rows."""
        return family_of(self.backbone_type)

    @property
    def model_input_names(self) -> list[str]:
        """Keys a batch can hold."""
        return [
            "input_ids", "attention_mask", "image_rows", "image_rows_mask", "pixel_values", "image_grid_thw",
            "image_index", "image_features", "deepstack_features", "has_text", "has_image", "num_images_per_sample",
        ]  # fmt: skip

    def tokenize_texts(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of items' texts, each cut to `max_item_tokens`.

        A title that spells a special token ("<|image_pad|>") stays text: it may not open an image or end a row.
        """
        if not texts:
            return []
        encoded = self.tokenizer(list(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
        return [ids[: self.max_item_tokens] for ids in encoded]

    def prepare_items(self, items: Sequence[Any], keys: Sequence[Any] | None = None) -> list[PreparedItem]:
        """Tokenise texts and preprocess images, each once.

        Args:
            items: see `as_item` for what an item may be.
            keys: one hashable per item; equal keys mean the same image. Without keys every image is its own.
        """
        typed = [as_item(item) for item in items]
        texts = [(i, item["text"]) for i, item in enumerate(typed) if item["text"] is not None]
        tokens: list[list[int] | None] = [None] * len(typed)
        for (i, _), ids in zip(texts, self.tokenize_texts([text for _, text in texts]), strict=True):
            tokens[i] = ids or None
        prepared = []
        for i, item in enumerate(typed):
            one = PreparedItem(text=tokens[i], key=keys[i] if keys is not None else None)
            for image in self.image_of(item).values():
                image = _bounded_aspect(image) if isinstance(image, Image.Image) else image
                one.pixel_values, one.grid = self.family.prepare_image(self.image_processor, image)
            prepared.append(one)
        return prepared

    def image_of(self, item: dict[str, Any]) -> dict[str, Any]:
        """What the backbone reads as the image of a typed item, as an item of that alone; `{}` without an image.

        Raises:
            ValueError: the item has pixels where the backbone reads features, or the other way round.
        """
        features = self.family.reads_features(self.image_processor)
        read, other = ("image_features", "image") if features else ("image", "image_features")
        if item.get(read) is not None:
            return {read: item[read]}
        if item.get(other) is not None and read not in item:
            remedy = "an `image_encoder`" if features else "`feature_size`"
            raise ValueError(
                f"An item has `{other}`, but this model reads `{read}`; give the items `{read}`, or build a model "
                f"that reads `{other}` (`VLM2RecEmbedder.from_parts` with {remedy})."
            )
        return {}

    def __call__(
        self, items: Sequence[Any] | None = None, histories: Sequence[Sequence[Any]] | None = None, **kwargs: Any
    ) -> BatchFeature:
        """Prepare a batch of items, or of histories (lists of items, oldest first).

        Returns:
            Tensors for `VLM2RecEmbedder.forward`; see `collate`.
        """
        if (items is None) == (histories is None):
            raise ValueError("Pass exactly one of `items` (each item alone) and `histories` (lists of items).")
        if items is not None:
            return self.collate([[item] for item in self.prepare_items(check_list("items", items))], "item")
        whole = [check_list("histories[i]", history) for history in check_list("histories", histories)]
        recent = [list(history)[-self.max_history :] for history in whole]
        flat = self.prepare_items([item for history in recent for item in history])
        rows, start = [], 0
        for history in recent:
            rows.append(flat[start : start + len(history)])
            start += len(history)
        return self.collate(rows, "user")

    def collate(self, examples: Sequence[Sequence[PreparedItem]], role: str) -> BatchFeature:
        """Lay out examples (an item is a list of one) as padded rows.

        Returns:
            `input_ids`, `attention_mask` `(n, length)`: the text rows (`fusion="internal"`: the only rows);
            `image_rows`, `image_rows_mask` `(n, length)`: the image rows (absent if no example has an image);
            `has_text`, `has_image` `(n,)` bool; `num_images_per_sample` `(n,)`;
            `pixel_values`, `image_grid_thw` of the distinct images, or `image_features` (`deepstack_features`);
            `image_index` `(n_slots,)`: which of them stands in each image slot, in row order.
        """
        if role not in ROLES:
            raise ValueError(f"`role` must be one of {ROLES}, got {role!r}.")
        return self._lay_out(examples, [(role, None)] * len(examples))

    def collate_passes(self, passes: Sequence[Sequence[Row]]) -> dict[str, Any]:
        """Pad rows that run together; all passes share their images.

        Args:
            passes: the rows of each.

        Returns:
            `groups`: per pass `input_ids`, `attention_mask` `(n, length)`, `ends` `(m,)`, the flat places of its rows'
            end tokens in row order, and `image_index` into the shared images; and those images, each distinct one
            once: `pixel_values` and `image_grid_thw`, or features (none if there is no image at all). All are
            arguments of `VLM2RecEmbedder.forward`.
        """
        slots = [[item for row in rows for item in row.images] for rows in passes]
        images = _distinct_images([item for part in slots for item in part])
        index = images.pop("image_index", torch.zeros(0, dtype=torch.long)).split([len(part) for part in slots])
        groups = []
        for rows, part in zip(passes, index, strict=True):
            ids, mask = self._pad([row.ids for row in rows])
            groups.append(
                {"input_ids": ids, "attention_mask": mask, "ends": flat_places(mask, [r.ends for r in rows])}
            )
            groups[-1].update({"image_index": part} if len(part) else {})
        return {"groups": groups, **images}

    def _lay_out(
        self, examples: Sequence[Sequence[PreparedItem]], kinds: Sequence[tuple[str, str | None]]
    ) -> BatchFeature:
        """Rows of examples that each have a role and an instruction (`None`: the role's own), and their images."""
        if not examples or any(not example for example in examples):
            raise ValueError("`histories` and `items` must not be empty; an empty history has no embedding.")
        examples = [
            example[-self.max_history :] if role == "user" else example
            for example, (role, _) in zip(examples, kinds, strict=True)
        ]
        text_rows: list[list[int]] = []
        image_rows: list[list[int]] = []
        slots: list[PreparedItem] = []
        for example, (role, instruction) in zip(examples, kinds, strict=True):
            text, image = self.rows(example, role, instruction)
            text_rows.append(text.ids or [self.end_id])
            image_rows.append(image.ids or [self.end_id])
            slots.extend(text.images + image.images)
        counts = torch.tensor([sum(item.grid is not None for item in example) for example in examples])
        data: dict[str, Any] = {
            "has_text": torch.tensor([any(item.text is not None for item in example) for example in examples]),
            "has_image": counts > 0,
            "num_images_per_sample": counts,
        }
        data["input_ids"], data["attention_mask"] = self._pad(text_rows)
        if slots and self.fusion == "external":
            data["image_rows"], data["image_rows_mask"] = self._pad(image_rows)
        return BatchFeature({**data, **_distinct_images(slots)})

    def rows(self, example: Sequence[PreparedItem], role: str, instruction: str | None = None) -> tuple[Row, Row]:
        """An example's text row and image row, unpadded; empty where it has nothing to say.

        Args:
            example: an item (a list of one) or a history of at most `max_history` items.
            role: `"item"` or `"user"`.
            instruction: in place of the role's own.

        Returns:
            The two rows; with internal fusion everything is in the first.
        """
        if instruction is None:
            instruction = self.item_instruction if role == "item" else self.user_instruction
        rows = Row(), Row()
        present = [(place, item) for place, item in enumerate(example) if item.text or item.grid is not None]
        for number, (place, item) in enumerate(present, 1):
            shown = [[item] if item.grid is not None else [], []][:: 1 if self.fusion == "internal" else -1]
            for row, tokens, images in zip(rows, self.item_tokens(item, role, number), shown, strict=True):
                if tokens:
                    row.ids += [*([] if row.ends else self.instruction_tokens(instruction)), *tokens]
                    row.ends.append(len(row.ids) - 1)
                    row.items.append(place)
                    row.images += images
        return rows

    @property
    def end_id(self) -> int:
        """Id of the end token."""
        return self.tokenizer.convert_tokens_to_ids(self.end_token)

    def instruction_tokens(self, instruction: str) -> list[int]:
        """Token ids of an instruction, as a row begins with it."""
        if self.template is None or not instruction:
            return self._ids(instruction)
        return self._ids(TEMPLATES[self.template].instruction.replace("{instruction}", instruction))

    def _around_item(self) -> tuple[list[int], list[int]]:
        """Token ids in front of each item and behind it, where the vector is read."""
        if self.template is None:
            return [], [self.end_id]
        template = TEMPLATES[self.template]
        closing = self._ids(template.after)
        whole = self.tokenizer(template.after)["input_ids"]  # some tokenizers end every text in a token of its own
        return self._ids(template.before), whole if whole[: len(closing)] == closing else closing

    def item_tokens(self, item: PreparedItem, role: str, number: int = 1) -> tuple[list[int], list[int]]:
        """What an item puts into the text row and the image row, its end included; nothing where it is absent.

        Args:
            item: the item.
            role: of the row, `"item"` or `"user"`.
            number: its place among the history's items that say something, from 1.
        """
        limit = self.max_item_tokens if role == "item" else self.max_history_item_tokens
        text = item.text[:limit] if item.text is not None else []
        block, grid = self.family.image_block, item.grid
        image = [] if grid is None else block(self.tokenizer, self.image_processor, grid)
        if self.fusion == "internal":
            text, image = text + image if self.template is None else image + text, []
        if role == "user" and text:
            before, after = self.history_template.split("{text}")
            text = [*self._ids(before.replace("{number}", str(number))), *text, *self._ids(after)]
        opening, closing = self._around_item()
        return text and [*opening, *text, *closing], image and [*opening, *image, *closing]

    def _ids(self, text: str) -> list[int]:
        """Token ids of a fixed piece of the layout, remembered."""
        cache: dict[str, list[int]] = self.__dict__.setdefault("_pieces", {})
        if text and text not in cache:
            cache[text] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return list(cache[text]) if text else []

    def _pad(self, rows: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Pad on the tokenizer's side: `(n, longest)` ids and mask."""
        longest = max(len(row) for row in rows)
        pad = self.tokenizer.pad_token_id
        pad = pad if pad is not None else self.end_id
        ids = torch.full((len(rows), longest), pad)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), longest) if self.tokenizer.padding_side == "left" else slice(0, len(row))
            ids[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return ids, mask


def _bounded_aspect(image: Image.Image) -> Image.Image:
    """RGB, and never more than `MAX_ASPECT` times as long as wide: image processors refuse such strips."""
    image = image.convert("RGB")
    shortest = -(-max(image.size) // MAX_ASPECT)
    if min(image.size) >= shortest:
        return image
    padded = Image.new("RGB", (max(image.width, shortest), max(image.height, shortest)), "white")
    padded.paste(image, (0, 0))
    return padded


def flat_places(mask: Tensor, places: Sequence[Sequence[int]]) -> Tensor:
    """Places within each of some rows as places in all of them, padding included: `(m,)` long, in row order."""
    starts = torch.arange(0, mask.numel(), mask.shape[1], device=mask.device) + mask.argmax(-1)
    flat = [start + place for own, start in zip(places, starts.tolist(), strict=True) for place in own]
    return torch.tensor(flat, device=mask.device)


def _distinct_images(slots: Sequence[PreparedItem]) -> dict[str, Any]:
    """Pixels or features of the distinct images, and which of them stands in each slot; nothing without slots."""
    if not slots:
        return {}
    order: dict[Any, int] = {}
    distinct: list[PreparedItem] = []
    index = []
    for item in slots:
        key = ("own", id(item)) if item.key is None else ("shared", item.key)
        if key not in order:
            order[key] = len(distinct)
            distinct.append(item)
        index.append(order[key])
    data: dict[str, Any] = {
        "image_grid_thw": torch.tensor([item.grid for item in distinct]),
        "image_index": torch.tensor(index),
    }
    features = [item.features for item in distinct if item.features is not None]
    if len(features) == len(distinct):
        joined = ImageFeatures.joined(features)
        data["image_features"] = joined.tokens
        if joined.layers:
            data["deepstack_features"] = torch.stack(joined.layers)
    elif features:
        raise ValueError("Some images of the batch come as `features` and some as pixels; prepare all in one way.")
    else:
        data["pixel_values"] = torch.cat([item.pixel_values for item in distinct if item.pixel_values is not None])
    return data
