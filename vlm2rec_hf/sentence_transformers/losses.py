"""The objectives of `VLM2RecLoss` as losses for `SentenceTransformerTrainer`.

Importing this module imports sentence-transformers; `vlm2rec_hf.losses` itself does not.
"""

from .cached_ranking_loss import CachedVLM2RecRankingLoss
from .ranking_loss import VLM2RecRankingLoss

__all__ = ["CachedVLM2RecRankingLoss", "VLM2RecRankingLoss"]
