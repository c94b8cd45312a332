"""`vlm2rec train --method seqrec`: train SASRec, GRU4Rec or BERT4Rec by item id, by item vectors, or by both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import (
    DataArguments,
    HeadEncoderArguments,
    RankingArguments,
    TextEncoderArguments,
    check_at_least,
    check_goes_with,
)
from .common import named_as_options, open_dataset, say
from .parsing import check_options_early, parse
from .train import MethodArguments
from .train_vlm2rec import finish
from .training_run import check_ranking, check_training, run

if TYPE_CHECKING:
    from ..catalogues.item_vectors import ItemVectors
    from ..data.dataset import RecDataset


@dataclass
class HeadArguments(HeadEncoderArguments):
    """The head, and what describes its items."""

    item_representation: str | None = field(
        default=None,
        metadata={"help": "id, content or content+id; by default id, or content+id where vectors are given."},
    )
    embedder: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a model that makes the items' vectors now."}
    )
    embedder_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the embedder."})
    vectors: str | None = field(default=None, metadata={"help": "The items' vectors, as `vlm2rec embed` wrote them."})
    views: str = field(default="both", metadata={"help": "Views in use, each projected: both, or text,image."})
    init_ids: bool = field(
        default=False, metadata={"help": "Start the id vectors from the vectors' principal components."}
    )
    embed_batch_size: int = field(default=64, metadata={"help": "Items per forward pass of the embedder."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, "embed_batch_size")


CHEAP = (MethodArguments, DataArguments, HeadArguments, TextEncoderArguments, RankingArguments)
TRAINING_MODULES = ("transformers.training_args", "vlm2rec_hf.trainers.seqrec_args")
USAGE = "--method seqrec --dataset DATA [--vectors FILE | --embedder MODEL] --output_dir DIR [options]"


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the head, checkpoints and, under `evaluation/`, the test report."""
    check_options_early(argv, CHEAP, TRAINING_MODULES)
    from ..evaluation.metrics import ranking_metric_names
    from ..trainers.head_models import build_head
    from ..trainers.seqrec_args import SeqRecTrainingArguments
    from ..trainers.seqrec_trainer import SeqRecTrainer

    _, data, head, texts, ranking, training = parse(
        "train", __doc__ or "", (*CHEAP, SeqRecTrainingArguments), argv, USAGE
    )
    check_training(training, ranking_metric_names())
    check_vectors(head, texts)
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    check_ranking(dataset, ranking, head.max_length)
    options = {"item_representation": head.item_representation, "init_ids": head.init_ids, **head.sizes()}
    model = build_head(dataset, item_vectors(head, texts, dataset), seed=training.seed, **options)
    train_head(SeqRecTrainer(model, training, dataset), dataset, ranking, start, argv)
    say(f"Next: vlm2rec recommend --model {training.output_dir} --dataset {data.dataset} --history ID,ID")


def check_vectors(head: HeadArguments, texts: TextEncoderArguments) -> None:
    """Refuse options that contradict each other.

    Raises:
        ValueError: several sources of vectors, vectors that nothing uses, or content without any.
    """
    from ..catalogues.item_vectors import view_names

    with named_as_options(views="--views"):
        view_names(head.views)
    sources = [bool(source) for source in (head.embedder, head.vectors, texts.text_encoder)]
    if sum(sources) > 1:
        raise ValueError(
            "Name at most one of `--embedder` and `--text_encoder` (encode now) and `--vectors` (encoded before)."
        )
    check_goes_with(head, "embedder", "embedder_revision", "embed_batch_size")
    check_goes_with(texts, "text_encoder", "text_encoder_revision", "lsa_dim", "encode_batch_size")
    if texts.text_encoder and head.views not in ("both", "text"):
        raise ValueError(f"`--views` must be left out with `--text_encoder`, got {head.views!r}: it makes texts only.")
    if not any(sources) and (head.item_representation not in (None, "id") or head.init_ids):
        wanted = "init_ids" if head.init_ids else f"item_representation {head.item_representation}"
        raise ValueError(
            f"`--{wanted}` needs item vectors; add `--vectors FILE`, `--embedder MODEL` or `--text_encoder MODEL`."
        )
    if any(sources) and head.item_representation == "id" and not head.init_ids:
        raise ValueError(
            "`--item_representation` 'id' makes no use of item vectors; choose content or content+id, or start "
            "the ids from them with `--init_ids`."
        )


def item_vectors(head: HeadArguments, texts: TextEncoderArguments, dataset: RecDataset) -> ItemVectors | None:
    """The items' vectors as named, `None` where none are.

    Raises:
        ValueError: a file or a model that does not fit.
    """
    from ..catalogues.item_vectors import ItemVectors, read_item_vectors, view_names
    from ..descriptions.text_encoders import embed_texts
    from ..evaluation.embedding import embed

    names = view_names(head.views)
    with named_as_options(vectors="--vectors", where="--embedder", text_encoder="--text_encoder"):
        if texts.text_encoder:
            return embed_texts(
                dataset,
                texts.text_encoder,
                revision=texts.text_encoder_revision,
                lsa_dim=texts.lsa_dim,
                batch_size=texts.encode_batch_size,
                show_progress=True,
            )
        if head.vectors:
            return read_item_vectors(head.vectors, dataset.item_ids.tolist(), names)
        if not head.embedder:
            return None
        made = embed(
            head.embedder,
            dataset,
            revision=head.embedder_revision,
            batch_size=head.embed_batch_size,
            show_progress=True,
        )
        return ItemVectors(made.item_ids, {name: made.views[name] for name in names}, made.model, made.revision)


def train_head(
    trainer: Any, dataset: RecDataset, ranking: RankingArguments, start: float, argv: Sequence[str]
) -> None:
    """Train a head, save it with its test report and card, and print the report.

    Args:
        trainer: before training.
        dataset: what it is trained and tested on.
        ranking: who is tested.
        start: `time.perf_counter()` when the command began.
        argv: the command line.
    """
    from ..evaluation.evaluating import evaluate
    from ..loading import weight_files_fingerprint

    training = trainer.args
    run(trainer, argv)
    report = evaluate(
        trainer.head,
        dataset,
        facts={
            "model": training.output_dir,
            "loss": training.loss,
            "steps": trainer.state.global_step,
            "best_validation": trainer.state.best_metric,
            "seed": training.seed,
            "weights": weight_files_fingerprint(Path(str(training.output_dir))),
            "seconds": round(time.perf_counter() - start, 1),
        },
        **ranking.ranking(),
    )
    finish(trainer, report)
