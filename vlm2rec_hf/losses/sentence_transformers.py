"""The objectives of `VLM2RecLoss` as losses for `SentenceTransformerTrainer`.

Importing this module imports sentence-transformers; `vlm2rec_hf.losses` itself does not.
"""

from .sentence_transformers_cached import CachedVLM2RecRankingLoss
from .sentence_transformers_ranking import VLM2RecRankingLoss

__all__ = ["CachedVLM2RecRankingLoss", "VLM2RecRankingLoss"]
