"""What runs share, made once and kept on disk: the prepared data set, the embedder they start from, image features."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_folder
from ..processes import Claims
from .runs import Run, read_json, write_json
from .study_file import DEMO_SHOP, Study, StudyData, StudyStart, one_of

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..catalogues.vision_cache import VisionCache
    from ..data.dataset import RecDataset
    from ..loading import LoadedModel

DATA_FILE, DATASET_FOLDER = "data.json", "dataset"
START_FILE = "start.json"


def claims_of(study: Study) -> Claims:
    """The claims of all processes that work on a study."""
    folder = study.output / "claims"
    folder.mkdir(parents=True, exist_ok=True)
    return Claims(folder)


def shared_folder(study: Study, data: StudyData) -> Path:
    """Where what the runs on a data set share lies."""
    return study.output / "shared" / data.name


def vision_folder(study: Study) -> Path:
    """Where image features are kept, by vision tower."""
    return study.output / "shared" / "vision"


def open_data(data: StudyData) -> RecDataset:
    """Read, filter and split a data set as the study says; a split it already has is kept.

    Raises:
        ValueError: nothing readable there, or filters of data that is split already.
    """
    from ..data.demo_shop import make_demo_shop
    from ..data.readers import load_recsys

    if data.source == DEMO_SHOP:
        dataset = make_demo_shop(**data.shop).dataset()
    else:
        dataset = load_recsys(data.source, **data.reading)
    if data.k_core:
        dataset = dataset.k_core(data.k_core)
    if dataset.split_spec["kind"] == "none":
        if data.split == "leave_one_out":
            dataset = dataset.leave_one_out()
        else:
            first, second = data.split
            dataset = dataset.temporal_split(quantiles=(float(first), float(second)))
    return dataset.hold_out_cold_items(data.cold_items) if data.cold_items else dataset


def shared_dataset(study: Study, data: StudyData) -> RecDataset:
    """The prepared data set; made by whoever comes first.

    Raises:
        ValueError: it was prepared otherwise before.
    """
    from ..data.dataset import RecDataset

    folder = shared_folder(study, data)
    wanted = json.loads(json.dumps(data.tables()))
    with _only_one(study, f"data.{data.name}"):
        if not (folder / DATASET_FOLDER).is_dir():
            dataset = open_data(data)
            write_json(folder / DATA_FILE, {"made_by": wanted, "fingerprint": dataset.fingerprint})
            dataset.save(folder / DATASET_FOLDER)
    made_by = read_json(folder / DATA_FILE)["made_by"]
    if made_by != wanted:
        raise ValueError(
            f"`data` {data.name!r} was prepared with {made_by}, and the study says {wanted} now; give it a new name, "
            f"or move {folder} and the runs on it away."
        )
    return RecDataset.load(folder / DATASET_FOLDER)


def shared_start(run: Run, dataset: RecDataset) -> LoadedModel:
    """The embedder that a run starts from, as its fusion wants it; made by whoever comes first.

    Tiny embedders and warmed-up ones are kept; a model that is used as it is is loaded from where it lies.

    Raises:
        ValueError: nothing loadable, or a fusion that the start does not have.
    """
    from ..loading import load_with_processor

    start = run.start
    assert start is not None
    processor = processor_options(run)
    if start.model is not None and not start.warm_up:
        loaded = _given_model(start, start.seed_of(run.seed), processor)
    else:
        folder = start_folder(run, dataset)
        with _only_one(run.study, f"start.{folder.name}"):
            if not folder.is_dir():
                _make_start(start, start.seed_of(run.seed), processor, dataset, folder)
        loaded = load_with_processor(folder)
    if run.method.fusion != loaded.model.config.fusion:
        loaded.model.config.fusion = loaded.processor.fusion = run.method.fusion
    return loaded


def processor_options(run: Run) -> dict[str, Any]:
    """Options of the processor of a run's start: the start's, over them the data set's.

    Raises:
        ValueError: one that a processor does not have, or that a method decides (`fusion`).
    """
    from ..loading import processor_option_names

    options = {} if run.start is None else {**run.start.processor, **run.data.processor}
    for name in options:
        one_of("processor", name, [known for known in processor_option_names() if known != "fusion"])
    return options


def start_folder(run: Run, dataset: RecDataset) -> Path:
    """Where the start of a run is kept: named by what decides it."""
    start = run.start
    assert start is not None
    decides: dict[str, Any] = {**asdict(start), "seed": start.seed_of(run.seed), "dataset": dataset.fingerprint}
    decides["processor"] = processor_options(run)
    del decides["lora"]
    digest = hashlib.sha256(json.dumps(decides, sort_keys=True, default=str).encode()).hexdigest()[:12]
    return shared_folder(run.study, run.data) / f"start-{digest}"


def shared_features(run: Run, loaded: LoadedModel, catalogue: PreparedCatalogue) -> None:
    """Give a catalogue the features of its images; they pass the tower once for all runs."""
    with _only_one(run.study, f"vision.{run.data.name}"):
        catalogue.cache_features(loaded.model, vision_cache(run.study))


def vision_cache(study: Study) -> VisionCache:
    """The features of images that all runs share."""
    from ..catalogues.vision_cache import VisionCache

    return VisionCache(vision_folder(study))


def _given_model(start: StudyStart, seed: int, processor: dict[str, Any]) -> LoadedModel:
    from ..loading import load_or_build, load_parts

    if start.language_model is not None:
        parts = {**start.parts, **start.loading}
        loaded = load_parts(start.language_model, revision=start.revision, seed=seed, **parts)
    else:
        loaded = load_or_build(str(start.model), "vlm2rec", revision=start.revision, **start.loading)
    for name, value in processor.items():
        setattr(loaded.processor, name, value)
    return loaded


def _make_start(start: StudyStart, seed: int, processor: dict[str, Any], dataset: RecDataset, folder: Path) -> None:
    """Build or load an embedder, warm it up, and save it as `folder`."""
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..quiet import quiet_libraries
    from ..tiny.backbones import tiny_vlm
    from ..trainers.warm_up import captions_of, warm_up_backbone

    began, log = time.perf_counter(), []
    if start.tiny is not None:
        texts = [text for text in dataset.item_texts() if text]
        model, layout = tiny_vlm(start.tiny, texts, seed=seed, processor_options=processor, **start.options)
    else:
        loaded = _given_model(start, seed, processor)
        model, layout = loaded.model, loaded.processor
    if start.warm_up:
        catalogue = PreparedCatalogue(dataset.catalogue_items(), layout)
        log = warm_up_backbone(model, catalogue, captions_of(dataset), seed=seed, **start.warm_up)
    with whole_folder(folder) as partial, quiet_libraries():
        model.save_pretrained(partial)
        layout.save_pretrained(partial)
        seconds = round(time.perf_counter() - began, 1)
        write_json(partial / START_FILE, {"start": asdict(start), "seed": seed, "seconds": seconds, "warm_up": log})


@contextmanager
def _only_one(study: Study, name: str) -> Iterator[None]:
    """One process of the study at a time; the others wait."""
    with claims_of(study).wait(name):
        yield
