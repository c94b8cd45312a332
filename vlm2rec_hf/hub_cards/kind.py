"""What publishing has to know of a kind of model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .facts import EmbedderFacts, HeadFacts
    from .probes import Answers


@dataclass(frozen=True)
class ModelKind:
    """A kind of model that this package publishes.

    Attributes:
        facts: class with `from_folder`, what its card is made of.
        render: facts -> card.
        probe: folder or Hub id, and `revision`, `token`, `cache_dir` -> answers to fixed inputs.
        required: file a folder must hold beside the weights -> what it is for, and the remedy.
        contents: model folder, the names that get published and its `config.json` -> files that are added, or differ
            from those in the folder.
        as_published: the facts of the repo, where publishing adds what the folder lacks.
    """

    facts: type[EmbedderFacts] | type[HeadFacts]
    render: Callable[[Any], str]
    probe: Callable[[str, dict[str, Any]], Answers]
    required: Mapping[str, str] = field(default_factory=dict)
    contents: Callable[[Path, tuple[str, ...], dict[str, Any]], dict[str, bytes]] = lambda folder, names, config: {}
    as_published: Callable[[Any], Any] = lambda facts: facts
