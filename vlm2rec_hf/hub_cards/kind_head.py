"""Publishing sequential heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..files import json_bytes
from .card import render_head_card
from .facts import HeadFacts
from .kind import ModelKind
from .metadata import hub_id
from .model_folder import embedder_name, publishable
from .probes import Answers

CATALOGUE = {
    "catalogue.parquet": "without it nobody could name the items; set the head's catalogue (`set_catalogue`) and save "
    "it again"
}


def probe_head(where: str, hub: dict[str, Any], model_class: Any = None) -> Answers:
    """Item vectors of a head, and its user vectors after histories of its first items.

    Args:
        where: folder or Hub id.
        hub: `revision`, `token`, `cache_dir`.
        model_class: `SequentialRecommender` by default.
    """
    from ..modeling.modeling_seqrec import SequentialRecommender

    head = (model_class or SequentialRecommender).from_pretrained(where, **hub).eval()
    some = list(range(min(head.config.n_items, 5)))
    return {
        "items": head.item_vectors().detach(),
        "users": head.encode_histories([some, some[:1], some[::-1]]),
        "popularity": head.catalogue.popularity.double() if head.catalogue is not None else head.item_vectors()[:0],
    }


def config_without_places(folder: Path, names: tuple[str, ...], config: dict[str, Any]) -> dict[str, bytes]:
    """`config.json` with the name alone of a local embedder folder: its place says nothing to others."""
    name = embedder_name(config)
    config = publishable(config, nulls=True)
    if name:
        config["embedder"] = name if hub_id(name) else Path(name).name
    return {"config.json": json_bytes(config)}


HEAD = ModelKind(
    facts=HeadFacts,
    render=render_head_card,
    probe=probe_head,
    required=CATALOGUE,
    contents=config_without_places,
)
