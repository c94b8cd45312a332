"""A study that takes seconds: an embedder and a head over its vectors, two seeds, on a small demo shop."""

import copy
import json

import pyarrow.parquet as pq

from vlm2rec_hf.files import sha256
from vlm2rec_hf.studies.study_file import parse_study

CONTENT = {
    "name": "small",
    "data": [
        {
            "name": "shop",
            "source": "demo-shop",
            "max_users": 30,
            "shop": {"n_items": 60, "n_users": 40, "history": 6, "missing_images": 0.2},
        }
    ],
    "start": {
        "tiny": "qwen2_vl",
        "options": {
            "hidden_size": 16, "vision_hidden_size": 16, "layers": 1, "vision_layers": 1, "heads": 2,
            "image_size": 28, "vocab_size": 300,
        },
        "processor": {"max_history": 3},
    },
    "training": {
        "max_steps": 4, "eval_steps": 2, "save_steps": 2, "logging_steps": 1, "per_device_train_batch_size": 8,
        "learning_rate": 1e-2, "use_cpu": True,
    },
    "heads": {"num_train_epochs": 2, "use_cpu": True, "hidden_size": 8},
    "methods": [
        {"name": "sft", "objective": "sft"},
        {"name": "head", "kind": "head", "embedder": "sft", "views": "text,image"},
    ],
    "seeds": [0, 1],
    "tests": [["head", "sft"], ["sft", "transitions"], {"a": "sft", "b": "transitions", "without": "text"}],
}  # fmt: skip
TIMED = ("second", "runtime", "data_wait", "train_loss")
"""What differs from attempt to attempt; `train_loss` is the library's mean over the steps of the last one."""


def small_study(output, **changes):
    tests = {"tests": []} if changes.keys() & {"methods", "data"} else {}
    return parse_study({**copy.deepcopy(CONTENT), **tests, **changes}, output)


def facts_of(run):
    """All that a finished run says, without times."""
    report, folder = json.loads((run.folder / "report" / "report.json").read_text()), run.folder
    for name in ("seconds", "model", "embedder"):  # places among them
        report["facts"].pop(name, None)
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    log = [{name: value for name, value in line.items() if not any(word in name for word in TIMED)} for line in lines]
    result = json.loads((folder / "result.json").read_text())
    return {
        "files": sorted(path.name for path in folder.iterdir()),
        "config": (folder / "config.yaml").read_text(),
        "log": log,
        "result": {name: value for name, value in without_times(result).items() if name != "code"},
        "report": {name: value for name, value in report.items() if name != "per_user"},
        "ranks": pq.read_table(folder / "report" / "per_user.parquet").to_pydict(),
        "weights": sha256(folder / "model" / "model.safetensors"),
    }


def without_times(result):
    validation = {name: value for name, value in result["validation"].items() if name != "runtime"}
    return {**result, "validation": validation, "seconds": sorted(result["seconds"])}
