"""Make the library's Auto classes know ours: `AutoModel.from_pretrained("org/vlm2rec-...")` after one import."""

from __future__ import annotations


def register_auto_classes() -> None:
    """Register every config, model and processor of this package, for loading and for saving their code.

    `register_for_auto_class` makes `save_pretrained` copy the flat files beside the weights and write `auto_map`, so
    that a repo also loads with `trust_remote_code=True` where this package is not installed.
    """
    from transformers import AutoConfig, AutoModel, AutoProcessor

    from .configuration_dmesr import DMESRConfig
    from .configuration_seqrec import SeqRecConfig
    from .configuration_vlm2rec import VLM2RecConfig
    from .modeling_dmesr import DMESRModel
    from .modeling_seqrec import SequentialRecommender
    from .modeling_vlm2rec import VLM2RecEmbedder
    from .processing_vlm2rec import VLM2RecProcessor

    AutoConfig.register(VLM2RecConfig.model_type, VLM2RecConfig, exist_ok=True)
    AutoModel.register(VLM2RecConfig, VLM2RecEmbedder, exist_ok=True)
    AutoProcessor.register(VLM2RecConfig, VLM2RecProcessor, exist_ok=True)
    VLM2RecConfig.register_for_auto_class()
    VLM2RecEmbedder.register_for_auto_class("AutoModel")
    VLM2RecProcessor.register_for_auto_class("AutoProcessor")
    AutoConfig.register(SeqRecConfig.model_type, SeqRecConfig, exist_ok=True)
    AutoModel.register(SeqRecConfig, SequentialRecommender, exist_ok=True)
    SeqRecConfig.register_for_auto_class()
    SequentialRecommender.register_for_auto_class("AutoModel")
    AutoConfig.register(DMESRConfig.model_type, DMESRConfig, exist_ok=True)
    AutoModel.register(DMESRConfig, DMESRModel, exist_ok=True)
    DMESRConfig.register_for_auto_class()
    DMESRModel.register_for_auto_class("AutoModel")
