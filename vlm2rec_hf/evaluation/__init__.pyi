"""The public names of `vlm2rec_hf.evaluation`, each written once."""

from .choosing_scores import ScoreTrial as ScoreTrial
from .choosing_scores import choose_score_options as choose_score_options
from .choosing_scores import try_score_options as try_score_options
from .comparison import compare as compare
from .comparison import compare_methods as compare_methods
from .comparison import comparisons_to_markdown as comparisons_to_markdown
from .ease import EASEScorer as EASEScorer
from .ease import choose_lambda as choose_lambda
from .embedder import EmbedderEvaluation as EmbedderEvaluation
from .embedder import evaluate_embedder as evaluate_embedder
from .embedding import embed as embed
from .evaluating import evaluate as evaluate
from .floors import (
    FLOORS as FLOORS,
)
from .floors import (
    PopularityScorer as PopularityScorer,
)
from .floors import (
    RepeatLastScorer as RepeatLastScorer,
)
from .floors import (
    TransitionScorer as TransitionScorer,
)
from .floors import (
    fit_floors as fit_floors,
)
from .floors import (
    rank_floors as rank_floors,
)
from .generated import GenerationOptions as GenerationOptions
from .heads import rank_head as rank_head
from .item_knn import ItemKNNScorer as ItemKNNScorer
from .joining import join_reports as join_reports
from .metrics import (
    coverage_at_k as coverage_at_k,
)
from .metrics import (
    hit_at_k as hit_at_k,
)
from .metrics import (
    mrr_at_k as mrr_at_k,
)
from .metrics import (
    ndcg_at_k as ndcg_at_k,
)
from .metrics import (
    novelty_at_k as novelty_at_k,
)
from .metrics import (
    rank_metric as rank_metric,
)
from .metrics import (
    recall_at_k as recall_at_k,
)
from .mixing import MixedScorer as MixedScorer
from .mixing import choose_mix as choose_mix
from .mixing import mix_curve as mix_curve
from .modality import (
    effective_rank as effective_rank,
)
from .modality import (
    evaluate_views as evaluate_views,
)
from .modality import (
    margins as margins,
)
from .modality import (
    modality_gap as modality_gap,
)
from .modality import (
    weak_modality_share as weak_modality_share,
)
from .pixrec import PixRecEvaluation as PixRecEvaluation
from .pixrec import evaluate_pixrec as evaluate_pixrec
from .plots import plot_curves as plot_curves
from .plots import plot_margins as plot_margins
from .plots import plot_views as plot_views
from .protocol import Protocol as Protocol
from .ranking import Ranking as Ranking
from .ranking import rank_targets as rank_targets
from .report import Report as Report
from .sampled import SampledRanking as SampledRanking
from .sampled import rank_sampled as rank_sampled
from .score_options import ScoreOptions as ScoreOptions
from .score_options import average_count as average_count
from .score_vectors import item_score_vectors as item_score_vectors
from .score_vectors import rank_scored as rank_scored
from .score_vectors import user_score_vectors as user_score_vectors
from .scorers import BlockScorer as BlockScorer
from .scorers import VectorScorer as VectorScorer
from .seen import SeenItems as SeenItems
from .significance import (
    bootstrap_interval as bootstrap_interval,
)
from .significance import (
    holm as holm,
)
from .significance import (
    paired_permutation_test as paired_permutation_test,
)
from .slices import make_slices as make_slices
from .slices import popularity_buckets as popularity_buckets
from .start_report import add_embedder as add_embedder
from .start_report import start_report as start_report
