"""`vlm2rec embed`: write the vectors of a dataset's items, in shards that outlive a kill."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from .arguments import DataArguments, EmbedArguments, ModelArguments
from .common import load_embedder, model_version, open_dataset, parse, require

if TYPE_CHECKING:
    from ..jobs.embed import Embedded, Engine


def main(argv: Sequence[str]) -> None:
    """Run the command.

    The table has one row per item: `item_id`, `both`, `text`, `image` (float32 lists; zeros where absent), `has_text`,
    `has_image`; the file's schema metadata holds the dataset's fingerprint and where the model came from. A run that
    was stopped goes on when it is started again.
    """
    from ..jobs.embed import run_embed_job
    from ..jobs.job import EmbedJob

    data, models, options = parse("embed", __doc__ or "", (DataArguments, ModelArguments, EmbedArguments), argv)
    output = Path(require(options.output, "--output", "a FILE.parquet to write, or a folder")).absolute()
    name = require(models.model or "", "--model", "a folder or Hub id of an embedder")
    part = options.part(os.environ)
    version = model_version(name, models.model_revision)
    job = EmbedJob(
        output=output,
        # Workers may run in another folder, or when a branch of the Hub has moved on.
        open_dataset=partial(open_dataset, replace(data, dataset=_absolute(data.dataset))),
        load_model=partial(
            load_embedder, replace(models, model=_absolute(name), model_revision=_pinned(models, version))
        ),
        model=name,
        revision=version,
        shard_size=options.shard_size,
        batch_size=options.embed_batch_size,
        torch_threads=options.torch_threads,
    )
    found = run_embed_job(job, _engine(options), part=part)
    _tell(found, part, options.output)


def _engine(options: EmbedArguments) -> Engine:
    """Who does the shards."""
    if options.engine == "ray":
        from ..jobs.ray_embed import run_ray

        return partial(run_ray, count=options.num_processes)
    from ..jobs.run_local import run_here, run_processes

    # Processes that a launcher started on one machine get the accelerators in turn.
    first = int(os.environ.get("LOCAL_RANK", 0)) * options.num_processes
    if options.num_processes == 1:
        return partial(run_here, device=first)
    return partial(run_processes, count=options.num_processes, device=first)


def _absolute(name: str) -> str:
    """A local path as seen from any folder; a Hub id as it is."""
    return str(Path(name).absolute()) if name and Path(name).exists() else name


def _pinned(models: ModelArguments, version: str) -> str | None:
    """The commit of a Hub model, so that all workers load the same."""
    return models.model_revision if Path(str(models.model)).exists() else version or models.model_revision


def _tell(found: Embedded, part: tuple[int, int], output: str) -> None:
    """Say what there is now."""
    if found.missing:
        print(
            f"part {part[0]} of {part[1]} is done; {found.missing} of {found.shards} shards are still missing: run "
            "the other parts, or this command again, and the table is put together."
        )
        return
    print(f"{found.items:,} items x {found.dimensions} dimensions -> {output}")
    if found.quarantined:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.quarantined.items()))
        print(f"bad rows kept aside: {counts} -> {found.quarantine}")
