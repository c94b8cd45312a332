"""`vlm2rec study`: methods x seeds x data as one YAML file says; trained, tested, and put into tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from .common import named_as_options, say
from .opening import with_first_word
from .parsing import parse
from .places import check_folder


@dataclass
class StudyArguments:
    """Which study, and how much of it now."""

    _argument_group_name = "study"

    study: str = field(
        default="", metadata={"help": "The study's file; may stand without its name, as the first word."}
    )
    output: str | None = field(
        default=None, metadata={"help": "Folder of all it makes; by default the file's, else runs/studies/NAME."}
    )
    only: list[str] | None = field(default=None, metadata={"help": "These methods alone, and those they need."})
    processes: int = field(default=1, metadata={"help": "Processes started here; other machines may start more."})
    threads: int = field(default=1, metadata={"help": "Threads of each process."})
    max_hours: float | None = field(
        default=None, metadata={"help": "Then nothing is begun, and training ends at its next checkpoint."}
    )
    dry_run: bool = field(default=False, metadata={"help": "Show the runs and their estimated time, and do nothing."})
    tables: bool = field(default=False, metadata={"help": "Make tables, tests and plots of what is done."})


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    (options,) = parse(
        "study", __doc__ or "", (StudyArguments,), with_first_word(argv, "--study"), "FILE.yaml [options]"
    )
    from ..studies.study_file import read_study

    if not options.study:
        raise ValueError("`--study` is required: the study's YAML file, as in `vlm2rec study studies/demo_shop.yaml`.")
    with named_as_options(study="--study", only="--only"):
        study = read_study(options.study, options.output)
        check_folder(study.output)
        if options.dry_run:
            from ..studies.outlook import outlook

            print(outlook(study, options.only))
        elif options.tables:
            from ..studies.tables import write_tables

            print(write_tables(study).read_text(encoding="utf-8"))
        else:
            from ..studies.work import run_study

            left = run_study(
                study,
                only=options.only,
                processes=options.processes,
                threads=options.threads,
                max_hours=options.max_hours,
            )
            state = f"{len(left)} runs are still open" if left else "all runs are done"
            say(f"{study.name}: {state}. Next: vlm2rec study {options.study} {'' if left else '--tables'}".rstrip())
