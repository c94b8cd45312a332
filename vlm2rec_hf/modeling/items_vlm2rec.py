"""What an item and its image may be, and chat messages, the form in which sentence-transformers hands items on.

A message is one item. Messages of role `history` are a history, oldest first, be it of one item only; single inputs
of sentence-transformers have the role `user`. A leading `system` message is the instruction, there called a prompt.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from .family_vlm2rec import ImageFeatures

ITEM_KEYS = {"text", "image", "image_features"}
HISTORY_ROLE = "history"
HISTORY_PROMPT = "[history]"
REMEDY = "make the inputs with `as_documents(items)` or `as_queries(histories)`"
STRING_AS_IMAGE = (
    "A string that looks like the address or path of an image was taken for a text, as every string is; nothing was "
    "opened. Pass images as PIL.Image.Image, and texts as {'text': ...} to say so."
)


@dataclass
class PreparedItem:
    """One item, ready to be placed in rows.

    Attributes:
        text: token ids of the text, or `None` without one.
        grid: vision grid `(t, h, w)` of the image, or `None` without one.
        pixel_values: what the image processor made of the image, `(n_patches, patch_dim)`.
        features: vision features instead of pixels, where the tower's output is already known.
        key: equal keys mean the same image; such images are encoded once per batch. `None`: like no other.
    """

    text: list[int] | None = None
    grid: tuple[int, ...] | None = None
    pixel_values: Tensor | None = None
    features: ImageFeatures | None = None
    key: Any = None


def as_item(value: Any) -> dict[str, Any]:
    """Type an item: a string is always text (half a character becomes U+FFFD), a dict holds `text` and/or `image`.

    For models that read images as features, a dict may hold `image_features`: `(n, width)` or `(width,)` numbers.

    Raises:
        TypeError: something else, an unknown key, an entry of another type (no string is opened as a path or URL).
        ValueError: neither text nor image is present.
    """
    if isinstance(value, str):
        value = {"text": value}
    elif isinstance(value, Image.Image):
        value = {"image": value}
    elif not isinstance(value, dict) or (unknown := sorted(map(str, value.keys() - ITEM_KEYS))):
        known = not isinstance(value, dict)
        got = f"a {type(value).__name__}" if known else f"a dict with {unknown}, which nothing reads"
        raise TypeError(
            f"`items` holds {got}; pass a str (text), a PIL.Image.Image or a dict of 'text' and/or 'image'."
        )
    text, image = value.get("text"), value.get("image")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"`text` of an item must be a str or None, got {type(text).__name__}.")
    if image is not None and not isinstance(image, Image.Image):
        raise TypeError(
            f"`image` of an item must be a PIL.Image.Image or None, got {type(image).__name__}; decode bytes or "
            "files first with `vlm2rec_hf.data.decode_image`."
        )
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace") if text and text.strip() else None
    item: dict[str, Any] = {"text": text, "image": None if image is None else as_rgb(image)}
    if "image_features" in value:  # an absent key says that nobody knows, None that there is no image
        item = {name: entry for name, entry in item.items() if name in value or name == "text"}
        item["image_features"] = as_features(value["image_features"])
    if all(entry is None for entry in item.values()):
        raise ValueError(f"An item needs a text or an image, got {value!r}.")
    return item


def as_features(features: Any) -> np.ndarray | None:
    """Features of an image as `(n, width)` float32; one vector is a row of one.

    Raises:
        ValueError: another shape, none, or a number that is not finite.
    """
    if features is None:
        return None
    array = np.atleast_2d(np.asarray(features, dtype=np.float32))
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise ValueError(
            f"`image_features` of an item must be finite numbers (n, width) or (width,), at least one, got shape "
            f"{array.shape}{'' if np.isfinite(array).all() else ' with numbers that are not finite'}; pass None where "
            "there is no image."
        )
    return array


def as_rgb(image: Image.Image) -> Image.Image:
    """The one rule for images, whatever way they come in: what a viewer shows, as plain RGB.

    Of an animation the first frame; upright by EXIF; grey of 16 bits scaled to 8, that of 32 bits and floats by the
    range it stays in (1, 255, 65535, its maximum); transparency on white; no colour profile. Applied twice as once.
    """
    if type(image) is Image.Image and image.mode == "RGB" and not image.info:
        return image
    if image.tell():
        image.seek(0)
    image.load()
    try:
        turn = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}.get(image.getexif().get(274, 1))  # -> Image.Transpose
    except Exception:  # whatever a damaged EXIF block raises: the pixels are sound
        turn = None
    image = image.copy() if turn is None else image.transpose(Image.Transpose(turn))
    if image.mode[0] in "IF":
        values = torch.frombuffer(bytearray(image.convert("F").tobytes()), dtype=torch.float32).nan_to_num(0, 0, 0)
        ranges = {"I": (255, 65535), "F": (1, 255)}.get(image.mode, (65535,))
        grey = values / next((end for end in ranges if values.max() <= end), values.max()) * 255
        grey[values == image.info.get("transparency", float("nan"))] = 255
        image = Image.frombytes("L", image.size, grey.round().clamp(0, 255).to(torch.uint8).numpy().tobytes())
    if image.has_transparency_data:
        try:
            image = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        except (TypeError, ValueError):  # the transparent colour is none of the image's
            image.info = {}
    image = image.convert("RGB")
    image.info = {}
    return image


def check_list(name: str, value: Any) -> Any:
    """A list of items, to be read by place: lazy sequences as they are; pandas (read by label), iterators as lists.

    Raises:
        TypeError: an item (a string would fall apart into one-letter items), or what has no order.
    """
    unordered = (str, bytes, Mapping, set, frozenset, Image.Image, PreparedItem)
    if isinstance(value, unordered) or not 1 <= getattr(value, "ndim", 1) <= 2 - hasattr(value, "iloc"):
        raise TypeError(f"`{name}` must be a list of items, got a {type(value).__name__}; wrap one as `[item]`.")
    return value if hasattr(value, "__getitem__") and not hasattr(value, "iloc") else list(value)


@dataclass
class Conversation:
    """What a conversation says."""

    items: list[dict[str, Any]]  # `{"text": ..., "image": ...}` per message, oldest first
    is_history: bool  # the messages say so, or there are several; one `user` message can be either
    instruction: str | None = None  # text of the `system` message


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and "role" in value and "content" in value


def _read(messages: Any) -> Conversation:
    if not isinstance(messages, (list, tuple)) or not messages or not all(_is_message(m) for m in messages):
        raise ValueError(
            f"`conversation` must be a list of messages {{'role': ..., 'content': ...}}, got {messages!r}; {REMEDY}."
        )
    instruction = None
    if messages[0]["role"] == "system":
        parts = _parts(messages[0]["content"])
        if any(kind != "text" or not isinstance(value, str) for kind, value in parts):
            raise ValueError(f"`content` of a system message must be text, got {messages[0]['content']!r}.")
        instruction = "".join(value for _, value in parts)
        messages = messages[1:]
    if not messages:
        raise ValueError(f"`conversation` holds an instruction and no item; {REMEDY}.")
    parts = _parts(messages[0]["content"])
    if [kind for kind, _ in parts] == ["message"]:
        # In a batch of conversations and other inputs, sentence-transformers wraps the conversations once more.
        inner = _read(parts[0][1])
        if instruction is not None and inner.instruction is not None:
            raise ValueError(f"`prompt` {instruction!r} meets a conversation with a system message; give one of both.")
        return replace(inner, instruction=inner.instruction or instruction)
    roles = {message["role"] for message in messages}
    if roles not in ({"user"}, {HISTORY_ROLE}):
        raise ValueError(
            f"`role` of messages must be 'user' or all '{HISTORY_ROLE}', with at most one 'system' message in front, "
            f"got {sorted(map(str, roles))} (sentence-transformers makes 'query' and 'document' of a list of two, "
            f"which it takes for a pair); {REMEDY}."
        )
    is_history = len(messages) > 1 or roles == {HISTORY_ROLE}
    return Conversation([_item(message["content"]) for message in messages], is_history, instruction)


def _item(content: Any) -> dict[str, Any]:
    """The one item of a message, its values as they came."""
    parts = _parts(content)
    item = dict(parts)
    if len(item) != len(parts) or not set(item) <= {"text", "image"}:
        raise ValueError(
            f"`content` of a message must hold at most one text and one image, got {[kind for kind, _ in parts]}; a "
            f"history has one message per item: {REMEDY}."
        )
    if set(item) == {"image"} and isinstance(item["image"], str):
        # sentence-transformers calls a bare string an image if it ends like one. Nobody asked for a download.
        warnings.warn(STRING_AS_IMAGE, stacklevel=2)
        return {"text": item["image"]}
    for name, kind, title in (("text", str, "str"), ("image", Image.Image, "PIL.Image.Image")):
        if name in item and not isinstance(item[name], kind):
            raise ValueError(f"`{name}` of a message must be a {title}, got {item[name]!r}; {REMEDY}.")
    return item


def _parts(content: Any) -> list[tuple[str, Any]]:
    """`(type, value)` of each part of a message's content."""
    if isinstance(content, str):
        return [("text", content)]
    if not isinstance(content, (list, tuple)):
        raise ValueError(f"`content` of a message must be a str or a list of parts, got {type(content).__name__}.")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in part:
            keys = sorted(map(str, part)) if isinstance(part, dict) else type(part).__name__
            raise ValueError(
                f"`content` of a message holds a part with {keys}; a part is {{'type': 'text', 'text': str}} or "
                "{'type': 'image', 'image': PIL.Image.Image}."
            )
        parts.append((part["type"], part[part["type"]]))
    return parts


