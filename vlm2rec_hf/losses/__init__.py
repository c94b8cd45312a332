"""Losses: tensors in, named terms out. Nothing here knows a model or a trainer."""

from .crtr import crtr, crtr_candidates
from .dmesr import alignment_loss
from .gather import (
    average_over_processes,
    distinct_candidates,
    gather_candidates,
    gather_pairs,
    gather_sizes,
    gather_with_grad,
)
from .info_nce import info_nce, mean_over_users, unimodal_info_nce
from .masks import check_positives, negative_mask
from .next_item import LOSSES, NextItemLoss, gbce, next_item_cross_entropy, sampled_softmax
from .pixrec import PixRecLoss
from .schedules import Schedule
from .similarity import ViewSimilarities, ViewVectors, unit_rows, view_similarities
from .vlm2rec import OBJECTIVES, LossOutput, VLM2RecLoss
from .wpcl import ModalityMargins, WPCLOutput, log_omega, margin_gap, modality_margins, wpcl

__all__ = [
    "LOSSES",
    "OBJECTIVES",
    "LossOutput",
    "ModalityMargins",
    "NextItemLoss",
    "PixRecLoss",
    "Schedule",
    "VLM2RecLoss",
    "ViewSimilarities",
    "ViewVectors",
    "WPCLOutput",
    "alignment_loss",
    "average_over_processes",
    "check_positives",
    "crtr",
    "crtr_candidates",
    "distinct_candidates",
    "gather_candidates",
    "gather_pairs",
    "gather_sizes",
    "gather_with_grad",
    "gbce",
    "info_nce",
    "log_omega",
    "mean_over_users",
    "margin_gap",
    "modality_margins",
    "negative_mask",
    "next_item_cross_entropy",
    "sampled_softmax",
    "unimodal_info_nce",
    "unit_rows",
    "view_similarities",
    "wpcl",
]
