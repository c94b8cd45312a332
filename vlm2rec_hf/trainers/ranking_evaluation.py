"""Evaluation during training that ranks held-out interactions in the place of a loss over an evaluation set."""

from __future__ import annotations

import time
from typing import Any


class RankingEvaluation:
    """Mixin before `transformers.Trainer`: `evaluate` logs what `validation_metrics` finds and tells the callbacks."""

    args: Any
    state: Any
    control: Any
    callback_handler: Any
    is_fsdp_enabled: bool
    is_deepspeed_enabled: bool

    @property
    def shares_evaluation(self) -> bool:
        """Whether processes can encode different rows: each holds the whole model (DDP), and there are several."""
        return self.args.world_size > 1 and not self.is_fsdp_enabled and not self.is_deepspeed_enabled

    def validation_metrics(self, eval_dataset: Any = None) -> dict[str, float]:
        """Rank what is held out; subclasses do.

        Args:
            eval_dataset: what to rank instead of the trainer's own validation users.

        Returns:
            Metrics by name, without a prefix.
        """
        raise NotImplementedError

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Rank what is held out over the full catalogue; see `validation_metrics`.

        Args:
            eval_dataset: see `validation_metrics`.
            ignore_keys: not used.
            metric_key_prefix: of the names.

        Returns:
            The metrics, each name behind the prefix (`eval_...`), and `eval_runtime` in seconds.
        """
        start = time.perf_counter()
        found = self.validation_metrics(eval_dataset)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in found.items()}
        metrics[f"{metric_key_prefix}_runtime"] = time.perf_counter() - start
        self.log(metrics)  # type: ignore[attr-defined]
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not estimated: the library's rule of thumb is for one flat batch of a language model."""
        return 0
