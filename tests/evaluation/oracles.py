"""Naive counterparts of the evaluation code: plain loops over users and items, written to be obviously right."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys

import numpy as np

from vlm2rec_hf.data.sequences import TEST, TRAIN, VALIDATION, Sequences


class MatrixScorer:
    """A `BlockScorer` over a given score matrix; remembers which rows it was asked for."""

    def __init__(self, scores):
        self.matrix = np.asarray(scores)
        self.asked = []

    @property
    def n_items(self):
        return self.matrix.shape[1]

    def __len__(self):
        return len(self.matrix)

    def scores(self, rows):
        self.asked.append(rows)
        return self.matrix[rows]


def naive_ranks(scores, targets, seen=None, exclude_seen=True):
    ranks = []
    for user, target in enumerate(targets):
        out = set(np.asarray(seen[user]).tolist()) - {int(target)} if exclude_seen and seen is not None else set()
        rivals = [j for j in range(scores.shape[1]) if j != target and j not in out]
        ranks.append(1 + sum(bool(scores[user, j] >= scores[user, target]) for j in rivals))
    return np.array(ranks, dtype=np.int64)


def naive_top(scores, targets, k, seen=None, exclude_seen=True):
    tops = []
    for user, target in enumerate(targets):
        out = set(np.asarray(seen[user]).tolist()) - {int(target)} if exclude_seen and seen is not None else set()
        items = [j for j in range(scores.shape[1]) if j not in out]
        items.sort(key=lambda j, user=user: (-scores[user, j], j))
        tops.append((items + [-1] * k)[:k])
    return np.array(tops, dtype=np.int64).reshape(len(targets), k)


def naive_metric(name, rank, k):
    if rank > k:
        return 0.0
    return {"hit": 1.0, "ndcg": 1.0 / math.log2(1 + rank), "mrr": 1.0 / rank}[name]


def make_sequences(lists, n_items, *, held_out=2):
    """Sequences from lists of catalogue indices; of each user the last is test and the one before validation."""
    items, split = [], []
    for row in lists:
        items += row
        n_train = max(len(row) - held_out, 0)
        split += [TRAIN] * n_train + ([VALIDATION, TEST] if held_out == 2 else [TEST])[-(len(row) - n_train) :]
    offsets = np.concatenate([[0], np.cumsum([len(row) for row in lists])]).astype(np.int64)
    return Sequences(
        np.array([f"u{i}" for i in range(len(lists))]),
        np.array([f"i{i}" for i in range(n_items)]),
        offsets,
        np.array(items, dtype=np.int32),
        np.array(split, dtype=np.int8),
    )


def random_sequences(seed=0, n_users=30, n_items=25, shortest=3, longest=15):
    rng = np.random.default_rng(seed)
    lists = [rng.integers(0, n_items, rng.integers(shortest, longest + 1)).tolist() for _ in range(n_users)]
    return make_sequences(lists, n_items)


RANX = """
import json, sys
from ranx import Qrels, Run, evaluate
lists, targets, metrics = json.load(sys.stdin)
qrels = Qrels({f"u{i}": {f"i{target}": 1} for i, target in enumerate(targets)})
run = Run({f"u{i}": {f"i{item}": float(len(row) - j) for j, item in enumerate(row)} for i, row in enumerate(lists)})
print(json.dumps({name: float(value) for name, value in evaluate(qrels, run, metrics).items()}))
"""


def ranx_means(lists, targets, metrics):
    """Means by `ranx`, from ranked lists of item numbers.

    In a process of its own without compilation: numba takes about a minute to compile what runs in a millisecond.
    """
    task = json.dumps([[list(map(int, row)) for row in lists], list(map(int, targets)), list(metrics)])
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", RANX], input=task, capture_output=True, text=True, check=True, env=environment
    )
    return json.loads(done.stdout.splitlines()[-1])
