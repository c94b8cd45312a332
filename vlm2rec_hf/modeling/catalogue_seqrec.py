"""The items a head can recommend: raw ids, how often each was seen in training, titles. Saved as one parquet file."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

CATALOGUE_FILE = "catalogue.parquet"


class HeadCatalogue:
    """Item ids in the order of the head's item vectors.

    Args:
        ids: raw item ids; numbers are taken as their text.
        popularity: `(n,)` training counts; zeros by default.
        titles: one title or None per item.

    Raises:
        ValueError: ids that repeat, or lists of different lengths.
    """

    def __init__(
        self, ids: Sequence[str], popularity: Tensor | None = None, titles: Sequence[str | None] | None = None
    ) -> None:
        self.ids = [str(item) for item in ids]
        self.index = {item: place for place, item in enumerate(self.ids)}
        if len(self.index) != len(self.ids):
            seen: set[str] = set()
            twice = next(item for item in self.ids if item in seen or seen.add(item))  # type: ignore[func-returns-value]
            raise ValueError(f"`ids` must be unique, got {twice!r} twice; keep one row per item.")
        if popularity is None:
            popularity = torch.zeros(len(self.ids), dtype=torch.int64)
        self.popularity = torch.as_tensor(popularity).to(device="cpu", dtype=torch.int64)
        self.titles = [None] * len(self.ids) if titles is None else [None if t is None else str(t) for t in titles]
        for name, length in (("popularity", len(self.popularity)), ("titles", len(self.titles))):
            if length != len(self.ids):
                raise ValueError(f"`{name}` must have one entry per id ({len(self.ids)}), got {length}.")

    def __len__(self) -> int:
        return len(self.ids)

    def by_popularity(self) -> Tensor:
        """Catalogue indices, most popular first, equal counts by lower index: `(n,)` int64."""
        return torch.sort(self.popularity, descending=True, stable=True).indices

    def look_up(
        self, items: Sequence[str], on_unknown: str = "error", name: str = "histories"
    ) -> tuple[list[int], int]:
        """Catalogue indices of raw ids, in order.

        Args:
            items: raw ids.
            on_unknown: `"error"`, or `"skip"` to leave unknown ids out.
            name: of the argument that errors should name.

        Returns:
            The indices of the known ids and the number of unknown ones.

        Raises:
            ValueError: an unknown id, or an unknown option.
        """
        if on_unknown not in ("error", "skip"):
            raise ValueError(f"`on_unknown` must be 'error' or 'skip', got {on_unknown!r}.")
        if isinstance(items, str):
            raise ValueError(f"`{name}` must hold lists of item ids, got the text {items!r}; wrap it in a list.")
        places = [self.index.get(str(item)) for item in items]
        known = [place for place in places if place is not None]
        if on_unknown == "error" and len(known) < len(places):
            lost = [str(item) for item, place in zip(items, places, strict=True) if place is None]
            raise ValueError(
                f"`{name}` names {len(lost)} items that the catalogue of {len(self)} does not hold, such as "
                f"{lost[0]!r}; leave them out with on_unknown='skip', or add them with `add_items`."
            )
        return known, len(places) - len(known)

    def extended(self, ids: Sequence[str], titles: Sequence[str | None] | None = None) -> "HeadCatalogue":
        """The catalogue with new items at its end, never seen in training.

        Raises:
            ValueError: an id that is there already or repeats.
        """
        known = [str(item) for item in ids if str(item) in self.index]
        if known:
            raise ValueError(f"`ids` names {len(known)} items that the catalogue already holds, such as {known[0]!r}.")
        counts = torch.cat([self.popularity, torch.zeros(len(ids), dtype=torch.int64)])
        more = [None] * len(ids) if titles is None else list(titles)
        return HeadCatalogue([*self.ids, *ids], counts, [*self.titles, *more])

    def save(self, folder: str | os.PathLike) -> Path:
        """Write `catalogue.parquet` into a folder; it appears whole or not at all."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        Path(folder).mkdir(parents=True, exist_ok=True)
        columns = {"item_id": self.ids, "popularity": self.popularity.tolist(), "title": self.titles}
        kinds = {"item_id": pa.string(), "popularity": pa.int64(), "title": pa.string()}
        table = pa.table(columns, schema=pa.schema(kinds))
        handle, name = tempfile.mkstemp(prefix=".writing-", suffix=".parquet", dir=folder)
        os.close(handle)
        try:
            pq.write_table(table, name)
            os.chmod(name, 0o644)  # temporary files are private; a model is to be shared
            os.replace(name, Path(folder) / CATALOGUE_FILE)
        finally:
            Path(name).unlink(missing_ok=True)
        return Path(folder) / CATALOGUE_FILE

    @classmethod
    def load(cls, path: str | os.PathLike) -> "HeadCatalogue":
        """Read a file that `save` wrote.

        Raises:
            ValueError: a column is missing.
        """
        import pyarrow.parquet as pq

        table = pq.read_table(path)
        lost = [name for name in ("item_id", "popularity", "title") if name not in table.column_names]
        if lost:
            raise ValueError(f"`path` {str(path)!r} is no head's catalogue: it lacks {lost}; save the head again.")
        return cls(
            table["item_id"].to_pylist(), torch.tensor(table["popularity"].to_pylist()), table["title"].to_pylist()
        )


