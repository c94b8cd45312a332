"""`SentenceTransformerTrainer` over stock modules with our losses: from a dataset with images to a saved model."""

import pytest
import torch
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments

from vlm2rec_hf.sentence_transformers import CachedVLM2RecRankingLoss, VLM2RecRankingLoss
from vlm2rec_hf.sentence_transformers.model_files import as_documents, as_queries
from vlm2rec_hf.sentence_transformers.ranking_data import ranking_dataset

from .sentence_transformer_models import batch_of, catalogue, interactions, save, table

HISTORIES, POSITIVES = interactions(9)

TERMS = ("wpcl", "crtr", "info_nce_text", "info_nce_image")
"""Of the default objective."""


@pytest.fixture
def model(tiny, tmp_path):
    return save(*tiny("qwen2_vl", max_history=4), tmp_path / "embedder")


def train(model, dataset, loss, folder, **options):
    options = {"per_device_train_batch_size": 9, "max_steps": 20, "learning_rate": 3e-3, "logging_steps": 1} | options
    callbacks, eval_dataset = options.pop("callbacks", None), options.pop("eval_dataset", None)
    arguments = SentenceTransformerTrainingArguments(
        str(folder), report_to=[], save_strategy="no", disable_tqdm=True, use_cpu=True, seed=0, **options
    )
    trainer = SentenceTransformerTrainer(
        model, arguments, train_dataset=dataset, eval_dataset=eval_dataset, loss=loss, callbacks=callbacks
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("loss_class", "stored"), [(VLM2RecRankingLoss, "rows"), (CachedVLM2RecRankingLoss, "images")]
)
def test_training_brings_histories_to_their_next_items(model, tmp_path, loss_class, stored):
    items = catalogue()
    dataset = (
        table(HISTORIES, POSITIVES)
        if stored == "images"
        else ranking_dataset(HISTORIES, POSITIVES, items, max_history=4)
    )
    options = {"mini_batch_size": 4} if loss_class is CachedVLM2RecRankingLoss else {}
    loss = loss_class(model, wpcl_lambda="linear:0->2@0.5", temperature=0.2, **options)
    trainer = train(model, dataset, loss, tmp_path / "run", learning_rate=1e-3, callbacks=[loss.progress_callback()])
    log = [row for row in trainer.state.log_history if "loss" in row]
    assert len(log) == 20 and all({*TERMS} <= row.keys() for row in log)
    assert log[0]["loss"] == pytest.approx(sum(log[0][name] for name in TERMS), abs=4e-4)
    first, last = log[0]["loss"], sum(row["loss"] for row in log[-3:]) / 3
    assert last < 0.75 * first
    assert loss.progress == pytest.approx(0.95) and float(loss.diagnostics["lambda"]) == 2.0

    trainer.save_model(str(tmp_path / "trained"))
    again = SentenceTransformer(str(tmp_path / "trained"))
    queries = as_queries([[items[i] for i in history] for history in HISTORIES])
    scores = again.similarity(again.encode_query(queries), again.encode_document(as_documents(items)))
    seen = torch.tensor([[i in history[-4:] for i in range(len(items))] for history in HISTORIES])
    hits = (scores.masked_fill(seen, -2).argmax(dim=1) == torch.tensor(POSITIVES)).sum()
    # Of nine items, so about one hit in nine by chance.
    assert hits >= 5


def test_both_losses_train_alike(tiny, tmp_path):
    """Same data, same seed, gradient accumulation: step by step the same losses."""
    logs = []
    for name, loss_class, options in (
        ("plain", VLM2RecRankingLoss, {}),
        ("cached", CachedVLM2RecRankingLoss, {"mini_batch_size": 2}),
    ):
        model = save(*tiny("qwen2_vl"), tmp_path / name)
        trainer = train(
            model, table(HISTORIES, POSITIVES), loss_class(model, temperature=0.2, **options), tmp_path / f"{name}_",
            max_steps=4, per_device_train_batch_size=5, gradient_accumulation_steps=2, optim="sgd", learning_rate=0.05,
        )  # fmt: skip
        logs.append([row["loss"] for row in trainer.state.log_history if "loss" in row])
    assert logs[0] == pytest.approx(logs[1], rel=1e-4) and logs[0][0] != logs[0][-1]


