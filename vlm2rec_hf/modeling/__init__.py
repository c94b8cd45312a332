"""Exactly what is copied into model repos: flat files with sibling imports only.

Importing this package registers our classes with transformers' Auto classes, for loading and for saving their code.
This file is the only one here that is not copied.
"""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoProcessor

from .modeling_dmesr import DMESRModel
from .modeling_pixrec import PixRecModel
from .modeling_seqrec import SequentialRecommender
from .modeling_vlm2rec import VLM2RecEmbedder
from .processing_pixrec import PixRecProcessor
from .processing_vlm2rec import VLM2RecProcessor

MODELS: tuple[Any, ...] = (VLM2RecEmbedder, PixRecModel, SequentialRecommender, DMESRModel)
"""Every class of model, one per `model_type`."""
PROCESSORS: dict[Any, Any] = {VLM2RecEmbedder: VLM2RecProcessor, PixRecModel: PixRecProcessor}
"""Model class -> class of its processor; heads have none."""

for _model in MODELS:
    _config = _model.config_class
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    if _model in PROCESSORS:
        AutoProcessor.register(_config, PROCESSORS[_model], exist_ok=True)
        PROCESSORS[_model].register_for_auto_class("AutoProcessor")
