"""Make the library's Auto classes know ours: `AutoModel.from_pretrained("org/vlm2rec-...")` after one import."""

from __future__ import annotations


def register_auto_classes() -> None:
    """Register every config, model and processor of this package, for loading and for saving their code.

    `register_for_auto_class` makes `save_pretrained` copy the flat files beside the weights and write `auto_map`, so
    that a repo also loads with `trust_remote_code=True` where this package is not installed.
    """
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration_dmesr import DMESRConfig
    from .configuration_pixrec import PixRecConfig
    from .configuration_seqrec import SeqRecConfig
    from .configuration_vlm2rec import VLM2RecConfig
    from .modeling_dmesr import DMESRModel
    from .modeling_pixrec import PixRecModel
    from .modeling_seqrec import SequentialRecommender
    from .modeling_vlm2rec import VLM2RecEmbedder
    from .processing_pixrec import PixRecProcessor
    from .processing_vlm2rec import VLM2RecProcessor

    for config, model, processor in (
        (VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor),
        (SeqRecConfig, SequentialRecommender, None),
        (PixRecConfig, PixRecModel, PixRecProcessor),
        (DMESRConfig, DMESRModel, None),
    ):
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModel.register(config, model, exist_ok=True)
        config.register_for_auto_class()
        model.register_for_auto_class("AutoModel")
        if processor is not None:
            AutoProcessor.register(config, processor, exist_ok=True)
            processor.register_for_auto_class("AutoProcessor")
