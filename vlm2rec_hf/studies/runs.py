"""The runs of a study: their order, folders, configurations, and what is done of them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..files import whole_file
from .study_file import HEAD_OPTIONS, START, Method, Study, StudyData, StudyStart, one_of

CONFIG_FILE = "config.yaml"
RESULT_FILE = "result.json"
TRAINED_FILE = "trained.json"
ERROR_FILE = "error.txt"
MODEL_FOLDER = "model"
REPORT_FOLDER = "report"


@dataclass(frozen=True)
class Run:
    """One method on one data set with one seed.

    Args:
        study: the study.
        data: one of its data sets.
        method: one of its methods.
        seed: one of its seeds.
    """

    study: Study
    data: StudyData
    method: Method
    seed: int

    @property
    def key(self) -> str:
        """`DATA/METHOD/seed-N`."""
        return f"{self.data.name}/{self.method.name}/seed-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where everything of it lies."""
        return self.study.output / self.data.name / self.method.name / f"seed-{self.seed}"

    @property
    def is_done(self) -> bool:
        """Whether its last file is there."""
        return (self.folder / RESULT_FILE).is_file()

    @property
    def start(self) -> StudyStart | None:
        """What its embedder starts from."""
        return self.method.start or self.study.start

    @property
    def arguments(self) -> dict[str, Any]:
        """The training arguments that were named: the study's, over them the data set's, over them its own."""
        if self.method.kind == "head":
            common = {name: value for name, value in self.study.heads.items() if name not in HEAD_OPTIONS}
        else:
            common = {**self.study.training, **self.data.training}
        return {**common, **self.method.arguments}

    @property
    def head_options(self) -> dict[str, Any]:
        """Options of `SeqRecConfig` that were named: those of all heads, over them its own."""
        common = {name: value for name, value in self.study.heads.items() if name in HEAD_OPTIONS}
        return {**common, **self.method.head}

    def needs(self) -> Run | None:
        """The run whose item vectors it reads."""
        if self.method.embedder in (None, START):
            return None
        method = self.study.method(str(self.method.embedder))
        seed = self.seed if not is_seedless(self.study, method) else _seeds_of(self.study, self.data)[0]
        return Run(self.study, self.data, method, seed)

    def config(self, fingerprint: str | None = None) -> dict[str, Any]:
        """What decides its result, as plain data.

        Args:
            fingerprint: of the prepared data set.
        """
        method = {name: value for name, value in asdict(self.method).items() if name not in ("arguments", "start")}
        data = {**self.data.tables(), "name": self.data.name, "max_users": self.data.max_users}
        config: dict[str, Any] = {"data": data, "method": {k: v for k, v in method.items() if v or v is False}}
        if self.start is not None and (self.method.kind != "head" or self.method.embedder == START):
            start = asdict(self.start)
            # No adapters, and adapters with nothing but defaults, are two things.
            config["start"] = {k: v for k, v in start.items() if v or v == 0 or (k == "lora" and v is not None)}
            config["start"]["processor"] = {**self.start.processor, **self.data.processor}
        if self.method.kind != "zero_shot":
            config["training"] = self.arguments
        if self.method.kind == "head":
            config["method"]["head"] = self.head_options
        if self.study.evaluation:
            config["evaluation"] = self.study.evaluation
        config |= {"seed": self.seed, **({} if fingerprint is None else {"fingerprint": fingerprint})}
        needed = self.needs()
        if needed is not None:
            config["reads"] = {name: value for name, value in needed.config().items() if name != "evaluation"}
        return dict(json.loads(json.dumps(config)))


def runs_of(study: Study, only: Sequence[str] | None = None) -> list[Run]:
    """All runs of a study in the order in which they are begun: by seed, then by data set, then by method.

    Args:
        study: the study.
        only: these methods alone; those whose vectors they read come along.

    Raises:
        ValueError: an unknown method.
    """
    wanted = {method.name for method in study.methods} if only is None else set(only)
    for name in wanted:
        one_of("only", name, [method.name for method in study.methods])
    wanted |= {str(study.method(name).embedder) for name in wanted}
    made = []
    seeds = dict.fromkeys(seed for data in study.data for seed in _seeds_of(study, data))
    for seed in sorted(seeds, key=list(seeds).index):
        for data in study.data:
            for method in study.methods:
                mine = _seeds_of(study, data)
                mine = mine[:1] if is_seedless(study, method) else mine
                if seed in mine and method.name in wanted and method.name in _methods_of(study, data):
                    made.append(Run(study, data, method, seed))
    return made


def is_seedless(study: Study, method: Method) -> bool:
    """Whether a method is the same with every seed, so that one run is enough."""
    start = method.start or study.start
    return method.kind == "zero_shot" and start is not None and start.seed != "each"


def check_configs(runs: Iterable[Run]) -> None:
    """Hold the runs that were begun against what the study's file says now.

    Raises:
        ValueError: one of them was begun with another configuration.
    """
    for run in runs:
        check_config(run)


def check_config(run: Run, fingerprint: str | None = None) -> None:
    """Hold a run that was begun against what the study's file says now.

    Args:
        run: begun or not.
        fingerprint: of the prepared data set, where it is known.

    Raises:
        ValueError: it was begun with another configuration.
    """
    path = run.folder / CONFIG_FILE
    if not path.is_file():
        return
    import yaml

    earlier, now = yaml.safe_load(path.read_text(encoding="utf-8")), run.config(fingerprint)
    if fingerprint is None:
        earlier.pop("fingerprint", None)
    if not (run.folder / REPORT_FOLDER / "report.json").is_file():  # nothing was evaluated by it yet
        earlier.pop("evaluation", None)
        now.pop("evaluation", None)
    changes = list(_changes(earlier, now))
    if changes:
        what = "done" if run.is_done else "begun"
        raise ValueError(
            f"`methods`: the run {run.key} was {what} with another configuration ({'; '.join(changes[:4])}). Give the "
            f"changed method or data set a new name, name another `output`, or move {run.folder} away."
        )


def write_config(run: Run, fingerprint: str) -> None:
    """Write a run's configuration, unless it is there; what it says of the evaluation may change until there is one.

    Raises:
        ValueError: it was begun with another one.
    """
    import yaml

    check_config(run, fingerprint)
    path, config = run.folder / CONFIG_FILE, run.config(fingerprint)
    if not path.is_file() or yaml.safe_load(path.read_text(encoding="utf-8")) != config:
        with whole_file(path) as partial:
            text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
            partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of a run's folder."""
    return dict(json.loads(path.read_text(encoding="utf-8")))


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_text(json.dumps(values, indent=1, default=str) + "\n", encoding="utf-8")


def _changes(earlier: Any, now: Any, place: str = "") -> Iterable[str]:
    if isinstance(earlier, dict) and isinstance(now, dict):
        for key in [*earlier, *(key for key in now if key not in earlier)]:
            yield from _changes(earlier.get(key), now.get(key), f"{place}.{key}".lstrip("."))
    elif earlier != now:
        yield f"{place}: {earlier!r} then, {now!r} now"


def _seeds_of(study: Study, data: StudyData) -> tuple[int, ...]:
    return data.seeds or study.seeds


def _methods_of(study: Study, data: StudyData) -> tuple[str, ...]:
    if data.methods is None:
        return tuple(method.name for method in study.methods)
    return (*data.methods, *(str(study.method(name).embedder) for name in data.methods))
