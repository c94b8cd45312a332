"""Tiny vision-language backbones from config, with a tokenizer trained on the spot, for tests and small studies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .configuration_vlm2rec import VLM2RecConfig
from .modeling_vlm2rec import VLM2RecEmbedder
from .processing_vlm2rec import VLM2RecProcessor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
PROCESSOR_TEXTS = ["Represent this item for recommendation:\n", "Represent what this user will choose next, given "
                   "the history, oldest first:\n", "1. 2. 3. 4. 5. 6. 7. 8. 9. 10. \n"]  # fmt: skip


def train_tokenizer(texts: Iterable[str], vocab_size: int = 2000) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen-VL's special tokens; deterministic in `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PROCESSOR_TEXTS * 8, *texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=SPECIAL_TOKENS[1:],
        padding_side="right",
        model_max_length=4096,
    )


def tiny_backbone_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    *,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    vision_hidden_size: int = 64,
    vision_layers: int = 2,
    patch_size: int = 14,
) -> PreTrainedConfig:
    """Configuration of a small backbone of `family` (`qwen2_vl`, `qwen2_5_vl` or `qwen3_vl`).

    Raises:
        ValueError: an unknown `family`, or `hidden_size` not divisible by `2 * heads`.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

    builders = {"qwen2_vl": Qwen2VLConfig, "qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}
    if family not in builders:
        raise ValueError(f"`family` must be one of {sorted(builders)}, got {family!r}.")
    if hidden_size % (2 * heads):
        raise ValueError(f"`hidden_size` must be divisible by 2 * heads = {2 * heads}, got {hidden_size}.")
    half = hidden_size // heads // 2
    section = [half - 2 * (half // 3), half // 3, half // 3]
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section},
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {"depth": vision_layers, "num_heads": heads, "patch_size": patch_size}
    if family == "qwen2_vl":
        vision |= {"embed_dim": vision_hidden_size, "hidden_size": hidden_size, "mlp_ratio": 2}
    else:
        vision |= {
            "hidden_size": vision_hidden_size,
            "out_hidden_size": hidden_size,
            "intermediate_size": 2 * vision_hidden_size,
        }
        if family == "qwen2_5_vl":
            vision |= {"fullatt_block_indexes": list(range(vision_layers)), "window_size": 8 * patch_size}
        else:
            vision |= {"deepstack_visual_indexes": [0], "num_position_embeddings": 256}
            text |= {"head_dim": hidden_size // heads}
    ids: dict[str, Any] = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return builders[family](
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def tiny_vlm(
    family: str = "qwen2_vl",
    texts: Iterable[str] = (),
    *,
    image_size: int = 56,
    vocab_size: int = 2000,
    fusion: str = "external",
    seed: int = 0,
    processor_options: dict[str, Any] | None = None,
    **sizes: int,
) -> tuple[VLM2RecEmbedder, VLM2RecProcessor]:
    """A small random embedder and its processor, built without any download.

    Args:
        family: `qwen2_vl`, `qwen2_5_vl` or `qwen3_vl`.
        texts: what the tokenizer is trained on.
        image_size: pictures are brought to about this many pixels a side.
        vocab_size: size of the tokenizer at most.
        fusion: see `VLM2RecConfig`.
        seed: of the random weights; the global random state is left as it was.
        processor_options: for `VLM2RecProcessor`, such as `max_history`.
        sizes: for `tiny_backbone_config`.

    Returns:
        The embedder (in evaluation mode, float32) and the processor.
    """
    import torch
    from transformers import AutoImageProcessor  # noqa: F401 - registers the processors' lazy modules
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor

    tokenizer = train_tokenizer(texts, vocab_size)
    if family == "qwen3_vl":
        sizes.setdefault("patch_size", 16)
    config = tiny_backbone_config(family, tokenizer, **sizes)
    patch = config.vision_config.patch_size
    edge = max(image_size // (2 * patch), 1) * 2 * patch
    options: dict[str, Any] = {
        "patch_size": patch,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "size": {"shortest_edge": edge * edge, "longest_edge": edge * edge},
    }
    processor = VLM2RecProcessor(
        Qwen2VLImageProcessor(**options),
        tokenizer,
        backbone_type=family,
        fusion=fusion,
        **(processor_options or {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config, fusion=fusion))
    return model.eval(), processor
