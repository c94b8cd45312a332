from pathlib import Path

import numpy as np
import pytest

from vlm2rec_hf.evaluation.metrics import rank_metric

from .oracles import ranx_means

FOLDER = Path(__file__).parents[2] / "metrics" / "recsys_ranking"
NAMES = ("hit", "ndcg", "mrr")


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    evaluate = pytest.importorskip("evaluate")
    cache = str(tmp_path_factory.mktemp("evaluate"))
    return lambda *config: evaluate.load(str(FOLDER), *config, cache_dir=cache)


@pytest.fixture(scope="module")
def case():
    rng = np.random.default_rng(0)
    lists = np.stack([rng.permutation(40)[:25] for _ in range(50)])
    targets = rng.integers(0, 40, 50)
    place = [np.flatnonzero(row == target) for row, target in zip(lists, targets, strict=True)]
    ranks = np.array([at[0] + 1 if len(at) else 10_000 for at in place])
    assert (ranks == 10_000).any()  # some targets are in no list
    return lists, targets, ranks


@pytest.mark.parametrize("as_text", [True, False])
def test_ranked_lists_give_our_numbers(load, case, as_text):
    lists, targets, ranks = case
    kind = (lambda x: f"m{x}") if as_text else int
    result = load().compute(
        predictions=[[kind(i) for i in row] for row in lists], references=[kind(t) for t in targets], k=[5, 20]
    )
    expected = {f"{name}@{k}": rank_metric(f"{name}@{k}", ranks).mean() for k in (5, 20) for name in NAMES}
    assert result == pytest.approx(expected)


def test_ranks_give_our_numbers_per_user_too(load, case):
    ranks = case[2]
    result = load("ranks").compute(predictions=ranks.tolist(), k=10, per_user=True)
    assert set(result) == {f"{name}@10{tail}" for name in NAMES for tail in ("", "/per_user")}
    for name in NAMES:
        assert result[f"{name}@10"] == pytest.approx(rank_metric(f"{name}@10", ranks).mean())
        np.testing.assert_allclose(result[f"{name}@10/per_user"], rank_metric(f"{name}@10", ranks))
    assert set(load("ranks").compute(predictions=[1, 2])) == {f"{name}@{k}" for name in NAMES for k in (10, 20)}


def test_equals_ranx(load, case):
    lists, targets, _ = case
    result = load().compute(predictions=lists.tolist(), references=targets.tolist(), k=10)
    theirs = ranx_means(lists, targets, ["hit_rate@10", "ndcg@10", "mrr@10"])
    assert result["hit@10"] == pytest.approx(theirs["hit_rate@10"])
    assert result["ndcg@10"] == pytest.approx(theirs["ndcg@10"])
    assert result["mrr@10"] == pytest.approx(theirs["mrr@10"])


def test_batches_add_up(load, case):
    ranks = case[2]
    metric = load("ranks")
    metric.add_batch(predictions=ranks[:20].tolist())
    metric.add_batch(predictions=ranks[20:].tolist())
    assert metric.compute(k=10)["ndcg@10"] == pytest.approx(rank_metric("ndcg@10", ranks).mean())


def test_bad_input_is_refused(load):
    with pytest.raises(ValueError, match="twice"):
        load().compute(predictions=[["a", "a"]], references=["a"])
    with pytest.raises(ValueError, match="`k`"):
        load("ranks").compute(predictions=[1], k=[0])
    with pytest.raises(ValueError, match="1-based"):
        load("ranks").compute(predictions=[0])
    with pytest.raises(ValueError, match="config_name"):
        load("nonsense")


def test_the_file_is_self_contained_with_one_import_per_line():
    source = (FOLDER / "recsys_ranking.py").read_text()
    imports = [line for line in source.splitlines() if line.startswith(("import ", "from "))]
    assert not any("vlm2rec" in line or "," in line for line in imports)
    assert len(imports) == 5