def by_view(vectors: Any, views: Sequence[str]) -> Mapping[str, Tensor]:
    """Vectors as view -> matrix, however they come: an `Encoding`, a mapping, or one matrix for a single view."""
    if isinstance(vectors, Mapping):
        return vectors
    if hasattr(vectors, "has_text"):  # an `Encoding`, whose file is not copied beside a head's weights
        return {view: vectors.view(view) for view in views}
    if len(views) != 1:
        raise ValueError(f"`vectors` must map each view of {tuple(views)} to a matrix, got {type(vectors).__name__}.")
    return {views[0]: vectors}


SCORES_AT_ONCE = 2**25


@dataclass
class Recommendation:
    """The items recommended after one history.

    Attributes:
        item_ids: raw ids, best first.
        scores: inner products (`source` "model") or training counts ("popularity"), one per item.
        titles: one title or None per item.
        source: `"model"`, or `"popularity"` where the history was empty (after leaving out unknown ids).
        n_unknown: ids of the history that were left out.
    """

    item_ids: list[str]
    scores: list[float]
    titles: list[str | None]
    source: str
    n_unknown: int = 0

    def __repr__(self) -> str:
        best = [f"{item!r} {score:.4g}" for item, score in zip(self.item_ids[:3], self.scores, strict=False)]
        best += ["..."] * (len(self.item_ids) > 3)
        left_out = f", {self.n_unknown} unknown ids left out" if self.n_unknown else ""
        return f"Recommendation({len(self.item_ids)} items by {self.source!r}{left_out}: {', '.join(best) or 'none'})"

    def _repr_html_(self) -> str:
        lines = [f"<table><caption>{len(self.item_ids)} items by {escape(self.source)}</caption>"]
        lines.append("<tr><th></th><th>item_id</th><th>title</th><th>score</th></tr>")
        for place, (item, title, score) in enumerate(zip(self.item_ids, self.titles, self.scores, strict=True), 1):
            cells = (place, item, title or "", f"{score:.4g}")
            lines.append(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in cells)}</tr>")
        return "\n".join([*lines, "</table>"])


