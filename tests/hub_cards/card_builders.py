"""Folders as a trainer leaves them, and ways to take a card apart."""

import json
import re

import numpy as np

from vlm2rec_hf.evaluation.protocol import Protocol

from ..evaluation.report_builders import N, draw_ranks, make_report, ranking

METHOD = "wpcl+crtr"
DATA_PRINT = "0123456789abcdef0123456789abcdef"
BASE_COMMIT, DATA_COMMIT = "a" * 40, "b" * 40
MODALITY = {
    "margin_text": 0.31, "margin_image": 0.12, "weak_text_share": 0.25, "weak_image_share": 0.75,
    "effective_rank_text": 9.5, "effective_rank_image": 7.25, "effective_rank_both": 8.0, "modality_gap": None,
}  # fmt: skip


def training(**changes):
    dataset = {
        "name": "shop", "repo_id": "org/shop", "revision": DATA_COMMIT, "fingerprint": DATA_PRINT,
        "license": "cc-by-4.0", "split": {"kind": "leave_one_out"},
    }  # fmt: skip
    facts = {
        "base_model": "org/tiny-base", "base_model_revision": BASE_COMMIT, "base_model_license": "apache-2.0",
        "dataset": dataset | changes.pop("dataset", {}), "method": "VLM2Rec", "objective": METHOD,
        "loss": {"temperature": 0.05, "wpcl_lambda": "linear:10->2@0.3-1.0"},
        "arguments": {"learning_rate": 3e-4, "output_dir": "/home/somebody/runs/x", "hub_token": "secret-value-1"},
        "peft": None, "steps": 1234, "seed": 7, "seconds": 61.5, "versions": {"torch": "2.13.0"},
    }  # fmt: skip
    return facts | changes


def report(methods=(METHOD,), *, fingerprint=DATA_PRINT, floor=30, modality=MODALITY):
    made = make_report(methods, protocol=Protocol(fingerprint))
    made.add_floor("transitions", ranking(draw_ranks(5, floor)), train_counts=np.arange(60))
    made.facts["modality"] = {method: modality for method in methods} if modality else {}
    assert len(made) == N
    return made


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values), encoding="utf-8")


def config_folder(folder, config=None, facts=None, evaluation=None):
    """A model folder without weights: enough for facts, not for loading."""
    write_json(folder / "config.json", config or {"model_type": "vlm2rec", "fusion": "external"})
    if facts is not None:
        write_json(folder / "training.json", facts)
    if evaluation is not None:
        evaluation.save(folder / "evaluation")
    return folder


def snippets(text):
    """heading -> the Python snippets below it, of a card."""
    found, heading = {}, None
    for part in re.finditer(r"^#+ ([^\n]+)$|^```python\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL):
        if part[1] is not None:
            heading = part[1]
        else:
            found.setdefault(heading, []).append(part[2])
    return found


def section(text, heading):
    """The text below one heading, up to the next of any level (headings inside fences do not occur)."""
    return re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#+ |\Z)", text, flags=re.MULTILINE | re.DOTALL)[1]


def rows(text):
    """The cells of every table row."""
    return [[c.strip() for c in line.strip("|").split(" | ")] for line in text.splitlines() if line.startswith("| ")]
