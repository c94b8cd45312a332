"""Arguments of `VLM2RecTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..losses.vlm2rec import DEFAULT_OBJECTIVE, OBJECTIVES, VLM2RecLoss
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

    objective: str = field(default=DEFAULT_OBJECTIVE, metadata={"help": f"One of {', '.join(OBJECTIVES)}."})
    temperature: str = field(default="0.05", metadata={"help": "tau of InfoNCE and WPCL (divides)."})
    wpcl_lambda: str = field(default="0.5", metadata={"help": "Strength of the weak-modality penalty."})
    crtr_beta: str = field(default="0.05", metadata={"help": "Weight of CRTR."})
    crtr_temperature: str = field(default="0.1", metadata={"help": "tau_r of CRTR (divides)."})
    margin: str = field(default="logprob", metadata={"help": "Margin form: mean, hardest, logmeanexp or logprob."})
    penalty: str = field(default="exp", metadata={"help": "Weight form: exp or linear."})
    detach: str = field(default="strong", metadata={"help": "Margins without gradient: strong or both."})
    scope: str = field(default="user", metadata={"help": "One gap per user, or per pair of user and negative."})
    crtr_stop_gradient: str = field(default="strong", metadata={"help": "none, or strong: only the weak one moves."})
    unimodal_weight: str = field(
        default="0.3333333333333333", metadata={"help": "Weight of each single view in objectives with unimodal."}
    )
    cross_terms: bool = field(
        default=True,
        metadata={
            "help": "The fused view compares sums of text and image vectors (the paper's fusion); False: text with "
            "text and image with image alone, in training and in the view `scored`."
        },
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
    score_option_users: int | None = field(
        default=20_000,
        metadata={
            "help": "Validation users that score options are chosen on, evenly spread: more than `validation_users`, "
            "as it is done once and differences are small. None: all."
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
        for name in ("gradient_cache_tokens", "score_option_users"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1 or None, got {value}.")

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
            cross_terms=self.cross_terms,
        )
