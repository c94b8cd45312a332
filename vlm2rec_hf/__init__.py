"""Turn a vision-language model into a multimodal sequential recommender."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .modeling.auto import register_auto_classes

__version__ = "0.1.0.dev0"

_EXPORTS = {
    "CachedVLM2RecRankingLoss": "losses.sentence_transformers",
    "DMESRConfig": "modeling.configuration_dmesr",
    "DMESRModel": "modeling.modeling_dmesr",
    "DMESRTrainer": "trainers.dmesr_trainer",
    "DMESRTrainingArguments": "trainers.dmesr_args",
    "DescribedItems": "data.described_items",
    "DescriptionColumns": "data.encode_descriptions",
    "EncodedItems": "data.encoded_items",
    "Encoding": "modeling.modeling_vlm2rec",
    "HeadCatalogue": "modeling.catalogue_seqrec",
    "ImagePath": "data.images",
    "ItemInputs": "modeling.inputs_dmesr",
    "LSATextEncoder": "data.lsa_text_encoder",
    "NextItemLoss": "losses.next_item",
    "PixRecConfig": "modeling.configuration_pixrec",
    "PixRecModel": "modeling.modeling_pixrec",
    "PixRecProcessor": "modeling.processing_pixrec",
    "PixRecTrainer": "trainers.pixrec_trainer",
    "PixRecTrainingArguments": "trainers.pixrec_args",
    "PreparedCatalogue": "modeling.prepared_catalogue",
    "RecDataset": "data.dataset",
    "Recommendation": "modeling.recommending_seqrec",
    "Report": "evaluation.report",
    "SeqRecConfig": "modeling.configuration_seqrec",
    "SeqRecTrainer": "trainers.seqrec_trainer",
    "SeqRecTrainingArguments": "trainers.seqrec_args",
    "SequentialRecommender": "modeling.modeling_seqrec",
    "VLM2RecConfig": "modeling.configuration_vlm2rec",
    "VLM2RecEmbedder": "modeling.modeling_vlm2rec",
    "VLM2RecLoss": "losses.vlm2rec",
    "VLM2RecProcessor": "modeling.processing_vlm2rec",
    "VLM2RecRankingLoss": "losses.sentence_transformers",
    "VLM2RecTrainer": "trainers.vlm2rec_trainer",
    "VLM2RecTrainingArguments": "trainers.vlm2rec_args",
    "VisionCache": "modeling.vision_cache",
    "as_documents": "modeling.sentence_transformer",
    "as_queries": "modeling.sentence_transformer",
    "default_lora_config": "trainers.vlm2rec_trainer",
    "encode_descriptions": "data.encode_descriptions",
    "evaluate_embedder": "evaluation.embedder",
    "evaluate_pixrec": "evaluation.pixrec",
    "load_recsys": "data.readers",
    "make_demo_shop": "data.demo_shop",
    "merge_adapters": "modeling.merge_adapters",
    "pixrec_lora_config": "trainers.pixrec_trainer",
    "publish_model": "hub_cards.publish",
    "rank_head": "trainers.seqrec_trainer",
    "tiny_pixrec": "modeling.backbones_pixrec",
    "tiny_vlm": "modeling.backbones",
    "warm_up_backbone": "trainers.warm_up",
    "write_sentence_transformer_files": "modeling.sentence_transformer",
}

__all__ = [
    "CachedVLM2RecRankingLoss",
    "DMESRConfig",
    "DMESRModel",
    "DMESRTrainer",
    "DMESRTrainingArguments",
    "DescribedItems",
    "DescriptionColumns",
    "EncodedItems",
    "Encoding",
    "HeadCatalogue",
    "ImagePath",
    "ItemInputs",
    "LSATextEncoder",
    "NextItemLoss",
    "PixRecConfig",
    "PixRecModel",
    "PixRecProcessor",
    "PixRecTrainer",
    "PixRecTrainingArguments",
    "PreparedCatalogue",
    "RecDataset",
    "Recommendation",
    "Report",
    "SeqRecConfig",
    "SeqRecTrainer",
    "SeqRecTrainingArguments",
    "SequentialRecommender",
    "VLM2RecConfig",
    "VLM2RecEmbedder",
    "VLM2RecLoss",
    "VLM2RecProcessor",
    "VLM2RecRankingLoss",
    "VLM2RecTrainer",
    "VLM2RecTrainingArguments",
    "VisionCache",
    "as_documents",
    "as_queries",
    "default_lora_config",
    "encode_descriptions",
    "evaluate_embedder",
    "evaluate_pixrec",
    "load_recsys",
    "make_demo_shop",
    "merge_adapters",
    "pixrec_lora_config",
    "publish_model",
    "rank_head",
    "tiny_pixrec",
    "tiny_vlm",
    "warm_up_backbone",
    "write_sentence_transformer_files",
]

if TYPE_CHECKING:
    from .data.dataset import RecDataset
    from .data.demo_shop import make_demo_shop
    from .data.described_items import DescribedItems
    from .data.encode_descriptions import DescriptionColumns, encode_descriptions
    from .data.encoded_items import EncodedItems
    from .data.images import ImagePath
    from .data.lsa_text_encoder import LSATextEncoder
    from .data.readers import load_recsys
    from .evaluation.embedder import evaluate_embedder
    from .evaluation.pixrec import evaluate_pixrec
    from .evaluation.report import Report
    from .hub_cards.publish import publish_model
    from .losses.next_item import NextItemLoss
    from .losses.sentence_transformers import CachedVLM2RecRankingLoss, VLM2RecRankingLoss
    from .losses.vlm2rec import VLM2RecLoss
    from .modeling.backbones import tiny_vlm
    from .modeling.backbones_pixrec import tiny_pixrec
    from .modeling.catalogue_seqrec import HeadCatalogue
    from .modeling.configuration_dmesr import DMESRConfig
    from .modeling.configuration_pixrec import PixRecConfig
    from .modeling.configuration_seqrec import SeqRecConfig
    from .modeling.configuration_vlm2rec import VLM2RecConfig
    from .modeling.inputs_dmesr import ItemInputs
    from .modeling.merge_adapters import merge_adapters
    from .modeling.modeling_dmesr import DMESRModel
    from .modeling.modeling_pixrec import PixRecModel
    from .modeling.modeling_seqrec import SequentialRecommender
    from .modeling.modeling_vlm2rec import Encoding, VLM2RecEmbedder
    from .modeling.prepared_catalogue import PreparedCatalogue
    from .modeling.processing_pixrec import PixRecProcessor
    from .modeling.processing_vlm2rec import VLM2RecProcessor
    from .modeling.recommending_seqrec import Recommendation
    from .modeling.sentence_transformer import as_documents, as_queries, write_sentence_transformer_files
    from .modeling.vision_cache import VisionCache
    from .trainers.dmesr_args import DMESRTrainingArguments
    from .trainers.dmesr_trainer import DMESRTrainer
    from .trainers.pixrec_args import PixRecTrainingArguments
    from .trainers.pixrec_trainer import PixRecTrainer, pixrec_lora_config
    from .trainers.seqrec_args import SeqRecTrainingArguments
    from .trainers.seqrec_trainer import SeqRecTrainer, rank_head
    from .trainers.vlm2rec_args import VLM2RecTrainingArguments
    from .trainers.vlm2rec_trainer import VLM2RecTrainer, default_lora_config
    from .trainers.warm_up import warm_up_backbone


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import vlm2rec_hf` stays cheap."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_EXPORTS[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])


register_auto_classes()
