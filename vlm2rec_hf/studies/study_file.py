"""The file of a study: which data, which start, which methods, which seeds, and what is compared."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..columns import SCORED, VIEWS

KINDS = ("embedder", "zero_shot", "head")
DEMO_SHOP = "demo-shop"
START = "start"
"""In the place of a method's name: the vectors of the embedder that all methods start from."""
SHOWN_NAMES = 20
"""Names that an error lists at most."""
RESERVED = ("shared", "tables", "claims")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.+-]*")
HEAD_OPTIONS = ("encoder", "hidden_size", "num_layers", "num_heads", "max_length", "dropout")
"""Options of `SeqRecConfig` that a study sets."""


@dataclass(frozen=True)
class StudyData:
    """One data set of a study.

    Args:
        name: of its folder and in tables.
        source: folder or Hub id, or `demo-shop`.
        shop: of a demo shop: options of `DemoShopConfig`.
        reading: options of `load_recsys` (`format`, `revision`, `column_mapping`, ...).
        k_core: users and items with at least this many interactions; 0: all.
        split: `leave_one_out`, or the shares of a temporal split, such as `[0.8, 0.9]`; for data without a split.
        cold_items: share of items that are held out of training as new ones.
        max_users: users that are ranked in the end, evenly spread; all by default.
        processor: options of the processor that differ from the start's.
        training: arguments that differ from the study's.
        methods: names of the methods to run here; all by default.
        seeds: here; the study's by default.
    """

    name: str
    source: str
    shop: dict[str, Any] = field(default_factory=dict)
    reading: dict[str, Any] = field(default_factory=dict)
    k_core: int = 0
    split: Any = "leave_one_out"
    cold_items: float = 0.0
    max_users: int | None = None
    processor: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    methods: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def tables(self) -> dict[str, Any]:
        """What decides the prepared data set."""
        names = ("source", "shop", "reading", "k_core", "split", "cold_items")
        return {name: getattr(self, name) for name in names if getattr(self, name)}


