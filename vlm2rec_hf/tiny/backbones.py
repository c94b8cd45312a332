"""Tiny vision-language backbones from config, with a tokenizer trained on the spot, for tests and small studies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..modeling.configuration_parts import IMAGE_TOKEN, PartsConfig
from ..modeling.configuration_vlm2rec import VLM2RecConfig
from ..modeling.families_vlm2rec import family_of
from ..modeling.family_parts import FeatureReader
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from ..quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerFast

SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
                  "<|image_pad|>", "<|video_pad|>"]  # fmt: skip
IDEFICS3_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<end_of_utterance>", "<fake_token_around_image>",
                           "<global-img>", "<image>"]  # fmt: skip
PALIGEMMA_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<bos>", "<image>"]
PARTS_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", IMAGE_TOKEN]
GEMMA3_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<start_of_image>", "<image_soft_token>", "<end_of_image>"]
LLAVA_SPECIAL_TOKENS = ["<|endoftext|>", "<|im_start|>", "<image>"]
CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}IMAGE{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""In the manner of Qwen-VL's; IMAGE stands for what stands for an image."""
QWEN, IDEFICS3 = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ("smolvlm", "idefics3")
PALIGEMMA, LLAVA, GEMMA3, PARTS = ("paligemma",), ("llava",), ("gemma3",), ("parts",)
"""`parts` is our name for `PartsConfig.model_type`, as in `from_parts`."""
PROCESSOR_TEXTS = ["Represent this item for recommendation:\n", "Represent what this user will choose next, given "
                   "the history, oldest first:\n", "1. 2. 3. 4. 5. 6. 7. 8. 9. 10. \n"]  # fmt: skip


def train_tokenizer(
    texts: Iterable[str], vocab_size: int = 2000, special_tokens: Sequence[str] = SPECIAL_TOKENS
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with Qwen-VL's special tokens, or others; deterministic in `texts`."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special_tokens),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*PROCESSOR_TEXTS * 8, *texts], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        additional_special_tokens=list(special_tokens[1:]),
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
    image_size: int | None = None,
    feature_size: int | None = None,
    tokens_per_image: int = 4,
) -> PreTrainedConfig:
    """Configuration of a small backbone of `family` (a `model_type`, or `parts`: see `tiny_vlm`).

    `image_size` (8 patches by default) is what the towers of PaliGemma, LLaVA and Gemma 3 have positions for; their
    own `forward` reads no other. `parts` has a Qwen3 and a SigLIP tower with `tokens_per_image`; with a
    `feature_size` it has no tower.

    Raises:
        ValueError: an unknown `family`, `hidden_size` not divisible by `2 * heads`, or a `feature_size` of a family
            that reads images.
    """
    makers = dict.fromkeys(QWEN, _qwen_config) | dict.fromkeys(IDEFICS3, _idefics3_config)
    makers |= dict.fromkeys(PALIGEMMA, _paligemma_config) | dict.fromkeys(LLAVA, _llava_config)
    makers |= dict.fromkeys(GEMMA3, _gemma3_config) | dict.fromkeys(PARTS, _parts_config)
    if family not in makers:
        raise ValueError(f"`family` must be one of {sorted(makers)}, got {family!r}.")
    if feature_size is not None and family not in PARTS:
        raise ValueError(f"`feature_size` is an option of the family 'parts', got {feature_size} for {family!r}.")
    if hidden_size % (2 * heads):
        raise ValueError(f"`hidden_size` must be divisible by 2 * heads = {2 * heads}, got {hidden_size}.")
    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden_size,
        "intermediate_size": 2 * hidden_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "max_position_embeddings": 4096,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision: dict[str, Any] = {"patch_size": patch_size}
    if family not in QWEN:
        vision |= {
            "image_size": image_size if image_size and family not in IDEFICS3 else 8 * patch_size,
            "hidden_size": vision_hidden_size,
            "intermediate_size": 2 * vision_hidden_size,
            "num_hidden_layers": vision_layers,
            "num_attention_heads": heads,
        }
    if family in PARTS:
        vision |= {"feature_size": feature_size, "tokens_per_image": tokens_per_image}
    return makers[family](family, tokenizer, text, vision, vision_hidden_size, vision_layers)


