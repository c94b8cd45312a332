"""Score options after training: chosen on validation, kept in the config; and the logQ correction in training."""

import json

import numpy as np
import pytest
import torch

from vlm2rec_hf import RecDataset, ScoreOptions, VLM2RecEmbedder, choose_score_options
from vlm2rec_hf.evaluation import evaluate_embedder
from vlm2rec_hf.trainers.candidate_draws import candidate_log_q
from vlm2rec_hf.trainers.validation import validation_examples


def test_the_choice_is_made_on_validation_and_saved(trainer, demo_dataset, tmp_path):
    run = trainer(eval_strategy="steps", eval_steps=2, temperature="linear:0.1->0.07@1.0", score_option_users=12)
    run.train()
    examples = validation_examples(demo_dataset, 3, 12)
    found = evaluate_embedder(run.embedder, run.catalogue, examples, score_options=ScoreOptions())
    expected = choose_score_options(found.users, found.items, examples, temperature=0.07)
    run.save_model(tmp_path / "saved")
    assert ScoreOptions.of(VLM2RecEmbedder.from_pretrained(tmp_path / "saved").config) == expected
    assert expected.temperature == 0.07
    table = json.loads((tmp_path / "run" / "score_options.json").read_text())
    assert table["examples"] == 12 and table["metric"] == "ndcg@10" and len(table["tried"]) >= 18
    best = max(table["tried"], key=lambda trial: trial["ndcg@10"])
    assert table["chosen"] == best == {**expected.to_dict(), "ndcg@10": best["ndcg@10"]}


def test_only_the_temperature_is_noted_where_nothing_is_chosen(trainer, tmp_path):
    quiet = trainer(max_steps=1)
    quiet.train()
    assert quiet.embedder.config.score_options is None
    run = trainer(max_steps=1, eval_strategy="steps", eval_steps=1, choose_score_options=False, temperature="0.2")
    run.embedder.config.score_options = ScoreOptions(popularity_prior=1.0).to_dict()
    run.train()
    assert ScoreOptions.of(run.embedder.config) == ScoreOptions(popularity_prior=1.0, temperature=0.2)
    assert not (tmp_path / "run" / "score_options.json").exists()
    logs = [record for record in run.state.log_history if "eval_both_ndcg@10" in record]
    assert logs and all("eval_scored_ndcg@10" in record for record in logs)


def test_a_loss_without_cross_terms_is_scored_without_them(trainer, tmp_path):
    run = trainer(max_steps=1, eval_strategy="steps", eval_steps=1, choose_score_options=False, cross_terms=False)
    run.train()
    assert ScoreOptions.of(run.embedder.config) == ScoreOptions(cross_terms=False)
    logs = [record for record in run.state.log_history if "eval_scored_ndcg@10" in record]
    assert logs
    run.save_model(tmp_path / "saved")
    assert not ScoreOptions.of(VLM2RecEmbedder.from_pretrained(tmp_path / "saved").config).cross_terms
    internal = trainer(max_steps=1, cross_terms=False)
    internal.embedder.config.fusion = "internal"
    with pytest.raises(ValueError, match="internal fusion; leave both at their defaults"):
        internal.train()


def test_choosing_without_a_validation_split_is_refused(trainer, demo_dataset):
    log = demo_dataset.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    bare = RecDataset.from_tables(log, demo_dataset.items, name="bare")
    with pytest.raises(ValueError, match="`choose_score_options` needs a validation split"):
        trainer(eval_dataset=bare, choose_score_options=True)


def test_log_q_is_that_of_distinct_draws():
    counts, n = np.array([6, 3, 1, 0]), 4
    found = candidate_log_q(counts, n).exp()
    expected = [1 - (1 - count / 10) ** n for count in (6, 3, 1, 1)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float32))
    drawn = np.random.default_rng(0).choice(3, p=[0.6, 0.3, 0.1], size=(20000, n))
    seen = [float((drawn == i).any(axis=1).mean()) for i in range(3)]
    assert seen == pytest.approx(expected[:3], abs=0.015)
    assert candidate_log_q([5], 8).tolist() == [0.0]
    with pytest.raises(ValueError, match="`target_counts` are all 0"):
        candidate_log_q([0, 0], 8)


def test_the_correction_reaches_the_loss_with_and_without_gradient_caching(trainer, demo_dataset):
    losses = {}
    for correct in (False, True):
        for cache in (None, 200):
            run = trainer(objective="sft", logq_correction=correct, gradient_cache_tokens=cache)
            batch = run.data_collator([run.train_dataset[i] for i in range(8)])
            run.model.eval()
            loss, vectors = run.compute_loss(run.model, batch, return_outputs=True)
            losses[correct, cache] = float(loss.detach())
    assert losses[True, None] == pytest.approx(losses[True, 200], rel=1e-5)
    assert losses[False, None] == pytest.approx(losses[False, 200], rel=1e-5)
    assert abs(losses[True, None] - losses[False, None]) > 1e-3

    items, offsets = demo_dataset.sequences().training_part()
    counts = np.bincount(np.delete(items, offsets[:-1]), minlength=demo_dataset.n_items)
    assert (
        run.train_dataset.target_counts().tolist() == counts.tolist() and counts.sum() == run.train_dataset.n_targets
    )
    log_q = candidate_log_q(counts, 8 * counts.sum() / len(run.train_dataset))
    users, candidates, ids = vectors["users"], vectors["items"], batch["item_ids"]
    history_ids, past = run._no_negatives(batch)
    again = run.loss(
        users, candidates, target_ids=ids[batch["target_row"]], candidate_ids=ids, positive=batch["target_row"],
        history_ids=history_ids, past=past, candidate_log_q=log_q[ids],
    )  # fmt: skip
    assert float(again.total.detach()) == pytest.approx(losses[True, None], rel=1e-6)
