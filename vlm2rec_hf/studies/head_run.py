"""Train the sequential head of a run: by id, over an embedder's item vectors, or started from them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .embedder_run import checked_arguments
from .fitting import QUIET, fit
from .runs import MODEL_FOLDER, Run
from .shared_work import shared_start, vision_cache

if TYPE_CHECKING:
    from ..catalogues.item_vectors import ItemVectors
    from ..data.dataset import RecDataset
    from ..trainers.seqrec_args import SeqRecTrainingArguments

VECTORS_FILE = "item_vectors.parquet"


def head_arguments(run: Run) -> SeqRecTrainingArguments:
    """The training arguments of a run.

    Raises:
        ValueError: an argument that does not exist, that the study itself sets, or whose value cannot be used.
    """
    from ..trainers.seqrec_args import SeqRecTrainingArguments

    given = checked_arguments(run, SeqRecTrainingArguments)
    return SeqRecTrainingArguments(**{**QUIET, **given, "output_dir": str(run.folder), "seed": run.seed})


def train_head(run: Run, dataset: RecDataset, deadline: float | None) -> None:
    """Train a run's head from where its folder stands; see `fit`."""
    from ..trainers.head_models import build_head
    from ..trainers.seqrec_trainer import SeqRecTrainer

    method = run.method
    head = build_head(
        dataset,
        head_vectors(run, dataset),
        item_representation=method.item_representation,
        init_ids=method.init_ids,
        seed=run.seed,
        **run.head_options,
    )
    fit(SeqRecTrainer(head, head_arguments(run), dataset), run, deadline)


def head_vectors(run: Run, dataset: RecDataset) -> ItemVectors | None:
    """The item vectors that a head reads, made once and kept in its folder; `None` for a head by id."""
    from ..catalogues.item_vectors import ItemVectors, read_item_vectors, view_names
    from ..evaluation.embedding import encoded_views
    from ..evaluation.evaluating import encodable_items
    from ..loading import load_with_processor

    if run.method.embedder is None:
        return None
    names, ids = view_names(run.method.views), [str(item) for item in dataset.item_ids]
    path = run.folder / VECTORS_FILE
    if not path.is_file():
        needed = run.needs()
        trained = needed is not None and needed.method.kind == "embedder"
        loaded = (
            load_with_processor(needed.folder / MODEL_FOLDER)
            if needed is not None and trained
            else shared_start(needed or run, dataset)
        )
        catalogue = encodable_items(loaded, dataset, vision_cache=vision_cache(run.study))
        views = encoded_views(loaded, catalogue, batch_size=None, show_progress=False)
        ItemVectors(ids, {name: views[name] for name in names}, loaded.where, loaded.version).save(path)
    return read_item_vectors(path, ids, names)
