"""Small reports with made-up ranks, shared by the tests of reports, comparisons and plots."""

import numpy as np

from vlm2rec_hf.evaluation.protocol import Protocol
from vlm2rec_hf.evaluation.ranking import Ranking
from vlm2rec_hf.evaluation.report import Report

N, N_ITEMS = 120, 60


def ranking(ranks, seed=0, k=20, exclude_seen=True):
    ranks = np.asarray(ranks, dtype=np.int64)
    rng = np.random.default_rng(seed)
    top = np.stack([rng.permutation(N_ITEMS)[:k] for _ in ranks])
    scores = np.tile(np.arange(k, 0, -1.0), (len(ranks), 1))
    return Ranking(ranks, top, scores, np.full(len(ranks), N_ITEMS), exclude_seen)


def draw_ranks(seed, typical):
    return np.minimum(1 + np.random.default_rng(seed).geometric(1 / typical, N), N_ITEMS)


def make_report(methods=("sft", "wpcl"), *, protocol=None, seed=0, order=None, views=("text", "image", "both")):
    order = np.arange(N) if order is None else order
    user_ids = np.array([f"u{i}" for i in range(N)])
    mask = np.arange(N) % 3 == 0
    report = Report(
        protocol or Protocol("abc"),
        user_ids=user_ids[order],
        item_ids=np.array([f"i{i % 7}" for i in range(N)])[order],
        slices={"third": mask[order], "empty": np.zeros(N, dtype=bool)},
        facts={"seconds": 1.5, "seeds": [0]},
        n_resamples=200,
    )
    counts = np.arange(N_ITEMS)
    for number, method in enumerate(methods):
        for place, view in enumerate(views):
            ranks = draw_ranks(seed + 10 * number + place, [12, 25, 9, 8][place] / (1 + number))
            report.add(method, ranking(ranks[order], seed), view=view, train_counts=counts)
    report.add_floor("popularity", ranking(draw_ranks(99, 30)[order]), train_counts=counts)
    return report
