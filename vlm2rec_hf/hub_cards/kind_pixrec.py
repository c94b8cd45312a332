"""Publishing `PixRecModel`s: whole ones and adapters on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .card import render_card
from .facts import EmbedderFacts
from .kind import ModelKind
from .metadata import embedder_metadata
from .probes import Answers, probe_items
from .sections import embedder as sections


@dataclass(frozen=True)
class PixRecFacts(EmbedderFacts):
    """A `PixRecModel`, or an adapter on one; what is known of it is what is known of an embedder."""


def render_pixrec_card(facts: PixRecFacts) -> str:
    """The card of a PixRec repo; as `render_embedder_card`."""
    data = embedder_metadata(facts)
    data.tags = [*(data.tags or []), "pixrec"]
    parts = {**sections(facts), "dimension": facts.config.get("projection_dim")}
    return render_card("pixrec.md", data, facts, parts)


def probe_pixrec(where: str, hub: dict[str, Any]) -> Answers:
    """Vectors of fixed items and histories, float32 on the CPU.

    Args:
        where: folder or Hub id.
        hub: `revision`, `token`, `cache_dir`.
    """
    from ..modeling.modeling_pixrec import PixRecModel
    from ..modeling.processing_pixrec import PixRecProcessor

    model = PixRecModel.from_pretrained(where, **hub).eval()
    processor = PixRecProcessor.from_pretrained(where, **hub)
    items = probe_items()
    return {
        "items": model.encode_items(items, processor),
        "histories": model.encode_histories([items, items[:1], items[1:]], processor),
    }


PIXREC = ModelKind(
    facts=PixRecFacts,
    render=render_pixrec_card,
    probe=probe_pixrec,
    required={"processor_config.json": "save the processor there too (`processor.save_pretrained(folder)`)"},
)