def test_evaluation_and_the_model_card(model, tmp_path):
    loss = CachedVLM2RecRankingLoss(model, "wpcl", mini_batch_size=4)
    arguments = {"max_steps": 1, "per_device_eval_batch_size": 9}
    trainer = train(model, table(HISTORIES, POSITIVES), loss, tmp_path / "run", **arguments)
    evaluated = trainer.evaluate(table(HISTORIES, POSITIVES))
    assert evaluated["eval_loss"] > 0
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text(encoding="utf-8")
    assert "CachedVLM2RecRankingLoss" in card and "2603.17450" in card and '"wpcl_lambda": 0.5' in card


def test_an_evaluation_before_the_first_step_knows_the_progress_and_drops_nothing(model, tmp_path):
    dataset = table(HISTORIES, POSITIVES)
    loss = VLM2RecRankingLoss(model, "modality_dropout", modality_dropout=0.9, temperature="linear:1->0.1@0.5")
    trainer = train(
        model, dataset, loss, tmp_path / "run", eval_dataset=dataset, eval_on_start=True, max_steps=1,
        per_device_eval_batch_size=9, learning_rate=0.0, callbacks=[loss.progress_callback()],
    )  # fmt: skip
    (first,) = [float(row["eval_loss"]) for row in trainer.state.log_history if "eval_loss" in row]
    assert [trainer.evaluate()["eval_loss"] for _ in range(2)] == pytest.approx([first] * 2)


def test_rows_and_images_say_the_same(model):
    """The dataset of row numbers makes the batches of the dataset that stores the images."""
    negatives = [[(positive + 2) % 9] for positive in POSITIVES]
    stored = table(HISTORIES, POSITIVES, [row[0] for row in negatives])
    rows = ranking_dataset(HISTORIES, POSITIVES, catalogue(), negatives=negatives, max_history=4)
    assert list(rows[0]) == ["anchor", "positive", "negative_1", "label"] and len(rows) == 9
    assert rows[0]["label"] == [5, 7, 0, -1, -1, -1] and rows[8]["label"] == [4, 6, 8, 0, 1, 2]
    result, labels = batch_of(model, rows)
    expected, _ = batch_of(model, stored)
    assert labels.shape == (9, 6)
    for column, wanted in zip(result, expected, strict=True):
        assert column.keys() == wanted.keys() and {"pixel_values", "input_ids"} <= column.keys()
        for key, value in wanted.items():
            if key == "modality":
                assert column[key] == value == "message"
            elif key != "num_images_per_sample":  # counts images of the messages, before they are cut
                torch.testing.assert_close(column[key], value, rtol=0, atol=0)
    unmasked = ranking_dataset(HISTORIES, POSITIVES, catalogue(), mask_history=False)
    assert unmasked[:2]["label"] == [[5], [6]]


def test_bad_datasets_are_named():
    items = catalogue()
    with pytest.raises(ValueError, match="`histories` must have one list per target.*got 1"):
        ranking_dataset([[0]], [1, 2], items)
    with pytest.raises(ValueError, match="`histories` must not be empty: row 1"):
        ranking_dataset([[0], []], [1, 2], items)
    with pytest.raises(ValueError, match=r"`targets` must hold rows of `items` \(0 to 8\), got 1 to 9"):
        ranking_dataset([[0], [1]], [1, 9], items)
    with pytest.raises(ValueError, match=r"`negatives` must have the same number.*\[1, 2\]"):
        ranking_dataset([[0], [1]], [1, 2], items, negatives=[[3], [4, 5]])
    with pytest.raises(ValueError, match="`max_history`.*0"):
        ranking_dataset([[0]], [1], items, max_history=0)
