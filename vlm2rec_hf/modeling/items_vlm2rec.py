"""What an item may be, and chat messages, the form in which sentence-transformers hands items to a processor.

A message is one item. Messages of role `history` are a history, oldest first, be it of one item only;
sentence-transformers itself gives single inputs the role `user`. A leading `system` message is the instruction: that
is where sentence-transformers puts a prompt.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from torch import Tensor
from transformers import BatchFeature

from .family_vlm2rec import ImageFeatures

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
    """Type an item: a string is always text, a PIL image is always an image, a dict holds `text` and/or `image`.

    Raises:
        TypeError: something else, or a dict entry of another type (strings are never opened as paths or URLs).
        ValueError: neither text nor image, or another key.
    """
    if isinstance(value, str):
        value = {"text": value}
    elif isinstance(value, Image.Image):
        value = {"image": value}
    elif not isinstance(value, dict):
        raise TypeError(
            f"`items` holds a {type(value).__name__}; pass a str (text), a PIL.Image.Image or a dict with 'text' "
            "and/or 'image'."
        )
    if unknown := sorted(map(str, value.keys() - {"text", "image"})):
        raise ValueError(f"`items` holds a dict with {unknown}, which nothing reads; an item has 'text' and 'image'.")
    text, image = value.get("text"), value.get("image")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"`text` of an item must be a str or None, got {type(text).__name__}.")
    if image is not None and not isinstance(image, Image.Image):
        raise TypeError(
            f"`image` of an item must be a PIL.Image.Image or None, got {type(image).__name__}; decode bytes or "
            "files first with `vlm2rec_hf.data.decode_image`."
        )
    text = text if text and text.strip() else None
    if text is None and image is None:
        raise ValueError(f"An item needs a text or an image, got {value!r}.")
    return {"text": text, "image": image}


def check_list(name: str, value: Any) -> None:
    """Refuse a lone item where a list of items belongs: a string would fall apart into one-letter items.

    Raises:
        TypeError: `value` is an item.
    """
    if isinstance(value, (str, dict, Image.Image, PreparedItem)):
        raise TypeError(f"`{name}` must be a list of items, got a {type(value).__name__}; wrap one as `[item]`.")


@dataclass
class Conversation:
    """What a conversation says.

    Attributes:
        items: `{"text": ..., "image": ...}` per message, oldest first.
        is_history: the messages say that they are a history, or there are several; one `user` message can be either.
        instruction: text of the `system` message, or `None` without one.
    """

    items: list[dict[str, Any]]
    is_history: bool
    instruction: str | None = None


def is_message(value: Any) -> bool:
    """Whether `value` is one chat message."""
    return isinstance(value, dict) and "role" in value and "content" in value


def read_conversations(conversations: Sequence[Any]) -> list[Conversation]:
    """Read one conversation (a list of messages) or a batch of them.

    Raises:
        ValueError: an empty conversation, an unknown role, or a message that is not one item.
    """
    if conversations and is_message(conversations[0]):
        conversations = [conversations]
    return [_read(messages) for messages in conversations]


def _read(messages: Any) -> Conversation:
    if not isinstance(messages, (list, tuple)) or not messages or not all(is_message(m) for m in messages):
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
        """The prompts by which sentence-transformers distinguishes a history (`query`) from an item (`document`).

        They are the two instructions; only where those are equal or empty, a marker stands for the user's.
        """
        telling = bool(self.user_instruction) and self.user_instruction != self.item_instruction
        return {"query": self.user_instruction if telling else HISTORY_PROMPT, "document": self.item_instruction}

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        chat_template: str | None = None,
        *,
        tokenize: bool = True,
        return_tensors: str | None = "pt",
        processor_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> BatchFeature:
        """Prepare chat messages; this is how sentence-transformers calls a processor.

        Args:
            conversation: one conversation or a batch of them; `as_documents` and `as_queries` say what one looks
                like. The user instruction as a leading system message makes a history of any conversation; another
                text takes the place of the instruction. Else one message of role `user` is an item.
            chat_template: not used; rows are put together from tokens.
            tokenize: must be true.
            return_tensors: must be `"pt"`.
            processor_kwargs: what sentence-transformers asks of tokenizers and image processors; all but padding
                and truncation is refused.
            kwargs: further options of sentence-transformers that concern strings, sound and film; not used.

        Returns:
            Tensors for `VLM2RecEmbedder.forward`; see `collate`.

        Raises:
            ValueError: a conversation that is neither an item nor a history, or an option that cannot be met.
        """
        if not tokenize or return_tensors not in (None, "pt"):
            raise ValueError(
                f"`tokenize={tokenize!r}`, `return_tensors={return_tensors!r}`: rows exist as 'pt' tensors only, they "
                "are put together from tokens and not from a string."
            )
        _refuse_options(processor_kwargs if processor_kwargs is not None else kwargs)
        read = read_conversations(conversation)
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
    unmet = {name: value for name, value in asked.items() if name not in ("padding", "truncation")}
    if unmet:
        raise ValueError(
            f"`processing_kwargs` ask for {unmet}, but cutting a row would cut its pooled end, and images are "
            "prepared as the processor is set; set `max_item_tokens`, `max_history_item_tokens`, `max_history` or "
            "the `image_processor` of the processor."
        )
