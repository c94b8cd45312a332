"""Evaluation: exact ranking, per-user metrics, modality views, floors, significance, reports.

Names are imported on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .floors import FLOORS, PopularityScorer, RepeatLastScorer, TransitionScorer, rank_floors
    from .joining import join_reports
    from .metrics import coverage_at_k, hit_at_k, mrr_at_k, ndcg_at_k, novelty_at_k, rank_metric, recall_at_k
    from .modality import effective_rank, evaluate_views, margins, modality_gap, weak_modality_share
    from .plots import plot_margins, plot_views
    from .protocol import Protocol
    from .ranking import Ranking, rank_targets
    from .report import Report
    from .sampled import SampledRanking, rank_sampled
    from .scorers import BlockScorer, VectorScorer
    from .seen import SeenItems
    from .significance import bootstrap_interval, compare, compare_methods, holm, paired_permutation_test
    from .slices import make_slices, popularity_buckets

_HOME = {
    "floors": ("FLOORS", "PopularityScorer", "RepeatLastScorer", "TransitionScorer", "rank_floors"),
    "joining": ("join_reports",),
    "metrics": (
        "coverage_at_k",
        "hit_at_k",
        "mrr_at_k",
        "ndcg_at_k",
        "novelty_at_k",
        "rank_metric",
        "recall_at_k",
    ),
    "modality": ("effective_rank", "evaluate_views", "margins", "modality_gap", "weak_modality_share"),
    "plots": ("plot_margins", "plot_views"),
    "protocol": ("Protocol",),
    "ranking": ("Ranking", "rank_targets"),
    "report": ("Report",),
    "sampled": ("SampledRanking", "rank_sampled"),
    "scorers": ("BlockScorer", "VectorScorer"),
    "seen": ("SeenItems",),
    "significance": ("bootstrap_interval", "compare", "compare_methods", "holm", "paired_permutation_test"),
    "slices": ("make_slices", "popularity_buckets"),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BlockScorer",
    "FLOORS",
    "PopularityScorer",
    "Protocol",
    "Ranking",
    "RepeatLastScorer",
    "Report",
    "SampledRanking",
    "SeenItems",
    "TransitionScorer",
    "VectorScorer",
    "bootstrap_interval",
    "compare",
    "compare_methods",
    "coverage_at_k",
    "effective_rank",
    "evaluate_views",
    "hit_at_k",
    "holm",
    "join_reports",
    "make_slices",
    "margins",
    "modality_gap",
    "mrr_at_k",
    "ndcg_at_k",
    "novelty_at_k",
    "paired_permutation_test",
    "plot_margins",
    "plot_views",
    "popularity_buckets",
    "rank_floors",
    "rank_metric",
    "rank_sampled",
    "rank_targets",
    "recall_at_k",
    "weak_modality_share",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
