"""The public names of `vlm2rec_hf.sentence_transformers`, each written once."""

from .cached_ranking_loss import CachedVLM2RecRankingLoss as CachedVLM2RecRankingLoss
from .model_files import (
    as_documents as as_documents,
)
from .model_files import (
    as_queries as as_queries,
)
from .model_files import (
    write_sentence_transformer_files as write_sentence_transformer_files,
)
from .ranking_data import ranking_dataset as ranking_dataset
from .ranking_loss import VLM2RecRankingLoss as VLM2RecRankingLoss
