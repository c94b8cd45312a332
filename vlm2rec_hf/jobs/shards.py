"""How a catalogue is cut into shards, and where the shards of a job lie.

FOLDER/manifest.json                         settings; at the end also the list of shards and `complete`
FOLDER/shards/00003-of-00016.parquet         vectors; a shard is done when this file is there
FOLDER/quarantine/00003-of-00016.parquet     the shard's bad rows, where it has any
FOLDER/.claims/00003-of-00016.lock           who works on it
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from ..processes import Claims

NAMES = {"manifest.json", "shards", "quarantine", ".claims"}


def default_shard_size(n_items: int) -> int:
    """About 32 shards of 64 to 1,024 items (our choice): little is lost by a kill, and batches still fill."""
    return max(64, min(1024, -(-n_items // 32)))


@dataclass(frozen=True)
class ShardPlan:
    """Consecutive shards of equal size; the last one may be smaller.

    Attributes:
        n_items: size of the catalogue.
        shard_size: items per shard.
    """

    n_items: int
    shard_size: int

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"`--shard_size` must be at least 1, got {self.shard_size}.")
        if self.n_items < 1:
            raise ValueError("`--dataset` has no items, so there is nothing to embed.")

    def __len__(self) -> int:
        return -(-self.n_items // self.shard_size)

    def rows(self, shard: int) -> range:
        """Places in the catalogue."""
        return range(shard * self.shard_size, min((shard + 1) * self.shard_size, self.n_items))

    def name(self, shard: int) -> str:
        """`00003-of-00016`."""
        return f"{shard:05d}-of-{len(self):05d}"

    def part(self, index: int, count: int) -> list[int]:
        """Every `count`-th shard, starting with `index`."""
        return list(range(index, len(self), count))


class ShardFolder:
    """The files of one job.

    Args:
        path: its folder; made by `make`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.manifest = path / "manifest.json"
        self.claims = Claims(path / ".claims")

    def make(self) -> None:
        """Make the folders of shards and bad rows."""
        for name in ("shards", "quarantine"):
            (self.path / name).mkdir(exist_ok=True)

    def shard(self, plan: ShardPlan, shard: int) -> Path:
        """Where a shard's vectors lie."""
        return self.path / "shards" / f"{plan.name(shard)}.parquet"

    def quarantine(self, plan: ShardPlan, shard: int) -> Path:
        """Where a shard's bad rows lie."""
        return self.path / "quarantine" / f"{plan.name(shard)}.parquet"

    def is_done(self, plan: ShardPlan, shard: int, job: str) -> bool:
        """Whether a shard is there, whole and of this job; a shard that is there but not whole is computed again."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.shard(plan, shard)
        try:
            with pq.ParquetFile(path) as file:
                facts = file.schema_arrow.metadata or {}
                problem = None if file.metadata.num_rows == len(plan.rows(shard)) else "has another number of rows"
        except FileNotFoundError:
            return False
        except (pa.ArrowInvalid, OSError) as error:
            problem, facts = f"cannot be read ({error})", {}
        if problem is None and facts.get(b"job", b"").decode() != job:
            problem = "belongs to another job"
        if problem is not None:
            warnings.warn(f"{path} {problem}; this shard is computed again.", stacklevel=2)
        return problem is None

    def missing(self, plan: ShardPlan, job: str, shards: list[int] | None = None) -> list[int]:
        """The shards (of these, or of all) that are not done."""
        return [
            shard for shard in (range(len(plan)) if shards is None else shards) if not self.is_done(plan, shard, job)
        ]