def _qwen_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig, Qwen3VLConfig

    hidden_size, heads, patch_size = text["hidden_size"], text["num_attention_heads"], vision["patch_size"]
    half = hidden_size // heads // 2
    section = [half - 2 * (half // 3), half // 3, half // 3]
    text["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": section}
    vision |= {"depth": vision_layers, "num_heads": heads}
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
    builders = {"qwen2_vl": Qwen2VLConfig, "qwen2_5_vl": Qwen2_5_VLConfig, "qwen3_vl": Qwen3VLConfig}
    return builders[family](
        text_config=text,
        vision_config=vision,
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )


def _idefics3_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    from transformers import Idefics3Config, SmolVLMConfig

    builders = {"smolvlm": SmolVLMConfig, "idefics3": Idefics3Config}
    options: dict[str, Any] = {
        "text_config": {"model_type": "llama", **text},
        "vision_config": vision,
        "image_token_id": tokenizer.convert_tokens_to_ids("<image>"),
        "pad_token_id": tokenizer.pad_token_id,
        "scale_factor": 2,
    }
    return builders[family](**options)


def _paligemma_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    """Of the second generation, whose language model is Gemma 2."""
    from transformers import Gemma2Config, PaliGemmaConfig, SiglipVisionConfig

    hidden_size, heads = text["hidden_size"], text["num_attention_heads"]
    head_size = hidden_size // heads
    options: dict[str, Any] = {
        "text_config": Gemma2Config(**text, head_dim=head_size, query_pre_attn_scalar=head_size),
        "vision_config": SiglipVisionConfig(**vision, vision_use_head=False),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    return PaliGemmaConfig(**options, projection_dim=hidden_size, hidden_size=hidden_size)


def _llava_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    """As LLaVA 1.5: CLIP, read at its last layer but one, and Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    options: dict[str, Any] = {
        "text_config": LlamaConfig(**text),
        "vision_config": CLIPVisionConfig(**vision),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    return LlavaConfig(**options)


def _gemma3_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    """Every second layer, the last among them, sees the whole row; four patches are pooled to one token."""
    from transformers import Gemma3Config, Gemma3TextConfig, SiglipVisionConfig

    head_size, layers = text["hidden_size"] // text["num_attention_heads"], text["num_hidden_layers"]
    kinds = ["full_attention" if (layers - layer) % 2 else "sliding_attention" for layer in range(layers)]
    options: dict[str, Any] = {
        "text_config": Gemma3TextConfig(
            **text, head_dim=head_size, query_pre_attn_scalar=head_size, layer_types=kinds
        ),
        "vision_config": SiglipVisionConfig(**vision, vision_use_head=False),
        "mm_tokens_per_image": max(vision["image_size"] // vision["patch_size"] // 2, 1) ** 2,
        "boi_token_index": tokenizer.convert_tokens_to_ids("<start_of_image>"),
        "eoi_token_index": tokenizer.convert_tokens_to_ids("<end_of_image>"),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image_soft_token>"),
    }
    return Gemma3Config(**options)


def _parts_config(
    family: str,
    tokenizer: PreTrainedTokenizerFast,
    text: dict[str, Any],
    vision: dict[str, Any],
    vision_hidden_size: int,
    vision_layers: int,
) -> PreTrainedConfig:
    from transformers import Qwen3Config, SiglipVisionConfig

    given = {name: vision.pop(name) for name in ("feature_size", "tokens_per_image")}
    placeholder: Any = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return PartsConfig(
        text_config=Qwen3Config(**text, head_dim=text["hidden_size"] // text["num_attention_heads"]),
        vision_config=None if given["feature_size"] else SiglipVisionConfig(**vision, vision_use_head=False),
        image_token_id=placeholder,
        **given,
    )


def _image_processor(config: PreTrainedConfig, edge: int) -> Any:
    """An image processor that brings images to about (all but Qwen-VL: exactly) `edge` pixels a side."""
    from transformers import AutoImageProcessor  # noqa: F401 - registers the processors' lazy modules

    if isinstance(config, PartsConfig) and config.vision_config is None:
        return FeatureReader(config.feature_size or 0)
    if config.model_type in IDEFICS3:
        # By file: until transformers 5.18 the plain names insist on torchvision.
        from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
        from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

        made: Any = {"smolvlm": SmolVLMImageProcessorPil, "idefics3": Idefics3ImageProcessorPil}[config.model_type](
            do_image_splitting=False, size={"longest_edge": edge}, max_image_size={"longest_edge": edge}
        )
    elif config.model_type in (*PALIGEMMA, PartsConfig.model_type):
        from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

        made = SiglipImageProcessorPil(size={"height": edge, "width": edge})
    elif config.model_type in GEMMA3:
        from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

        made = Gemma3ImageProcessorPil(size={"height": edge, "width": edge})
    elif config.model_type in LLAVA:
        from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

        made = CLIPImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": edge, "width": edge})
    else:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        options: dict[str, Any] = {
            "patch_size": config.vision_config.patch_size,
            "merge_size": 2,
            "temporal_patch_size": 2,
            "size": {"shortest_edge": edge * edge, "longest_edge": edge * edge},
        }
        made = Qwen2VLImageProcessorPil(**options)
    family_of(config.model_type).set_up_image_processor(made, config)
    return made


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
        family: `qwen2_vl`, `qwen2_5_vl`, `qwen3_vl`, `smolvlm`, `idefics3`, `paligemma` (a PaliGemma 2), `llava`,
            `gemma3` or `parts` (a Qwen3 and a SigLIP tower, or with `feature_size=` images as features; see
            `tiny_backbone_config`).
        texts: what the tokenizer is trained on.
        image_size: images are brought to about this many pixels a side.
        vocab_size: size of the tokenizer at most.
        fusion: see `VLM2RecConfig`.
        seed: of the random weights; the global random state is left as it was.
        processor_options: for `VLM2RecProcessor`, such as `max_history`.
        sizes: for `tiny_backbone_config`.

    Returns:
        The embedder (in evaluation mode, float32) and the processor.
    """
    import torch

    special = dict.fromkeys(IDEFICS3, IDEFICS3_SPECIAL_TOKENS) | dict.fromkeys(PALIGEMMA, PALIGEMMA_SPECIAL_TOKENS)
    special |= dict.fromkeys(LLAVA, LLAVA_SPECIAL_TOKENS) | dict.fromkeys(GEMMA3, GEMMA3_SPECIAL_TOKENS)
    special |= dict.fromkeys(PARTS, PARTS_SPECIAL_TOKENS)
    tokenizer = train_tokenizer(texts, vocab_size, special.get(family, SPECIAL_TOKENS))
    if family == "qwen3_vl":
        sizes.setdefault("patch_size", 16)
    step = 2 * sizes.setdefault("patch_size", 14)
    edge = max(image_size // step, 1) * step
    config = tiny_backbone_config(family, tokenizer, image_size=edge, **sizes)
    processor = VLM2RecProcessor(
        _image_processor(config, edge),
        tokenizer,
        backbone_type=config.model_type,
        fusion=fusion,
        **(processor_options or {}),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config, fusion=fusion))
        fill_projector(model)
    return model.eval(), processor


def fill_projector(model: Any) -> None:
    """Draw the one matrix that the library begins with zeros: Gemma 3's, without which images say nothing."""
    from torch.nn.init import normal_

    for name, weight in model.named_parameters():
        if name.endswith("mm_input_projection_weight"):
            normal_(weight, std=0.02)


def save_tiny_backbone(
    folder: str | Path, family: str = "qwen2_vl", texts: Iterable[str] = (), *, seed: int = 0, **options: Any
) -> None:
    """Save a small random vision-language model as a raw checkpoint, as others publish theirs.

    `VLM2RecEmbedder.from_backbone`, `VLM2RecProcessor.from_backbone` and `vlm2rec describe` read it.

    Args:
        folder: where.
        family: see `tiny_vlm`; all but `parts`.
        texts: what the tokenizer is trained on.
        seed: of the random weights; the global random state is left as it was.
        options: further ones of `tiny_vlm`.

    Raises:
        ValueError: `parts`, which nobody publishes as one checkpoint.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    if family in PARTS:
        raise ValueError("`family` 'parts' is put together of two checkpoints and is none itself; use `tiny_vlm`.")
    model, processor = tiny_vlm(family, texts, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        raw = AutoModelForImageTextToText.from_config(model.config.vlm_config)
        fill_projector(raw)
    with quiet_libraries():
        raw.save_pretrained(folder)
    processor.tokenizer.chat_template = CHAT_TEMPLATE.replace("IMAGE", processor.family.chat_image)
    processor.tokenizer.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)
