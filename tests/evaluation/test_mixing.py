"""Mixes of two rankers: closed form, weight by validation, and the row in a report."""

import numpy as np
import pytest
import torch

from vlm2rec_hf import evaluate
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.sequences import make_examples
from vlm2rec_hf.evaluation import mixing
from vlm2rec_hf.evaluation.ease import EASEScorer
from vlm2rec_hf.evaluation.heads import score_by_head
from vlm2rec_hf.evaluation.item_knn import ItemKNNScorer
from vlm2rec_hf.evaluation.metrics import ranking_metrics
from vlm2rec_hf.evaluation.mixing import MixedScorer, choose_mix, mix_curve
from vlm2rec_hf.evaluation.ranking import rank_targets
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.evaluation.scorers import VectorScorer
from vlm2rec_hf.hub_cards.run_facts import EvaluationFacts
from vlm2rec_hf.trainers.head_models import build_head

from .oracles import MatrixScorer, random_sequences


@pytest.fixture
def examples():
    return make_examples(random_sequences(4, n_users=40), "validation")


def test_a_mix_adds_scores_in_units_of_their_spread_and_leaves_the_given_ones_alone(examples):
    rng = np.random.default_rng(0)
    a, b = 1e6 * rng.random((40, 25)) - 3, rng.standard_normal((40, 25)).astype(np.float32)
    kept = a.copy()
    scores = MixedScorer(MatrixScorer(a), MatrixScorer(b), 0.3).scores(slice(10, 20))
    units = [np.sqrt(x.astype(float).var(axis=1).mean()) for x in (a, b)]
    for row, mixed in enumerate(scores, start=10):
        parts = [(x[row] - x[row].mean()) / unit for x, unit in zip((a, b.astype(float)), units, strict=True)]
        np.testing.assert_allclose(mixed, 0.7 * parts[0] + 0.3 * parts[1], atol=1e-9)
    np.testing.assert_array_equal(a, kept)
    # The unit of a ranker does not matter.
    again = MixedScorer(MatrixScorer(a * 7 + 2), MatrixScorer(b), 0.3).scores(slice(10, 20))
    np.testing.assert_allclose(again, scores, atol=1e-9)


def test_the_ends_are_the_rankers_themselves_and_equal_scores_say_nothing(examples):
    vectors = torch.randn(40, 6), torch.randn(25, 6)
    a, b = VectorScorer(*vectors), ItemKNNScorer(examples)
    for weight, alone in ((0.0, a), (1.0, b)):
        np.testing.assert_array_equal(
            rank_targets(MixedScorer(a, b, weight), examples).ranks, rank_targets(alone, examples).ranks
        )
    constant = MatrixScorer(np.full((40, 25), 0.1))  # its mean is not exactly 0.1
    mixed = MixedScorer(constant, b, 0.01).scores(slice(0, 40))
    given = b.scores(slice(0, 40))
    expected = (given - given.mean(axis=1, keepdims=True)) / np.sqrt(given.var(axis=1).mean())
    np.testing.assert_allclose(mixed, 0.01 * expected, atol=1e-9)


def test_a_ranker_weighs_more_where_it_has_more_to_say(examples):
    flat, steep = np.zeros((40, 25)), np.zeros((40, 25))
    flat[:, 0], steep[:20, 1], steep[20:, 1] = 1.0, 0.1, 10.0  # the second says little of the first twenty users
    best = MixedScorer(MatrixScorer(flat), MatrixScorer(steep), 0.5).scores(slice(0, 40)).argmax(axis=1)
    assert best.tolist() == [0] * 20 + [1] * 20


