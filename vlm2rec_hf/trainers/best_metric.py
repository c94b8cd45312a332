"""The validation metric that picks the best checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..columns import SCORED, VIEWS
from ..evaluation.metrics import ranking_metric_names
from ..evaluation.modality import DIAGNOSTICS


def embedder_metric_names(*, has_scored: bool = True) -> list[str]:
    """What validation of an embedder measures; the view `scored` is ranked where its config has score options."""
    views = [view for view in (*VIEWS, SCORED) if has_scored or view != SCORED]
    return [*(f"{view}_{name}" for view in views for name in ranking_metric_names()), *DIAGNOSTICS]


def check_best_metric(args: Any, names: Sequence[str]) -> None:
    """Refuse a metric that validation does not measure; the library would notice when it has trained for a while.

    Args:
        args: the training arguments.
        names: what validation measures.

    Raises:
        ValueError: another `metric_for_best_model`.
    """
    wanted = args.metric_for_best_model
    if wanted is not None and args.eval_strategy != "no" and wanted.removeprefix("eval_") not in names:
        raise ValueError(
            f"`metric_for_best_model` {wanted!r} is not measured when training is validated; name one of "
            f"{', '.join(names)}."
        )
