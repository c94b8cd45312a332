"""The result of an evaluation: numbers with intervals, every single rank, and the protocol that produced them."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from ..columns import ITEM_ID, USER_ID
from ..data.html_tables import html_table
from ..files import sha256, whole_file
from .metrics import coverage_at_k, novelty_at_k, rank_metric
from .protocol import Protocol
from .significance import bootstrap_interval

if TYPE_CHECKING:
    import pyarrow

    from .ranking import Ranking
    from .sampled import SampledRanking

Summary = dict[str, float | int | None]
"""`{"mean", "low", "high", "n"}`; None where there is nothing to average or no interval."""

REPORT_FILE = "report.json"
PER_USER_FILE = "per_user.parquet"
PREVIOUS_FILE = ".per_user.previous.parquet"
REPORT_FORMAT = 1
FLOOR_VIEW = "floor"
SLICE_PREFIX = "slice."


class Report:
    """Methods, their views and the floors, all ranked on the same examples under one protocol.

    Args:
        protocol: how everything in here is ranked.
        user_ids: `(n,)` raw user id of each example.
        item_ids: `(n,)` raw item id of each example's target.
        slices: name -> `(n,)` bool, as from `make_slices`.
        facts: anything else worth keeping (seconds, seeds, versions); plain JSON values.
        n_resamples: bootstrap resamples behind each 95 % interval.

    Attributes:
        metrics: method -> view -> metric -> `Summary`.
        slice_metrics: method -> view -> slice -> metric -> `Summary`.
        floors: floor -> metric -> `Summary`.

    Raises:
        ValueError: arrays of different lengths, or slices that are not boolean.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        user_ids: ArrayLike,
        item_ids: ArrayLike,
        slices: Mapping[str, np.ndarray] | None = None,
        facts: Mapping[str, Any] | None = None,
        n_resamples: int = 2000,
    ) -> None:
        self.protocol = protocol
        self.user_ids = _texts(user_ids)
        self.item_ids = _texts(item_ids)
        if self.user_ids.ndim != 1 or self.user_ids.shape != self.item_ids.shape:
            raise ValueError(
                f"`user_ids` and `item_ids` must be flat and of one length, "
                f"got shapes {self.user_ids.shape} and {self.item_ids.shape}."
            )
        users, user_index = np.unique(self.user_ids, return_inverse=True)
        # Only where a user has several examples must resampling keep them together.
        self._users = user_index if len(users) < len(user_index) else None
        self.slices = {name: np.asarray(mask) for name, mask in (slices or {}).items()}
        for name, mask in self.slices.items():
            if mask.shape != self.user_ids.shape or mask.dtype != bool:
                raise ValueError(
                    f"`slices[{name!r}]` must be bool with one value per example ({len(self)}), "
                    f"got shape {mask.shape}, dtype {mask.dtype}."
                )
        self.facts = dict(facts or {})
        self.n_resamples = n_resamples
        self.metrics: dict[str, dict[str, dict[str, Summary]]] = {}
        self.slice_metrics: dict[str, dict[str, dict[str, dict[str, Summary]]]] = {}
        self.floors: dict[str, dict[str, Summary]] = {}
        self._ranks: dict[tuple[str, str], np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.user_ids)

    def __repr__(self) -> str:
        floors = f", floors={list(self.floors)}" if self.floors else ""
        return f"Report({len(self):,} examples, methods={self.methods}{floors}, {self._protocol_in_words()})"

    def _repr_html_(self) -> str:
        names = self._default_metrics()
        rows = [
            (method, view, *(_cell(summaries.get(name), 4) for name in names))
            for method, view, summaries in self._table_rows()
        ]
        return html_table(f"{len(self):,} examples, {self._protocol_in_words()}", ("method", "view", *names), rows)

    @property
    def methods(self) -> list[str]:
        """Names of the methods, without floors, in the order they were added."""
        return list(self.metrics)

    def views(self, method: str) -> list[str]:
        """Views of a method.

        Raises:
            ValueError: an unknown method.
        """
        if method not in self.metrics:
            raise ValueError(f"`method` must be one of {self.methods}, got {method!r}.")
        return list(self.metrics[method])

    def ranks(self, method: str, view: str = "both") -> np.ndarray:
        """Rank of every example's target: `(n,)` int64. For a floor pass `view="floor"`.

        Raises:
            ValueError: nothing was added under these names.
        """
        if (method, view) not in self._ranks:
            raise ValueError(f"`method`, `view` must be one of {sorted(self._ranks)}, got {(method, view)}.")
        return self._ranks[method, view]

    def add(
        self,
        method: str,
        ranking: Ranking | SampledRanking,
        *,
        view: str = "both",
        train_counts: ArrayLike | None = None,
    ) -> None:
        """Add one method's view.

        Args:
            method: its name, as in tables.
            ranking: ranks of the report's examples, in order.
            view: `"text"`, `"image"`, `"both"` or any other name.
            train_counts: `(n_items,)` training interactions; with it coverage and novelty of full rankings are added.

        Raises:
            ValueError: a ranking that does not fit the protocol or the examples, or names already taken.
        """
        if view == FLOOR_VIEW:
            raise ValueError(f"`view` must not be {FLOOR_VIEW!r}; use `add_floor`.")
        self._check(method, view, ranking)
        summaries, by_slice = self._summaries(ranking, train_counts)
        self._ranks[method, view] = np.asarray(ranking.ranks, dtype=np.int64)
        self.metrics.setdefault(method, {})[view] = summaries
        self.slice_metrics.setdefault(method, {})[view] = by_slice

    def add_floor(
        self, name: str, ranking: Ranking | SampledRanking, *, train_counts: ArrayLike | None = None
    ) -> None:
        """Add a floor (popularity, transitions, ...); arguments and errors as in `add`."""
        self._check(name, FLOOR_VIEW, ranking)
        self.floors[name] = self._summaries(ranking, train_counts)[0]
        self._ranks[name, FLOOR_VIEW] = np.asarray(ranking.ranks, dtype=np.int64)

    def take_over(
        self, other: Report, method: str, view: str, order: np.ndarray, *, name: str, view_name: str | None = None
    ) -> None:
        """Add a method (or, with `view="floor"`, a floor) of another report on the same examples.

        Args:
            other: that report.
            method: its name there.
            view: its view there.
            order: `(n,)` rows of `other` in the order of this report's examples.
            name: its name here.
            view_name: its view here, if another.

        Raises:
            ValueError: names already taken here, or unknown there.
        """
        key = (name, FLOOR_VIEW if view == FLOOR_VIEW else view_name or view)
        if key in self._ranks:
            raise ValueError(f"`method` {key[0]!r}, view {key[1]!r} is in the report already; choose another name.")
        self._ranks[key] = other.ranks(method, view)[order]
        if view == FLOOR_VIEW:
            self.floors[name] = other.floors[method]
            return
        self.metrics.setdefault(name, {})[key[1]] = other.metrics[method][view]
        by_slice = other.slice_metrics.get(method, {}).get(view, {})
        self.slice_metrics.setdefault(name, {})[key[1]] = {
            part: of_slice for part, of_slice in by_slice.items() if part in self.slices
        }

    def within(self, name: str) -> Report:
        """The examples of one slice as a report: means and intervals over them alone, of methods and floors.

        Coverage and novelty, which are of whole lists of all users, and further slices are left out;
        `facts["slice"]` names the slice.

        Args:
            name: one of `slices`.

        Raises:
            ValueError: an unknown slice, or one without examples.
        """
        if name not in self.slices:
            raise ValueError(f"`slice` must be one of {sorted(self.slices)}, got {name!r}.")
        mask = self.slices[name]
        if not mask.any():
            raise ValueError(f"`slice` {name!r} has no examples in this report; choose another.")
        part = Report(
            self.protocol,
            user_ids=self.user_ids[mask],
            item_ids=self.item_ids[mask],
            facts={**self.facts, "slice": name},
            n_resamples=self.n_resamples,
        )
        for (method, view), ranks in self._ranks.items():
            part._ranks[method, view] = ranks[mask]
            summaries = part._rank_summaries(ranks[mask])[0]
            if view == FLOOR_VIEW:
                part.floors[method] = summaries
            else:
                part.metrics.setdefault(method, {})[view] = summaries
                part.slice_metrics.setdefault(method, {})[view] = {}
        return part

    def _check(self, method: str, view: str, ranking: Ranking | SampledRanking) -> None:
        if (method, view) in self._ranks:
            raise ValueError(f"`method` {method!r}, view {view!r} is in the report already; choose another name.")
        if ranking.candidates != self.protocol.candidates:
            raise ValueError(
                f"`ranking` is {ranking.candidates}, but the protocol says {self.protocol.candidates}; "
                "sampled and full ranks do not mix."
            )
        if len(ranking) != len(self):
            raise ValueError(f"`ranking` must rank the report's {len(self)} examples, got {len(ranking)}.")
        for name in ("exclude_seen", "n_negatives", "seed"):
            ours, theirs = getattr(self.protocol, name), getattr(ranking, name, None)
            if theirs is not None and theirs != ours:
                raise ValueError(f"`ranking` was made with {name}={theirs}, but the protocol says {ours}.")

    def _summaries(
        self, ranking: Ranking | SampledRanking, train_counts: ArrayLike | None
    ) -> tuple[dict[str, Summary], dict[str, dict[str, Summary]]]:
        summaries, by_slice = self._rank_summaries(ranking.ranks)
        top = getattr(ranking, "top_items", None)
        if train_counts is None or top is None:
            return summaries, by_slice
        for k in self.protocol.k:
            if k > top.shape[1]:
                raise ValueError(f"`ranking` holds {top.shape[1]} items per user, but the protocol's k goes to {k}.")
            counts = np.asarray(train_counts)
            covered = coverage_at_k(top, len(counts), k)
            summaries[f"coverage@{k}"] = {"mean": covered, "low": None, "high": None, "n": len(self)}
            novelty = novelty_at_k(top, counts, k)
            known = ~np.isnan(novelty)
            summaries[f"novelty@{k}"] = self._summary(novelty, known)
        return summaries, by_slice

    def _rank_summaries(self, ranks: np.ndarray) -> tuple[dict[str, Summary], dict[str, dict[str, Summary]]]:
        """Hit, NDCG and MRR at every cut-off, over all examples and by slice."""
        summaries: dict[str, Summary] = {}
        by_slice: dict[str, dict[str, Summary]] = {name: {} for name in self.slices}
        for k in self.protocol.k:
            for metric in ("hit", "ndcg", "mrr"):
                name = f"{metric}@{k}"
                values = rank_metric(name, ranks)
                summaries[name] = self._summary(values)
                for part, mask in self.slices.items():
                    by_slice[part][name] = self._summary(values, mask)
        return summaries, by_slice

    def _summary(self, values: np.ndarray, mask: np.ndarray | None = None) -> Summary:
        users = self._users
        if mask is not None:
            values, users = values[mask], None if users is None else users[mask]
        if not len(values):
            return {"mean": None, "low": None, "high": None, "n": 0}
        interval = bootstrap_interval(values, n=self.n_resamples, groups=users)
        return {"mean": interval.mean, "low": interval.low, "high": interval.high, "n": len(values)}

    def per_user(self) -> pyarrow.Table:
        """One row per method, view and example: method, view, user_id, item_id (the target), rank, then the slices."""
        import pyarrow as pa

        keys = list(self._ranks)
        times = len(keys)

        def repeated(values: list[str]) -> pa.DictionaryArray:
            return pa.array(np.repeat(values, len(self)).tolist(), pa.string()).dictionary_encode()

        columns: dict[str, Any] = {
            "method": repeated([method for method, _ in keys]),
            "view": repeated([view for _, view in keys]),
            USER_ID: pa.array(np.tile(self.user_ids, times).tolist(), pa.string()),
            ITEM_ID: pa.array(np.tile(self.item_ids, times).tolist(), pa.string()),
            "rank": pa.array(np.concatenate([self._ranks[key] for key in keys] or [np.zeros(0, np.int64)])),
        }
        for name, mask in self.slices.items():
            columns[SLICE_PREFIX + name] = pa.array(np.tile(mask, times))
        return pa.table(columns)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the per-user rows, as plain JSON values."""
        return {
            "format": REPORT_FORMAT,
            "protocol": self.protocol.to_dict(),
            "protocol_fingerprint": self.protocol.fingerprint,
            "n_examples": len(self),
            "n_resamples": self.n_resamples,
            "metrics": self.metrics,
            "slices": self.slice_metrics,
            "floors": self.floors,
            "facts": self.facts,
        }

    def save(self, folder: str | os.PathLike[str]) -> Path:
        """Write `report.json` and `per_user.parquet` into `folder`, which may hold other files.

        Both files are written whole beside their place and then renamed, `report.json`, which holds the parquet file's
        hash, last. Until then the earlier rows stay under another name, where `load` finds them by their hash: a
        reader gets the old report or the new one, never a mixture, whenever a save dies.

        Returns:
            The path of `report.json`.

        Raises:
            ValueError: an empty report, or facts that are not plain JSON values.
        """
        import pyarrow.parquet as pq

        if not self._ranks:
            raise ValueError("the report is empty; `add` a method before saving.")
        values = self.to_dict()
        try:
            json.dumps(values, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`facts` must hold plain JSON values (no NaN, no arrays): {error}.") from error
        target = Path(folder)
        place, previous, renaming = target / PER_USER_FILE, target / PREVIOUS_FILE, False
        try:
            with (
                whole_file(target / REPORT_FILE) as head,
                whole_file(place) as rows,
            ):  # `rows` is renamed before `head`
                pq.write_table(self.per_user(), rows, compression="zstd")
                values["per_user"] = {"file": PER_USER_FILE, "sha256": sha256(rows)}
                head.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
                # Rows that the present report does not name are the remains of an unfinished save: they may go.
                if _rows_named_by(target / REPORT_FILE) == _hash_of(place):
                    os.replace(place, previous)
                renaming = True
        except OSError:
            if renaming and previous.exists():
                os.replace(previous, place)
            raise
        previous.unlink(missing_ok=True)
        return target / REPORT_FILE

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Report:
        """Read what `save` wrote; methods can be added to it.

        Raises:
            ValueError: no report there, a newer format, or a per-user file that is not the one the report names.
        """
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        path = Path(folder) / REPORT_FILE
        if not path.is_file():
            raise ValueError(f"`folder` must hold a saved report, found no {path}.")
        values = json.loads(path.read_text(encoding="utf-8"))
        if values.get("format") != REPORT_FORMAT:
            raise ValueError(
                f"`folder` holds report format {values.get('format')!r}, this version reads {REPORT_FORMAT}; update."
            )
        rows = path.parent / values["per_user"]["file"]
        places = (rows, path.parent / PREVIOUS_FILE)
        whole = [place for place in places if place.is_file() and sha256(place) == values["per_user"]["sha256"]]
        if not whole:
            raise ValueError(f"`folder` is damaged: {rows} is absent or not the file {path} was saved with.")
        table = pq.read_table(whole[0])
        n = values["n_examples"]
        names = [name for name in table.column_names if name.startswith(SLICE_PREFIX)]
        head = table.slice(0, n)
        report = cls(
            Protocol.from_dict(values["protocol"]),
            user_ids=head[USER_ID].to_pylist(),
            item_ids=head[ITEM_ID].to_pylist(),
            slices={name[len(SLICE_PREFIX) :]: head[name].to_numpy().astype(bool) for name in names},
            facts=values["facts"],
            n_resamples=values["n_resamples"],
        )
        report.metrics, report.slice_metrics = values["metrics"], values["slices"]
        report.floors = values["floors"]
        keys = [(method, view) for method, views in report.metrics.items() for view in views]
        for method, view in keys + [(name, FLOOR_VIEW) for name in report.floors]:
            mine = pc.and_(pc.equal(table["method"], method), pc.equal(table["view"], view))
            report._ranks[method, view] = table.filter(mine)["rank"].to_numpy().astype(np.int64)
        return report

    def to_markdown(self, metrics: Sequence[str] | None = None, *, digits: int = 4) -> str:
        """A Markdown table: one row per method and view, then the floors; mean and 95 % interval per metric.

        Args:
            metrics: columns; default: Hit, NDCG and MRR at each cut-off.
            digits: after the point.

        Raises:
            ValueError: a metric that no method has.
        """
        names = list(metrics) if metrics else self._default_metrics()
        rows = self._table_rows()
        for name in names:
            if not any(name in summaries for _, _, summaries in rows):
                raise ValueError(f"`metrics` holds {name!r}, which no method in the report has.")
        lines = [f"| method | view | {' | '.join(names)} |", f"|---|---|{'---:|' * len(names)}"]
        for method, view, summaries in rows:
            lines.append(f"| {method} | {view} | {' | '.join(_cell(summaries.get(name), digits) for name in names)} |")
        what = self.protocol
        sampled = f", {what.n_negatives} sampled negatives, seed {what.seed}" if what.candidates == "sampled" else ""
        seen = "excluded" if what.exclude_seen else "kept"
        part = f", slice {self.facts['slice']}" if "slice" in self.facts else ""
        return "\n".join(lines) + (
            f"\n\n{len(self):,} examples of the {what.split} split{part}, {what.candidates} ranking{sampled}, "
            f"seen items {seen}, {what.ties} ties; 95 % bootstrap intervals; protocol `{what.fingerprint}`.\n"
        )

    def _default_metrics(self) -> list[str]:
        return [f"{metric}@{k}" for k in self.protocol.k for metric in ("hit", "ndcg", "mrr")]

    def _table_rows(self) -> list[tuple[str, str, dict[str, Summary]]]:
        """Name, view and summaries of every method's views, then of the floors."""
        rows = [(method, view, of_view) for method, views in self.metrics.items() for view, of_view in views.items()]
        return rows + [(floor_label(name), "-", summaries) for name, summaries in self.floors.items()]

    def _protocol_in_words(self) -> str:
        part = f", slice {self.facts['slice']!r}" if "slice" in self.facts else ""
        return f"{self.protocol.split} split{part}, {self.protocol.candidates} ranking"


def _texts(ids: ArrayLike) -> np.ndarray:
    """Ids as an object array of `str`: a fixed-width one takes the longest's memory for each, and loses NULs."""
    return np.frompyfunc(str, 1, 1)(np.atleast_1d(np.asarray(ids, dtype=object)))


def _rows_named_by(report: Path) -> str | None:
    """Hash of the rows that a saved `report.json` belongs to; None without a readable report."""
    try:
        return json.loads(report.read_text(encoding="utf-8"))["per_user"]["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _hash_of(path: Path) -> str:
    return sha256(path) if path.is_file() else ""


def floor_label(name: str) -> str:
    """How a floor is named in tables and plots; `oracle` (known choice probabilities) is a ceiling instead."""
    return f"{name} (best possible)" if name == "oracle" else f"{name} (floor)"


def _cell(summary: Summary | None, digits: int) -> str:
    if summary is None or summary["mean"] is None:
        return "–"
    text = f"{summary['mean']:.{digits}f}"
    if summary["low"] is None or math.isclose(float(summary["low"]), float(summary["high"] or 0.0), abs_tol=1e-12):
        return text
    return f"{text} [{summary['low']:.{digits}f}, {summary['high']:.{digits}f}]"
