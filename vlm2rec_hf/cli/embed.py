"""`vlm2rec embed`: write the vectors of a dataset's items; an embedder's in shards that outlive a kill."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .arguments import DataArguments, EncoderModelArguments, check_at_least, given_options
from .common import item_ids, named_as_options, open_dataset, refuse_for_trained, refuse_given, require, say
from .evaluate import load
from .parsing import check_options_early, parse
from .places import check_new

if TYPE_CHECKING:
    from ..jobs.embed import Embedded, Engine


@dataclass
class EmbedArguments:
    """Where the vectors go, and who computes them."""

    _argument_group_name = "output"

    output: str = field(
        default="", metadata={"help": "FILE.parquet to write, or a folder that is to hold shards and manifest."}
    )
    embed_batch_size: int = field(default=64, metadata={"help": "Items per forward pass."})
    shard_size: int | None = field(
        default=None,
        metadata={"help": "Items per shard, the unit that a killed run loses; chosen by size by default."},
    )
    num_processes: int = field(default=1, metadata={"help": "Processes of this machine, each with its own model."})
    torch_threads: int | None = field(
        default=None, metadata={"help": "Threads of each process; by default 1 where there are several."}
    )
    shard: str | None = field(
        default=None,
        metadata={"help": "I/N: do part I of N parts, from 0; by default RANK and WORLD_SIZE of the environment."},
    )
    update: str | None = field(
        default=None,
        metadata={"help": "What this command wrote for an earlier state of the dataset: only what is new or has "
                          "changed since is encoded."},
    )  # fmt: skip
    item_columns: str | None = field(
        default=None, metadata={"help": "Of PixRec: item columns, such as title,brand; as in training by default."}
    )
    engine: str = field(default="local", metadata={"help": "local, or ray (a Ray Data job; needs the extra `ray`)."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "embed_batch_size", "shard_size", "num_processes", "torch_threads")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"`--engine` must be local or ray, got {self.engine!r}.")

    def part(self, environment: Mapping[str, str]) -> tuple[int, int]:
        """Which part of how many this run does: as `--shard` says, else as a launcher's `RANK` and `WORLD_SIZE` do.

        Raises:
            ValueError: no such part.
        """
        text, source = self.shard, "`--shard`"
        if text is None:
            size = environment.get("WORLD_SIZE", "1")
            text, source = f"{environment.get('RANK', '0') if size != '1' else '0'}/{size}", "`RANK`/`WORLD_SIZE`"
        try:
            index, count = (int(number) for number in text.split("/"))
        except ValueError:
            index, count = 0, 0
        if not 0 <= index < count:
            raise ValueError(f"{source} must be I/N with 0 <= I < N, such as 0/4 for the first of four; got {text!r}.")
        return index, count


def main(argv: Sequence[str]) -> None:
    """Run the command.

    The table has one row per item: `item_id` and the vectors as float32 lists (zeros where absent): `both`, of
    embedders also `text` and `image`, with `has_text` and `has_image`. The file's schema metadata holds the dataset's
    fingerprint and where the model came from. An embedder's run that was stopped goes on when it is started again.
    """
    types = (DataArguments, EncoderModelArguments, EmbedArguments)
    check_options_early(argv, types)
    data, models, options = parse(
        "embed", __doc__ or "", types, argv, "--dataset DATA --model MODEL --output FILE.parquet"
    )
    output = Path(require(options.output, "--output", "a FILE.parquet to write, or a folder")).absolute()
    name = require(models.model, "--model", "a folder or Hub id of a model")
    from ..loading import METHODS, model_type_of

    kind = model_type_of(name, models.model_revision)
    refuse_for_trained(kind, models)  # before workers load anything
    if kind in METHODS and kind != "vlm2rec":
        embed_at_once(str(kind), data, models, options, output)
    else:
        embed_in_shards(data, models, options, output, name)


def embed_at_once(
    kind: str, data: DataArguments, models: EncoderModelArguments, options: EmbedArguments, output: Path
) -> None:
    """Write the vectors of a head or PixRec model, which are made in one go.

    Raises:
        ValueError: options of sharded runs, or an output that exists.
    """
    from ..evaluation.embedding import embed

    of_shards = [name for name in given_options(options) if name not in ("output", "embed_batch_size", "item_columns")]
    refuse_given(kind, ("vlm2rec",), "embedders", of_shards)
    if options.item_columns:  # before anything is loaded
        refuse_given(kind, ("pixrec",), "PixRec models", ["item_columns"])
    check_new(output, what="file", ending=".parquet")
    dataset = open_dataset(data) if data.dataset else None
    names = {"where": "--model", "model": "--model", "dataset": "--dataset", "path": "--output"}
    with named_as_options(**names):
        vectors = embed(
            load(models),
            dataset,
            item_columns=item_ids(options.item_columns) if options.item_columns else None,
            batch_size=options.embed_batch_size,
            show_progress=True,
        )
        vectors.save(output)
    print(f"{len(vectors):,} items x {vectors.views['both'].shape[1]} dimensions -> {options.output}")


def embed_in_shards(
    data: DataArguments, models: EncoderModelArguments, options: EmbedArguments, output: Path, name: str
) -> None:
    """Write an embedder's vectors, or a part of them."""
    from ..jobs.earlier import EarlierVectors
    from ..jobs.embed import run_embed_job
    from ..jobs.job import EmbedJob
    from ..loading import model_version

    if options.item_columns:
        raise ValueError("`--item_columns` is an option of PixRec models, and `--model` is an embedder; leave it out.")
    part = options.part(os.environ)
    with named_as_options(where="--model"):
        version = model_version(name, models.model_revision)
    job = EmbedJob(
        output=output,
        # Workers may run in another folder, or when a branch of the Hub has moved on.
        open_dataset=partial(open_dataset, replace(data, dataset=_absolute(data.dataset))),
        load_model=partial(
            _model_and_processor, replace(models, model=_absolute(name), model_revision=_pinned(models, version))
        ),
        model=name,
        revision=version,
        shard_size=options.shard_size,
        batch_size=options.embed_batch_size,
        torch_threads=options.torch_threads,
        update=None if options.update is None else Path(options.update).absolute(),
    )
    done = run_embed_job(job, _engine(options), part=part)
    _tell(done, part, options.output)
    if job.update is not None and not done.missing:
        kept = len(EarlierVectors(job.update).place.keys() & EarlierVectors(output).place.keys())
        say(f"{kept:,} items were as in {options.update}; {done.items - kept:,} were encoded.")


def _model_and_processor(models: EncoderModelArguments) -> tuple[Any, Any]:
    """An embedder and its processor; called in every worker."""
    loaded = load(models)
    return loaded.model, loaded.processor


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


def _pinned(models: EncoderModelArguments, version: str) -> str | None:
    """The commit of a Hub model, so that all workers load the same."""
    return models.model_revision if Path(str(models.model)).exists() else version or models.model_revision


def _tell(done: Embedded, part: tuple[int, int], output: str) -> None:
    """Say what there is now."""
    if done.missing:
        print(
            f"part {part[0]} of {part[1]} is done; {done.missing} of {done.shards} shards are still missing: run "
            "the other parts, or this command again, and the table is put together."
        )
        return
    print(f"{done.items:,} items x {done.dimensions} dimensions -> {output}")
    if done.quarantined:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.quarantined.items()))
        print(f"bad rows kept aside: {counts} -> {done.quarantine}")