@torch.no_grad()
def recommend(
    model: Any,
    catalogue: HeadCatalogue,
    histories: Sequence[Sequence[str]],
    k: int,
    exclude_seen: bool,
    candidates: Sequence[str] | None,
    on_unknown: str,
) -> list[Recommendation]:
    """Rank a head's catalogue (or `candidates` of it) after each history; see `SequentialRecommender.recommend`."""
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}.")
    if isinstance(histories, str):
        raise ValueError(f"`histories` must be a list of lists of item ids, got the text {histories!r}.")
    rows, unknown = [], []
    for history in histories:
        known, n_unknown = catalogue.look_up(history, on_unknown)
        rows.append(known)
        unknown.append(n_unknown)
    allowed = None
    if candidates is not None:
        chosen, _ = catalogue.look_up(candidates, on_unknown, "candidates")
        allowed = torch.tensor(sorted(set(chosen)), dtype=torch.int64)
    recommendations: list[Recommendation | None] = [None] * len(rows)
    popular = catalogue.popularity.double()
    for i in (i for i, row in enumerate(rows) if not row):
        places, scores = _best(popular[None], [[]], k, exclude_seen, allowed)[0]
        recommendations[i] = _named(catalogue, places, scores, "popularity", unknown[i])
    known_rows = [i for i, row in enumerate(rows) if row]
    at_once = max(1, min(1024, SCORES_AT_ONCE // max(len(catalogue), 1)))
    items = _scored(model.item_vectors(), "`model`", catalogue.ids) if known_rows else popular
    for start in range(0, len(known_rows), at_once):
        part = known_rows[start : start + at_once]
        users = _scored(model.encode_histories([rows[i] for i in part]), "`histories`", part)
        with torch.autocast(users.device.type, enabled=False):
            scores_of_all = (users @ items.T)[: len(part), : len(catalogue)].cpu()
        best = _best(scores_of_all, [rows[i] for i in part], k, exclude_seen, allowed)
        for i, (places, scores) in zip(part, best, strict=True):
            recommendations[i] = _named(catalogue, places, scores, "model", unknown[i])
    return [one for one in recommendations if one is not None]


def _scored(vectors: Tensor, argument: str, names: Sequence[Any]) -> Tensor:
    """Vectors as evaluation compares them, in float32 whatever the weights are, filled up with zeros to 64 rows.

    The product then has no ragged edge, where another rounding would keep equal items from tying. NaN is refused.
    """
    bad = (~torch.isfinite(vectors).all(dim=1)).nonzero()[:, 0].tolist()
    if bad:
        raise ValueError(
            f"{argument} gives {len(bad)} vectors with NaN or infinite values, first that of {names[bad[0]]!r}; the "
            "weights are damaged, or too large for their type."
        )
    return nn.functional.pad(vectors.float(), (0, 0, 0, -len(vectors) % 64))


def _best(
    scores: Tensor, seen: Sequence[Sequence[int]], k: int, exclude_seen: bool, allowed: Tensor | None
) -> list[tuple[list[int], list[float]]]:
    """Places and scores of the best items per row; equal scores by lower place."""
    scores = scores.clone()
    if exclude_seen:
        row = torch.tensor([i for i, items in enumerate(seen) for _ in items], dtype=torch.int64)
        column = torch.tensor([item for items in seen for item in items], dtype=torch.int64)
        scores[row, column] = -torch.inf
    if allowed is not None:
        scores = scores[:, allowed]
    width = min(k, scores.shape[1])
    best: list[tuple[list[int], list[float]]] = []
    for values in scores:
        if width == 0:
            best.append(([], []))
            continue
        # `topk` picks arbitrarily among equal scores; of those at the border the lowest places are taken.
        border = values.topk(width).values[-1]
        above, at = (values > border).nonzero()[:, 0], (values == border).nonzero()[:, 0]
        columns = torch.cat([above, at[: width - len(above)]]).sort().values
        columns = columns[torch.sort(values[columns], descending=True, stable=True).indices]
        columns = columns[values[columns] > -torch.inf]
        places = columns if allowed is None else allowed[columns]
        best.append((places.tolist(), values[columns].tolist()))
    return best


def _named(
    catalogue: HeadCatalogue, places: list[int], scores: list[float], source: str, n_unknown: int
) -> Recommendation:
    return Recommendation(
        [catalogue.ids[place] for place in places],
        [float(score) for score in scores],
        [catalogue.titles[place] for place in places],
        source,
        n_unknown,
    )
