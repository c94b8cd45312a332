"""Publishing embedders: whole `VLM2RecEmbedder`s and adapters on them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from ..evaluation.score_options import ScoreOptions
from ..files import json_bytes
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from ..sentence_transformers.model_files import SCORE_LAYER, VIEWS, sentence_transformer_contents
from .card import render_embedder_card
from .facts import EmbedderFacts
from .kind import ModelKind
from .model_folder import read_json
from .probes import Answers, probe_items


def probe_embedder(where: str, hub: dict[str, Any]) -> Answers:
    """Vectors of fixed items and histories, float32 on the CPU, in all three views.

    Args:
        where: folder or Hub id.
        hub: `revision`, `token`, `cache_dir`.
    """
    from ..modeling.modeling_vlm2rec import VLM2RecEmbedder

    model = VLM2RecEmbedder.from_pretrained(where, **hub).eval()
    processor = VLM2RecProcessor.from_pretrained(where, **hub)
    items = probe_items()
    answers: Answers = {}
    for role, vectors in (
        ("items", model.encode_items(items, processor)),
        ("histories", model.encode_histories([items, items[:1], items[1:]], processor)),
    ):
        answers |= {f"{role} {view}": vectors.view(view) for view in ("text", "image", "both")}
    return answers


def sentence_transformer_files(folder: Path, names: tuple[str, ...], config: dict[str, Any]) -> dict[str, bytes]:
    """The files of sentence-transformers that the folder lacks, and its prompts as the processor has them now.

    Beside an adapter they could not stand in a local folder: the library would follow the base's own name.
    """
    fresh = sentence_transformer_contents(VLM2RecProcessor.from_pretrained(folder))
    if "modules.json" not in names:
        return {name: json_bytes(content) for name, content in fresh.items()}
    name = "config_sentence_transformers.json"
    written = read_json(folder / name) or {}
    _check_score_layer(folder, config.get("score_options"))
    return {name: json_bytes({**written, "prompts": fresh[name]["prompts"]})}


def _check_score_layer(folder: Path, score_options: dict[str, Any] | None) -> None:
    """Raise ValueError if sentence-transformers would score by other options than the embedder's, or could not."""
    routes = (read_json(folder / "sentence_bert_config.json") or {}).get("modality_config") or {}
    if all(route.get("method_output_name") != VIEWS for route in routes.values()):
        return
    lacking = [name for name in ("config.json", "model.safetensors") if not (folder / SCORE_LAYER / name).is_file()]
    if lacking:
        raise ValueError(
            f"`folder` {str(folder)!r} lacks {SCORE_LAYER}/{lacking[0]}, without which sentence-transformers cannot "
            "load it; call `write_sentence_transformer_files(..., scored=True)` again."
        )
    if score_options is None:
        return
    written = load_file(folder / SCORE_LAYER / "model.safetensors")["linear.weight"]
    if not np.array_equal(written, ScoreOptions.from_dict(score_options).view_map(written.shape[1] // 2)):
        raise ValueError(
            f"`folder` {str(folder)!r}: {SCORE_LAYER} is not what `score_options` in config.json say, so "
            "sentence-transformers would score otherwise than `evaluate`; call `write_sentence_transformer_files("
            "..., scored=True)` again, or, if the layer was trained on purpose, save the embedder without options."
        )


EMBEDDER = ModelKind(
    facts=EmbedderFacts,
    render=render_embedder_card,
    probe=probe_embedder,
    required={"processor_config.json": "save the processor there too (`processor.save_pretrained(folder)`)"},
    contents=sentence_transformer_files,
    as_published=lambda facts: dataclasses.replace(facts, sentence_transformer=True),
)