def test_the_weight_is_the_best_of_the_validation_split_whatever_the_blocks(examples, monkeypatch):
    rng = np.random.default_rng(1)
    hint = np.zeros((40, 25))
    hint[np.arange(40), examples.targets] = 2.0
    a, b = MatrixScorer(hint + rng.standard_normal((40, 25))), MatrixScorer(hint + rng.standard_normal((40, 25)))
    curve = mix_curve(a, b, examples, weights=(0, 0.4, 0.8), metric="mrr@20")
    for weight, mean in curve.items():
        ranks = rank_targets(MixedScorer(a, b, weight), examples).ranks
        assert mean == pytest.approx(ranking_metrics(ranks, (20,))["mrr@20"])
    monkeypatch.setattr(mixing, "BLOCK_SCORES", 25 * 7)
    assert mix_curve(a, b, examples, weights=(0, 0.4, 0.8, 0.4), metric="mrr@20") == pytest.approx(curve)
    best = choose_mix(a, b, examples)
    assert 0 < best < 1 and mix_curve(a, b, examples)[best] > max(mix_curve(a, b, examples, weights=(0, 1)).values())
    assert choose_mix(a, MatrixScorer(-hint), examples) == 0.0


def test_what_does_not_fit_is_refused(examples):
    a, b = MatrixScorer(np.zeros((40, 25))), MatrixScorer(np.zeros((39, 25)))
    with pytest.raises(ValueError, match="`a` and `b` must score the same examples and items, got 40"):
        MixedScorer(a, b, 0.5)
    with pytest.raises(ValueError, match="`weight` must lie between 0 and 1, got 1.5"):
        MixedScorer(a, a, 1.5)
    with pytest.raises(ValueError, match="`weights` must be numbers between 0 and 1"):
        choose_mix(a, a, examples, weights=())
    with pytest.raises(ValueError, match="`examples` must be what the scorers score"):
        choose_mix(b, b, examples)


@pytest.fixture(scope="module")
def head(demo_dataset):
    head = build_head(demo_dataset, hidden_size=8, max_length=6)
    head.set_catalogue(list(demo_dataset.item_ids), torch.from_numpy(demo_dataset.sequences().train_counts()))
    return head


def test_a_report_shows_the_head_with_ease_and_its_weight(demo_dataset, head, tmp_path):
    report = evaluate(head, demo_dataset, mix="ease", max_users=50, batch_size=64)
    assert report.methods == ["sasrec", "sasrec + ease"] and list(report.floors)[-2:] == ["item_knn", "ease"]
    fact = report.facts["mix"]["sasrec + ease"]
    validation, test = (demo_dataset.examples(s, max_history=6).spread(50) for s in ("validation", "test"))
    a, b = score_by_head(head, validation), EASEScorer(validation)
    curve = mix_curve(a, b, validation)
    assert fact["weight"] == choose_mix(a, b, validation) and fact["validation_metric"] == "ndcg@10"
    assert fact["validation"] == pytest.approx(
        {"mix": curve[fact["weight"]], "model": curve[0.0], "floor": curve[1.0]}
    )
    mixed = MixedScorer(score_by_head(head, test), EASEScorer(test), fact["weight"])
    np.testing.assert_array_equal(report.ranks("sasrec + ease"), rank_targets(mixed, test).ranks)
    assert report.facts["floors"]["ease"]["items"] == demo_dataset.n_items
    # The card is the model's, not the mix's.
    report.save(tmp_path)
    assert EvaluationFacts.from_json(Report.load(tmp_path).to_dict()).report_name == "sasrec"


def test_a_mix_that_cannot_be_chosen_is_refused(demo_dataset, head):
    with pytest.raises(ValueError, match="`mix` must be one of ease, item_knn, got 'knn'"):
        evaluate(head, demo_dataset, mix="knn")
    with pytest.raises(ValueError, match="judged on the test split only, got `split` 'validation'"):
        evaluate(head, demo_dataset, mix="ease", split="validation")


def test_the_command_mixes_an_embedder_with_item_knn(demo_dataset, tiny, tmp_path, capsys):
    demo_dataset.save(tmp_path / "shop")
    command = ["evaluate", "--dataset", str(tmp_path / "shop"), "--mix", "item_knn", "--max_users", "12"]
    for part in tiny("qwen2_vl", max_history=4):
        part.save_pretrained(tmp_path / "embedder")
    assert main([*command, "--model", str(tmp_path / "embedder"), "--output", str(tmp_path / "report")]) == 0
    report = Report.load(tmp_path / "report")
    assert report.methods == ["embedder", "embedder + item_knn"] and report.views("embedder + item_knn") == ["both"]
    assert "| embedder + item_knn | both |" in capsys.readouterr().out
