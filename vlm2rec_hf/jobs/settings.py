"""What of a model and its processor decides the vectors, as plain data to compare."""

from __future__ import annotations

import hashlib
import inspect
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
    from ..modeling.processing_vlm2rec import VLM2RecProcessor


def loaded_settings(model: VLM2RecEmbedder, processor: VLM2RecProcessor) -> dict[str, Any]:
    """Settings known once model and processor are loaded.

    Args:
        model: the embedder.
        processor: not used since it was loaded (a tokenizer remembers how it padded last).
    """
    names = [name for name in inspect.signature(type(processor).__init__).parameters if name not in _NOT_SETTINGS]
    return {
        "loaded": {
            "dtype": str(model.dtype).removeprefix("torch."),
            "attn_implementation": model.config._attn_implementation,
            "fusion": model.config.fusion,
            "dimensions": model.config.hidden_size,
        },
        "processor": {
            **{name: getattr(processor, name) for name in names},
            "image_processor": json.loads(json.dumps(processor.image_processor.to_dict(), default=str)),
            "tokenizer": _tokenizer_digest(processor.tokenizer),
        },
    }


_NOT_SETTINGS = ("self", "image_processor", "tokenizer", "chat_template")


def _tokenizer_digest(tokenizer: Any) -> str:
    """A digest of vocabulary and rules."""
    if getattr(tokenizer, "is_fast", False):
        state = json.loads(tokenizer.backend_tokenizer.to_str())
        state = {name: value for name, value in state.items() if name not in ("padding", "truncation")}
    else:
        state = {"vocabulary": tokenizer.get_vocab(), "special": tokenizer.special_tokens_map}
    text = json.dumps(state, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
