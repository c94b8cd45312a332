"""The end of the quickstart: a small head over the embedder's item vectors, and what it recommends to one user."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..catalogues.item_vectors import ItemVectors
    from ..data.dataset import RecDataset
    from ..data.sequences import Examples
    from ..evaluation.ranking import Ranking
    from ..modeling.modeling_seqrec import SequentialRecommender

LENGTH, EPOCHS = 20, 12


def train_small_head(
    dataset: RecDataset, vectors: ItemVectors, examples: Examples, folder: Path, *, batch_size: int, seed: int
) -> tuple[SequentialRecommender, Ranking]:
    """Train a small SASRec over ids and item vectors and save it as `folder`.

    Returns:
        The head, and its ranking of the examples.
    """
    from transformers.trainer_callback import PrinterCallback, ProgressCallback

    from ..evaluation.heads import rank_head
    from ..trainers.head_models import build_head
    from ..trainers.seqrec_args import SeqRecTrainingArguments
    from ..trainers.seqrec_trainer import SeqRecTrainer

    scratch = folder.with_name(".training")
    training = SeqRecTrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=EPOCHS,
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        per_device_train_batch_size=batch_size,
        warmup_steps=10,
        seed=seed,
        disable_tqdm=True,
        use_cpu=True,
    )
    head = build_head(dataset, vectors, seed=seed, max_length=LENGTH, hidden_size=32)
    trainer = SeqRecTrainer(head, training, dataset)
    trainer.remove_callback(PrinterCallback)
    trainer.remove_callback(ProgressCallback)
    trainer.train()
    shutil.rmtree(scratch, ignore_errors=True)
    trainer.save_model(str(folder))
    return trainer.head, rank_head(trainer.head, examples)


def show_user(head: SequentialRecommender, dataset: RecDataset, page_file: Path, *, last: int) -> str:
    """The first user's history and recommendations: as text, and as a page with images.

    Args:
        head: the head.
        dataset: what it was trained on.
        page_file: the page to write.
        last: items of the history named in the text; the page shows all.
    """
    from ..recommending.recommender import user_history
    from ..recommending.shown_items import ShownItems, note_of, table, write_recommendations

    user = str(dataset.sequences().user_ids[0])
    history = user_history(dataset, user)
    (best,) = head.recommend([history], 5)
    shown = ShownItems(head.catalogue, dataset)
    note = note_of(best, len(history))
    write_recommendations(page_file, f"Recommendations for user {user}", note, shown, history, best)
    titles = ", ".join(item.title or item.item_id for item in map(shown.item, history[-last:]))
    return f"\nUser {user} last chose: {titles}.\nThe head recommends:\n{table(shown.recommended(best))}"
