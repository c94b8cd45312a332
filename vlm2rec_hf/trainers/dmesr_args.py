"""Arguments of `DMESRTrainer`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..losses.dmesr import TARGETS
from .seqrec_args import SeqRecTrainingArguments


@dataclass
class DMESRTrainingArguments(SeqRecTrainingArguments):
    """`SeqRecTrainingArguments` plus the alignment of descriptions; all four defaults are our choice.

    The next-item loss is the full softmax by default; the authors' relatives train with `loss="bce"` and
    `n_negatives=1`.
    """

    output_dir: str | None = field(default="dmesr-output", metadata={"help": "Folder of checkpoints and logs."})
    alignment_weight: float = field(
        default=0.05, metadata={"help": "Weight of the alignment loss (0.01 to 0.1); 0 leaves it out."}
    )
    alignment_temperature: float = field(default=0.1, metadata={"help": "Temperature of the alignment loss."})
    alignment_targets: str = field(default="hard", metadata={"help": f"One of {', '.join(TARGETS)}."})
    alignment_items: int = field(
        default=512, metadata={"help": "Items of a batch that are aligned, at most (drawn at random beyond)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alignment_weight < 0:
            raise ValueError(f"`alignment_weight` must be at least 0, got {self.alignment_weight}.")
        if not self.alignment_temperature > 0:
            raise ValueError(f"`alignment_temperature` must be above 0, got {self.alignment_temperature}.")
        if self.alignment_targets not in TARGETS:
            raise ValueError(f"`alignment_targets` must be one of {TARGETS}, got {self.alignment_targets!r}.")
        if self.alignment_items < 2:
            raise ValueError(f"`alignment_items` must be at least 2, got {self.alignment_items}.")
