"""`vlm2rec train-head`: train a sequential head on a dataset, by item id, by item vectors, or by both."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..catalogues.item_vectors import (
    ItemVectors,
    encode_item_texts,
    encode_item_vectors,
    read_item_vectors,
    view_names,
)
from .arguments import DataArguments, EncoderArguments
from .common import open_dataset, parse, require, say
from .text_encoders import TextEncoderArguments

if TYPE_CHECKING:
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from ..evaluation.report import Report
    from ..modeling.modeling_seqrec import HeadModel, SequentialRecommender
    from ..trainers.seqrec_trainer import SeqRecTrainer


@dataclass
class HeadArguments(EncoderArguments, TextEncoderArguments):
    """The head, what describes its items, and its report."""

    item_representation: str | None = field(
        default=None,
        metadata={"help": "id, content or content+id; by default id, or content+id where vectors are given."},
    )
    embedder: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an embedder that makes the items' vectors now."}
    )
    embedder_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the embedder."})
    vectors: str | None = field(default=None, metadata={"help": "The items' vectors, as `vlm2rec embed` wrote them."})
    views: str = field(default="both", metadata={"help": "Views in use, each projected: both, or text,image."})
    init_ids: bool = field(
        default=False, metadata={"help": "Start the id vectors from the vectors' principal components."}
    )
    embed_batch_size: int = field(default=64, metadata={"help": "Items per forward pass of the embedder."})
    method: str | None = field(default=None, metadata={"help": "Name in the report; the encoder by default."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(map(bool, (self.embedder, self.vectors, self.text_encoder))) > 1:
            raise ValueError(
                "Name at most one of `--embedder` and `--text_encoder` (encode now) and `--vectors` (encoded before)."
            )
        if self.text_encoder and self.views not in ("both", "text"):
            raise ValueError(
                f"`--views` must be left out with `--text_encoder`, got {self.views!r}: it makes texts only."
            )
        has_vectors = bool(self.embedder or self.vectors or self.text_encoder)
        if self.item_representation is None:
            self.item_representation = "content+id" if has_vectors and not self.init_ids else "id"
        if (self.item_representation != "id" or self.init_ids) and not has_vectors:
            wanted = "init_ids" if self.init_ids else f"item_representation {self.item_representation}"
            raise ValueError(
                f"`--{wanted}` needs item vectors; add `--vectors FILE`, `--embedder MODEL` or `--text_encoder MODEL`."
            )
        if has_vectors and self.item_representation == "id" and not self.init_ids:
            raise ValueError(
                "`--item_representation` 'id' makes no use of item vectors; choose content or content+id, or start "
                "the ids from them with `--init_ids`."
            )
        if self.embed_batch_size < 1:
            raise ValueError(f"`--embed_batch_size` must be at least 1, got {self.embed_batch_size}.")
        self.method = self.method or self.encoder

    def item_vectors(self, dataset: RecDataset) -> ItemVectors | None:
        """The items' vectors as named, None where none are.

        Raises:
            ValueError: a file or an embedder that does not fit.
        """
        if self.text_encoder:
            return encode_item_texts(self, dataset)
        names = view_names(self.views)
        if self.vectors:
            return read_item_vectors(self.vectors, dataset, names)
        if self.embedder:
            return encode_item_vectors(self.embedder, self.embedder_revision, dataset, names, self.embed_batch_size)
        return None


def main(argv: Sequence[str]) -> None:
    """Run the command. `output_dir` holds the head, checkpoints and, under `evaluation/`, the test report."""
    from transformers.utils.logging import disable_progress_bar

    from ..trainers.seqrec_args import SeqRecTrainingArguments
    from ..trainers.seqrec_trainer import SeqRecTrainer
    from .arguments import EvaluateArguments

    data, options, training = parse(
        "train-head", __doc__ or "", (DataArguments, HeadArguments, SeqRecTrainingArguments), argv
    )
    require(training.output_dir, "--output_dir", "the folder of the trained head")
    ks = EvaluateArguments(ks=options.ks).cut_offs()
    view_names(options.views)
    start = time.perf_counter()
    dataset = open_dataset(data)
    say(repr(dataset))
    examples = test_examples(dataset, options.max_length, options.max_users)
    head = build_head(options, dataset, options.item_vectors(dataset), training.seed)
    disable_progress_bar()  # one bar per checkpoint of a model that is written in no time
    trainer = SeqRecTrainer(head, training, dataset)
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    finish(trainer, dataset, examples, options, str(options.method), ks, time.perf_counter() - start)
    say(f"Next: vlm2rec recommend --model {training.output_dir} --dataset {data.dataset} --history ID,ID")


def finish(
    trainer: SeqRecTrainer,
    dataset: RecDataset,
    examples: Examples,
    options: EncoderArguments,
    method: str,
    ks: Sequence[int],
    seconds: float,
) -> None:
    """Save a trained head, its test report and its card, and print the report.

    Args:
        trainer: after training.
        dataset: what it was trained on.
        examples: who is tested.
        options: the encoder's, and where the report goes.
        method: name in the report.
        ks: cut-offs.
        seconds: that all of it took so far.
    """
    from ..hub_cards.model_folder import weights_fingerprint

    training, config = trainer.args, trainer.head.config
    trainer.save_model(training.output_dir)
    facts = {
        "model": training.output_dir,
        "encoder": config.encoder,
        "item_representation": config.item_representation,
        "embedder": config.embedder,
        "embedder_revision": config.embedder_revision,
        "loss": training.loss,
        "steps": trainer.state.global_step,
        "best_validation": trainer.state.best_metric,
        "seed": training.seed,
        "weights": weights_fingerprint(Path(str(training.output_dir))),
        "seconds": round(seconds, 1),
    }
    report = report_head(trainer.head, dataset, examples, method, ks, not options.include_seen, facts)
    folder = Path(options.output or Path(str(training.output_dir)) / "evaluation")
    report.save(folder)
    trainer.create_model_card()
    print(report.to_markdown())
    say(f"Head and card in {training.output_dir}, report in {folder}.")


def test_examples(dataset: RecDataset, max_length: int, max_users: int | None = None) -> Examples:
    """Who is tested; refused before training where there is nobody.

    Raises:
        ValueError: a dataset without test interactions.
    """
    examples = dataset.examples("test", max_history=max_length)
    if len(examples) == 0:
        raise ValueError("`--dataset` has no test interactions with a history; choose another `--split`.")
    return examples.spread(max_users)


def build_head(
    options: HeadArguments, dataset: RecDataset, vectors: ItemVectors | None, seed: int
) -> SequentialRecommender:
    """A fresh head as the arguments say, with its content vectors in place."""
    import torch
    from transformers import set_seed

    from ..modeling.configuration_seqrec import SeqRecConfig
    from ..modeling.modeling_seqrec import SequentialRecommender

    set_seed(seed)
    content = vectors is not None and options.item_representation != "id"
    config = SeqRecConfig(
        n_items=dataset.n_items,
        item_representation=str(options.item_representation),
        content_dims={view: matrix.shape[1] for view, matrix in vectors.views.items()}
        if vectors and content
        else None,
        **options.sizes(),
        embedder=vectors.embedder if vectors else None,
        embedder_revision=vectors.revision if vectors else None,
    )
    head = SequentialRecommender(config)
    if vectors and content:
        head.set_content(vectors.views, embedder=vectors.embedder, embedder_revision=vectors.revision)
    if vectors and options.init_ids:
        head.init_ids_from(torch.cat(list(vectors.views.values()), dim=1))
    return head


def report_head(
    head: HeadModel,
    dataset: RecDataset,
    examples: Examples,
    method: str,
    ks: Sequence[int],
    exclude_seen: bool,
    facts: dict[str, Any],
) -> Report:
    """Rank the examples over the full catalogue with a head, beside the floors."""
    from ..evaluation.embedder_report import start_report
    from ..trainers.seqrec_trainer import rank_head

    report = start_report(dataset, examples, ks=ks, exclude_seen=exclude_seen, facts=facts)
    ranking = rank_head(head, examples, k=max(ks), exclude_seen=exclude_seen)
    report.add(method, ranking, train_counts=examples.sequences.train_counts())
    return report
