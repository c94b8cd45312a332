"""A `PixRecModel` around the backbone of an embedder: tiny ones from config, and warmed-up ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..modeling.configuration_pixrec import PixRecConfig
from ..modeling.modeling_pixrec import PixRecModel
from ..modeling.modeling_vlm2rec import VLM2RecEmbedder
from ..modeling.processing_pixrec import PixRecProcessor
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .backbones import tiny_vlm


def pixrec_from_embedder(
    embedder: VLM2RecEmbedder,
    processor: VLM2RecProcessor,
    *,
    seed: int = 0,
    processor_options: dict[str, Any] | None = None,
    **config_options: Any,
) -> tuple[PixRecModel, PixRecProcessor]:
    """Put PixRec around the backbone of an embedder that is no longer needed; the backbone is shared, not copied.

    The language-model head is the token embedding (an embedder has no head of its own).

    Args:
        embedder: whose backbone is taken.
        processor: its processor; tokenizer and image processor are taken.
        seed: of the new projections.
        processor_options: for `PixRecProcessor`.
        config_options: for `PixRecConfig`.
    """
    config = PixRecConfig(vlm_config=embedder.config.vlm_config, tie_word_embeddings=True, **config_options)
    model = PixRecModel.around(embedder.vlm, config, seed=seed)
    return model.eval(), PixRecProcessor(
        processor.image_processor,
        processor.tokenizer,
        backbone_type=processor.backbone_type,
        **(processor_options or {}),
    )


def tiny_pixrec(
    family: str = "qwen2_vl",
    texts: Iterable[str] = (),
    *,
    seed: int = 0,
    processor_options: dict[str, Any] | None = None,
    config_options: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[PixRecModel, PixRecProcessor]:
    """A small random `PixRecModel` and its processor, built without any download.

    Args:
        family: as in `tiny_vlm`.
        texts: what the tokenizer is trained on.
        seed: of the random weights.
        processor_options: for `PixRecProcessor`.
        config_options: for `PixRecConfig`.
        options: other arguments of `tiny_vlm` (`image_size`, `hidden_size`, ...).
    """
    embedder, processor = tiny_vlm(family, texts, seed=seed, **options)
    return pixrec_from_embedder(
        embedder, processor, seed=seed, processor_options=processor_options, **(config_options or {})
    )