class MessagesMixin:
    """Lets a processor of items and histories read chat messages."""

    item_instruction: str
    user_instruction: str
    max_history: int
    prepare_items: Callable[..., list[PreparedItem]]
    _lay_out: Callable[..., BatchFeature]

    @property
    def prompts(self) -> dict[str, str]:
        """What tells sentence-transformers a history from an item: the instructions, or a marker where they do not."""
        telling = bool(self.user_instruction) and self.user_instruction != self.item_instruction
        return {"query": self.user_instruction if telling else HISTORY_PROMPT, "document": self.item_instruction}

    def apply_chat_template(self, conversation: Sequence[Any], *unused: Any, **options: Any) -> BatchFeature:
        """Prepare chat messages; this is how sentence-transformers calls a processor.

        Args:
            conversation: one conversation or a batch of them (see `as_documents` and `as_queries`). The user
                instruction as a leading system message makes a history of any conversation; another text takes the
                place of the instruction. Else one message of role `user` is an item.
            unused: a chat template; rows are put together from tokens.
            options: `tokenize` must be true, `return_tensors` "pt"; of what `processor_kwargs` ask of tokenizers and
                image processors all but padding and truncation is refused; others concern sound and film.

        Returns:
            Tensors for `VLM2RecEmbedder.forward`; see `collate`. What cannot be met is a `ValueError`.
        """
        tokenize, kind = options.get("tokenize", True), options.get("return_tensors", "pt")
        if not tokenize or kind not in (None, "pt"):
            raise ValueError(
                f"`{tokenize=}`, `return_tensors={kind!r}`: rows exist as 'pt' tensors only, they are put together "
                "from tokens and not from a string."
            )
        _refuse_options(options if options.get("processor_kwargs") is None else options["processor_kwargs"])
        alone = conversation and _is_message(conversation[0])
        read = [_read(messages) for messages in ([conversation] if alone else conversation)]
        kinds = [self._kind(one) for one in read]
        kept = [
            one.items[-self.max_history :] if role == "user" else one.items
            for one, (role, _) in zip(read, kinds, strict=True)
        ]
        prepared = iter(self.prepare_items([item for items in kept for item in items]))
        return self._lay_out([[next(prepared) for _ in items] for items in kept], kinds)

    def _kind(self, conversation: Conversation) -> tuple[str, str]:
        """Role and instruction of a conversation."""
        prompts, instruction = self.prompts, conversation.instruction
        if instruction == prompts["query"]:
            return "user", self.user_instruction
        role = "user" if conversation.is_history else "item"
        if instruction is None:
            return role, self.user_instruction if conversation.is_history else self.item_instruction
        if instruction == prompts["document"] and conversation.is_history:
            raise ValueError(
                f"`conversation` is a history of {len(conversation.items)} under the item instruction; encode "
                "histories with `encode_query` and items with `encode_document`."
            )
        return role, instruction


def _refuse_options(options: dict[str, Any]) -> None:
    """Refuse settings for tokenizers and image processors that rows put together from pieces cannot follow."""
    asked = {**(options.get("text_kwargs") or {}), **(options.get("images_kwargs") or {})}
    # What sentence-transformers always asks for is how rows are anyway.
    if unmet := {name: value for name, value in asked.items() if name not in ("padding", "truncation")}:
        raise ValueError(
            f"`processing_kwargs` ask for {unmet}, but cutting a row would cut its pooled end, and images are "
            "prepared as the processor is set; set `max_item_tokens`, `max_history_item_tokens`, `max_history` or "
            "the `image_processor` of the processor."
        )
