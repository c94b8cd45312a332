"""Ranking metrics of recommender systems with one relevant item per user. Self-contained, for `evaluate.load`."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

_DESCRIPTION = """
Hit, NDCG and MRR at k for recommendation with one held-out item per user (leave-one-out). Works from ranked lists of
item ids, or directly from the ranks of the held-out items. Hit equals Recall when there is one relevant item.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions: per user the recommended item ids, best first (configuration "items", the default), or the rank of the
        held-out item, 1 = best (configuration "ranks").
    references: per user the held-out item id ("items" only).
    k: cut-offs, a number or a list of numbers. Default [10, 20].
    per_user: also return the values of every user, under "hit@10/per_user" and so on. Default False.
Returns:
    A dictionary with "hit@k", "ndcg@k" and "mrr@k" for each cut-off, averaged over users.
Examples:
    >>> metric = evaluate.load("recsys_ranking")
    >>> metric.compute(predictions=[["a", "b"], ["c", "a"]], references=["b", "d"], k=2)["hit@2"]
    0.5
"""

_CITATION = """
@article{jarvelin2002cumulated,
  author = {J{\\"a}rvelin, Kalervo and Kek{\\"a}l{\\"a}inen, Jaana},
  title = {Cumulated gain-based evaluation of {IR} techniques},
  journal = {ACM Transactions on Information Systems},
  volume = {20},
  number = {4},
  pages = {422--446},
  year = {2002}
}
"""

_CONFIGS = ("items", "ranks")


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class RecsysRanking(evaluate.Metric):
    """Hit, NDCG and MRR at k."""

    def _info(self) -> evaluate.MetricInfo:
        name = "items" if self.config_name == "default" else self.config_name
        if name not in _CONFIGS:
            raise ValueError(f"`config_name` must be one of {list(_CONFIGS)}, got {name!r}.")
        if name == "ranks":
            features = datasets.Features({"predictions": datasets.Value("int64")})
        else:
            features = [
                datasets.Features(
                    {"predictions": datasets.Sequence(datasets.Value(kind)), "references": datasets.Value(kind)}
                )
                for kind in ("string", "int64")
            ]
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=features,
        )

    def _compute(
        self,
        predictions: list[Any],
        references: list[Any] | None = None,
        k: int | Sequence[int] = (10, 20),
        per_user: bool = False,
    ) -> dict[str, Any]:
        cut_offs = [k] if isinstance(k, int) else list(k)
        if not cut_offs or any(isinstance(c, bool) or not isinstance(c, int) or c < 1 for c in cut_offs):
            raise ValueError(f"`k` must be positive integers, got {k!r}.")
        if references is None:
            ranks = np.asarray(predictions, dtype=np.int64)
            if len(ranks) and ranks.min() < 1:
                raise ValueError(f"`predictions` are 1-based ranks, so at least 1, got {ranks.min()}; add 1.")
        else:
            ranks = np.array(
                [_rank(i, row, item) for i, (row, item) in enumerate(zip(predictions, references, strict=True))]
            )
        if not len(ranks):
            raise ValueError("`predictions` is empty; pass at least one user.")
        result = {}
        for cut_off in cut_offs:
            found = ranks <= cut_off
            values = {
                "hit": found.astype(np.float64),
                "ndcg": np.where(found, 1.0 / np.log2(1.0 + ranks), 0.0),
                "mrr": np.where(found, 1.0 / ranks, 0.0),
            }
            for name, value in values.items():
                result[f"{name}@{cut_off}"] = float(value.mean())
                if per_user:
                    result[f"{name}@{cut_off}/per_user"] = value.tolist()
        return result


def _rank(index: int, row: Sequence[Any], item: Any) -> int:
    """1-based place of `item` in `row`; beyond every cut-off when it is not there."""
    row = list(row)
    if len(set(row)) != len(row):
        raise ValueError(
            f"`predictions[{index}]` recommends an item twice, which would push others down; deduplicate."
        )
    return row.index(item) + 1 if item in row else int(np.iinfo(np.int64).max // 2)
