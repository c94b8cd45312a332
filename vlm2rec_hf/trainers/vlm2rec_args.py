"""Arguments of `VLM2RecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..losses.vlm2rec import OBJECTIVES, VLM2RecLoss
from .click_windows import TARGETS_PER_ROW
from .encoder_args import EncoderTrainingArguments


@dataclass
class VLM2RecTrainingArguments(EncoderTrainingArguments):
    """`EncoderTrainingArguments` plus the objective of VLM2Rec.

    Defaults that differ: `metric_for_best_model="eval_both_ndcg@10"`. The base class names those that differ from
    `TrainingArguments`.

    Every `float | str` number below may be a schedule over training progress, such as `"linear:0->5@0.2"`.
    """

    output_dir: str | None = field(default="vlm2rec-output", metadata={"help": "Folder of checkpoints and logs."})
    metric_for_best_model: str | None = field(
        default="eval_both_ndcg@10", metadata={"help": "Validation metric that picks the best checkpoint."}
    )

    objective: str = field(default="wpcl+crtr", metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    temperature: str = field(default="0.05", metadata={"help": "tau of InfoNCE and WPCL (divides)."})
    wpcl_lambda: str = field(default="5.0", metadata={"help": "Strength of the weak-modality penalty."})
    crtr_beta: str = field(default="0.2", metadata={"help": "Weight of CRTR."})
    crtr_temperature: str = field(default="0.1", metadata={"help": "tau_r of CRTR (divides)."})
    margin: str = field(default="mean", metadata={"help": "Margin form: mean, hardest, logmeanexp or logprob."})
    penalty: str = field(default="exp", metadata={"help": "Weight form: exp or linear."})
    detach: str = field(default="strong", metadata={"help": "Margins without gradient: strong or both."})
    scope: str = field(default="user", metadata={"help": "One gap per user, or per pair of user and negative."})
    crtr_stop_gradient: str = field(default="strong", metadata={"help": "none, or strong: only the weak one moves."})
    unimodal_weight: str = field(
        default="0.3333333333333333", metadata={"help": "Weight of each single view in objectives with unimodal."}
    )
    modality_dropout: float = field(
        default=0.3, metadata={"help": "Chance that one view of an example is dropped (objective modality_dropout)."}
    )
    targets_per_row: str = field(
        default="all",
        metadata={"help": "all: every click of a window is trained; last: one target per row, every prefix a row."},
    )
    mask_row_targets: bool = field(
        default=True, metadata={"help": "The other targets of a row are no negatives of its clicks."}
    )
    logq_correction: bool = field(
        default=False,
        metadata={
            "help": "Subtract log q of each candidate, q being how likely it is drawn, so that the cosine learns "
            "popularity, too; instead of a popularity prior at score time, not beside it."
        },
    )
    choose_score_options: bool | None = field(
        default=None,
        metadata={
            "help": "After training choose popularity prior, cross terms and view weights on the validation split "
            "and keep them in the config; by default where training is validated and there is such a split."
        },
    )
    gradient_cache_tokens: int | None = field(
        default=None,
        metadata={
            "help": "Tokens per forward pass with gradient caching: large batches in the memory of this many; off by "
            "default, as every row is embedded twice."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.modality_dropout < 1.0:
            raise ValueError(f"`modality_dropout` must lie in [0, 1), got {self.modality_dropout}.")
        if self.targets_per_row not in TARGETS_PER_ROW:
            raise ValueError(f"`targets_per_row` must be one of {TARGETS_PER_ROW}, got {self.targets_per_row!r}.")
        if self.gradient_cache_tokens is not None and self.gradient_cache_tokens < 1:
            raise ValueError(f"`gradient_cache_tokens` must be at least 1 or None, got {self.gradient_cache_tokens}.")

    def make_loss(self) -> VLM2RecLoss:
        """The loss these arguments describe.

        Raises:
            ValueError: a switch or number that the loss does not take.
        """
        return VLM2RecLoss(
            self.objective,
            temperature=self.temperature,
            wpcl_lambda=self.wpcl_lambda,
            crtr_beta=self.crtr_beta,
            crtr_temperature=self.crtr_temperature,
            margin=self.margin,
            penalty=self.penalty,
            detach=self.detach,
            scope=self.scope,
            crtr_stop_gradient=self.crtr_stop_gradient,
            unimodal_weight=self.unimodal_weight,
        )