@dataclass(frozen=True)
class StudyStart:
    """How embedders start: a tiny one from config, a saved model or raw backbone, or a language model with features.

    Args:
        tiny: family of `tiny_vlm`.
        options: of `tiny_vlm`, sizes included.
        model: instead: folder or Hub id.
        language_model: instead: folder or Hub id of a causal language model.
        parts: beside it: options of `VLM2RecEmbedder.from_parts` (`feature_size`, or `image_encoder` and the like).
        revision: of a Hub id.
        loading: options of `from_pretrained` (`dtype`, `attn_implementation`).
        processor: options of the processor (`max_history`, `item_instruction`, ...).
        warm_up: options of `warm_up_backbone` (`steps`, `batch_size`, ...); none by default.
        lora: options of the adapters (`r`, `alpha`, `dropout`) that are trained; by default all weights are.
        seed: of weights and warm-up; `each`: that of the run, so that every seed has a start of its own.
    """

    tiny: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    model: str | None = None
    language_model: str | None = None
    parts: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    loading: dict[str, Any] = field(default_factory=dict)
    processor: dict[str, Any] = field(default_factory=dict)
    warm_up: dict[str, Any] = field(default_factory=dict)
    lora: dict[str, Any] | None = None
    seed: Any = 0

    def __post_init__(self) -> None:
        if sum(one is not None for one in (self.tiny, self.model, self.language_model)) != 1:
            raise ValueError(
                "`start` must name exactly one of `tiny` (a family built from config), `model` and `language_model`."
            )
        if self.parts and self.language_model is None:
            raise ValueError(f"`start.parts` {self.parts!r} goes with `start.language_model`.")
        if self.seed != "each" and not isinstance(self.seed, int):
            raise ValueError(f"`start.seed` must be a whole number or 'each', got {self.seed!r}.")
        if self.warm_up and self.lora is not None:
            raise ValueError("`start.warm_up` changes the weights under `start.lora`, which nobody could load then.")

    def seed_of(self, run_seed: int) -> int:
        """Seed of the start of a run."""
        return run_seed if self.seed == "each" else self.seed


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        name: of its folder and in tables.
        kind: `embedder` (trained), `zero_shot` (the start as it is) or `head` (SASRec and its like).
        view: the view that stands for it where one number is compared.
        fusion: of embedders: `external` or `internal`.
        start: in place of the study's.
        arguments: of `VLM2RecTrainingArguments` or `SeqRecTrainingArguments`.
        embedder: of heads: the method whose item vectors it reads, or `start`.
        views: of heads: which of its views, each projected, such as `text,image`.
        item_representation: of heads: `id`, `content` or `content+id`.
        init_ids: of heads: start the id vectors from the item vectors.
        head: of heads: options of `SeqRecConfig`.
    """

    name: str
    kind: str = "embedder"
    view: str = "both"
    fusion: str = "external"
    start: StudyStart | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    embedder: str | None = None
    views: str = "both"
    item_representation: str | None = None
    init_ids: bool = False
    head: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PairedTest:
    """A comparison that the study was made for.

    Args:
        a: a method, or a further row of its report, such as `vlm2rec + ease`.
        b: likewise, or a floor.
        view: the view compared; of a method without it, the one that stands for it. `None`: each method's own.
        metric: such as `ndcg@10`.
        slice: only the examples of this slice.
        without: `text` or `image`: with this modality removed from items and histories at test time.
    """

    a: str
    b: str
    view: str | None = None
    metric: str = "ndcg@10"
    slice: str | None = None
    without: str | None = None


@dataclass(frozen=True)
class Study:
    """A study as its file describes it; see the guide for an example.

    Args:
        name: of the study.
        output: folder of all it makes.
        data: the data sets.
        start: how embedders start.
        methods: in the order of the tables and of the runs.
        seeds: of the runs.
        training: arguments that all embedders share; `max_steps` or `max_seconds` is their common budget.
        heads: arguments that all heads share, options of `SeqRecConfig` among them.
        evaluation: options of `evaluate` for the test reports, such as `mix: ease`.
        tests: comparisons; Holm's correction covers all of them.
    """

    name: str
    output: Path
    data: tuple[StudyData, ...]
    start: StudyStart | None
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    training: dict[str, Any] = field(default_factory=dict)
    heads: dict[str, Any] = field(default_factory=dict)
    evaluation: dict[str, Any] = field(default_factory=dict)
    tests: tuple[PairedTest, ...] = ()

    def method(self, name: str) -> Method:
        """The method of that name."""
        return next(method for method in self.methods if method.name == name)


def read_study(path: str | Path, output: str | Path | None = None) -> Study:
    """Read a study's file.

    Args:
        path: a YAML file.
        output: folder of all it makes; by default what the file says, else `runs/studies/NAME`.

    Raises:
        ValueError: no such file, no YAML, a key that is unknown or missing, or values that contradict each other.
    """
    import yaml

    if not Path(path).is_file():
        raise ValueError(f"`study` {str(path)!r} does not exist; name a YAML file.")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`study` {str(path)!r} is no YAML: {error}") from error
    return parse_study(content, output, default_name=Path(path).stem)


def parse_study(content: Any, output: str | Path | None = None, default_name: str = "study") -> Study:
    """A study from what a file holds; see `read_study`.

    Args:
        content: a mapping.
        output: see `read_study`.
        default_name: where the content has no `name`.

    Raises:
        ValueError: as `read_study`.
    """
    whole = _mapping("the file", content, [one.name for one in fields(Study)])
    name = _name("name", whole.get("name", default_name))
    data = tuple(_data(number, entry) for number, entry in enumerate(_listed("data", whole.get("data"))))
    methods = tuple(_method(number, entry) for number, entry in enumerate(_listed("methods", whole.get("methods"))))
    study = Study(
        name=name,
        output=Path(output or whole.get("output") or Path("runs") / "studies" / name).absolute(),
        data=data,
        start=_start("start", whole.get("start")),
        methods=methods,
        seeds=_seeds("seeds", whole.get("seeds", [0])),
        training=dict(_mapping("training", whole.get("training") or {})),
        heads=dict(_mapping("heads", whole.get("heads") or {})),
        evaluation=dict(_mapping("evaluation", whole.get("evaluation") or {})),
        tests=_tests(whole.get("tests") or [], methods),
    )
    _check(study)
    return study


def _data(number: int, entry: Any) -> StudyData:
    where = f"data[{number}]"
    if isinstance(entry, str):
        entry = {"source": entry}
    values = dict(_mapping(where, entry, [one.name for one in fields(StudyData)]))
    if not values.get("source"):
        raise ValueError(f"`{where}` has no `source`; name a folder, a Hub id or {DEMO_SHOP}.")
    values["source"] = str(values["source"])
    values["name"] = _name(f"{where}.name", values.get("name") or Path(values["source"]).name, reserved=True)
    if values.get("seeds") is not None:
        values["seeds"] = _seeds(f"{where}.seeds", values["seeds"])
    if values.get("methods") is not None:
        values["methods"] = tuple(values["methods"])
    made = StudyData(**values)
    if made.k_core < 0 or not 0 <= made.cold_items < 1 or (made.max_users or 1) < 1:
        raise ValueError(f"`{where}` must have `k_core` >= 0, `cold_items` in [0, 1) and `max_users` >= 1.")
    is_shares = isinstance(made.split, list) and len(made.split) == 2
    if made.split != "leave_one_out" and not is_shares:
        raise ValueError(
            f"`{where}.split` must be leave_one_out or two shares such as [0.8, 0.9]; got {made.split!r}."
        )
    return made


def _start(where: str, entry: Any) -> StudyStart | None:
    return None if entry is None else StudyStart(**_mapping(where, entry, [one.name for one in fields(StudyStart)]))


def _method(number: int, entry: Any) -> Method:
    where = f"methods[{number}]"
    if isinstance(entry, str):
        entry = {"name": entry, "objective": entry}
    values = dict(_mapping(where, entry))
    values["name"] = _name(f"{where}.name", values.get("name"))
    kind = values.get("kind", "embedder")
    if kind not in KINDS:
        raise ValueError(f"`{where}.kind` must be one of {KINDS}, got {kind!r}.")
    own = {one.name for one in fields(Method)} - {"arguments", "head"}
    of_heads = {"embedder", "views", "item_representation", "init_ids"}
    foreign = (of_heads if kind != "head" else {"fusion", "start"}) & set(values)
    if foreign:
        raise ValueError(f"`{where}` is of kind {kind}, which has no {', '.join(sorted(foreign))}.")
    head = {name: values.pop(name) for name in HEAD_OPTIONS if kind == "head" and name in values}
    arguments = {name: values.pop(name) for name in list(values) if name not in own}
    if kind == "zero_shot" and arguments:
        raise ValueError(f"`{where}` is not trained, so it has no {', '.join(arguments)}.")
    if kind == "embedder":
        from ..losses.vlm2rec import DEFAULT_OBJECTIVE

        arguments.setdefault("objective", "sft" if values.get("fusion") == "internal" else DEFAULT_OBJECTIVE)
        only = {"text_only": "text", "image_only": "image"}.get(arguments["objective"])
        values.setdefault("view", only or "both")
    values["start"] = _start(f"{where}.start", values.get("start"))
    return Method(**values, arguments=arguments, head=head)


def _tests(entry: Any, methods: tuple[Method, ...]) -> tuple[PairedTest, ...]:
    """Tests as named: pairs, or every method against a `baseline`."""
    made: list[PairedTest] = []
    for number, one in enumerate(_listed("tests", entry, empty=True)):
        where = f"tests[{number}]"
        if isinstance(one, list):
            one = dict(zip(("a", "b"), one, strict=False))
        names = [part.name for part in fields(PairedTest)]
        values = dict(_mapping(where, one, [*names, "baseline", "methods"]))
        baseline, chosen = values.pop("baseline", None), values.pop("methods", None)
        if baseline is not None:
            chosen = chosen or [method.name for method in methods if method.name != baseline]
            made += [PairedTest(**{**values, "a": name, "b": baseline}) for name in chosen]
        elif "a" in values and "b" in values and chosen is None:
            made.append(PairedTest(**values))
        else:
            raise ValueError(f"`{where}` must name `a` and `b`, or a `baseline` (and `methods`); got {one!r}.")
    return tuple(made)


def _check(study: Study) -> None:
    known = [method.name for method in study.methods]
    for what, names in (("methods", known), ("data", [data.name for data in study.data])):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"`{what}` names {twice!r} twice; its folder holds one.")
    for method in study.methods:
        reads = method.embedder
        if method.kind != "head" or (reads == START and study.start is not None):
            if method.kind != "head" and study.start is None and method.start is None:
                raise ValueError(f"`start` is missing: {method.name!r} is an embedder, which starts from something.")
        elif reads is not None and (reads not in known or study.method(reads).kind == "head"):
            raise ValueError(f"`embedder` of {method.name!r} must be {START!r} or an embedder's name, got {reads!r}.")
    for data in study.data:
        for name in data.methods or ():
            one_of("methods", name, known, f" (of data {data.name!r})")
    from ..evaluation.floors import FLOORS

    mix = study.evaluation.get("mix")
    rows = known + [f"{name} + {mix}" for name in known if mix]
    floors = [*FLOORS, *(["oracle"] if any(data.source == DEMO_SHOP for data in study.data) else [])]
    for test in study.tests:
        for name, there in ((test.a, rows), (test.b, rows + floors)):
            hint = "" if mix or " + " not in name else " (a mix needs `evaluation: {mix: ...}`)"
            one_of("tests", name, there, hint)
        if test.view is not None:
            one_of("tests", test.view, (*VIEWS, SCORED), " as a `view`")
        if test.without not in (None, "text", "image"):
            raise ValueError(f"`tests` has `without` {test.without!r}; it is text or image.")


def one_of(what: str, name: Any, known: Iterable[str], more: str = "") -> None:
    """Refuse a name that is not known.

    Raises:
        ValueError: with the nearest one that is.
    """
    names = list(known)
    if name not in names:
        near = difflib.get_close_matches(str(name), names, 1)
        listed = f"there are {', '.join(names)}." if len(names) <= SHOWN_NAMES else "see its options in the docs."
        hint = f"did you mean {near[0]!r}?" if near else listed
        raise ValueError(f"`{what}` names {name!r}{more}, which is not known; {hint}")


def _mapping(where: str, entry: Any, known: Iterable[str] | None = None) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"`{where}` must hold `key: value` lines, got {type(entry).__name__} {entry!r}.")
    for key in entry if known is not None else ():
        one_of(where, key, known or ())
    return entry


def _listed(where: str, entry: Any, empty: bool = False) -> list[Any]:
    if not isinstance(entry, list) or not (entry or empty):
        raise ValueError(f"`{where}` must be a list with at least one entry, got {entry!r}.")
    return entry


def _name(where: str, name: Any, reserved: bool = False) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or (reserved and name in RESERVED):
        raise ValueError(f"`{where}` must be a name of letters, digits and _ . + - (not {', '.join(RESERVED)}), "
                         f"as it is that of a folder; got {name!r}.")  # fmt: skip
    return name


def _seeds(where: str, entry: Any) -> tuple[int, ...]:
    if not isinstance(entry, list) or not entry or any(type(seed) is not int or seed < 0 for seed in entry):
        raise ValueError(f"`{where}` must be a list of whole numbers, such as [0, 1, 2]; got {entry!r}.")
    return tuple(dict.fromkeys(entry))
