"""Publishing DMESR models: heads whose item vectors are fused from descriptions."""

from __future__ import annotations

from typing import Any

from . import sections
from .card import render_card
from .facts import HeadFacts
from .kind import ModelKind
from .kind_head import CATALOGUE, config_without_places, probe_head
from .metadata import head_metadata
from .probes import Answers


def render_dmesr_card(facts: HeadFacts) -> str:
    """The card of a DMESR repo; arguments and errors as `render_head_card`."""
    data = head_metadata(facts)
    data.tags = [*(data.tags or []), "dmesr"]
    ids = facts.config.get("item_representation") == "content+id"
    return render_card("dmesr.md", data, facts, {**sections.head(facts), "ids": ids})


def probe_dmesr(where: str, hub: dict[str, Any]) -> Answers:
    """Item vectors, and user vectors after histories of the first items; arguments as `probe_head`."""
    from ..modeling.modeling_dmesr import DMESRModel

    return probe_head(where, hub, DMESRModel)


DMESR = ModelKind(
    facts=HeadFacts,
    render=render_dmesr_card,
    probe=probe_dmesr,
    required=CATALOGUE,
    contents=config_without_places,
)
