"""Model, dataset and Space cards: facts in, one Markdown text with YAML front matter out; and README.md from it."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_file
from ..hub.card_marks import CARD_FILE, is_ours, marked
from . import sections
from .markdown import Markdown, code, escape, one_line, python_string
from .metadata import dataset_metadata, embedder_metadata, head_metadata, space_metadata
from .token_check import refuse_tokens

if TYPE_CHECKING:
    import jinja2
    from huggingface_hub import CardData

    from .facts import DatasetFacts, EmbedderFacts, HeadFacts, SpaceFacts

TEMPLATES = Path(__file__).parent / "templates"


def render_embedder_card(facts: EmbedderFacts) -> str:
    """The card of an embedder repo.

    Args:
        facts: as from `EmbedderFacts.from_folder`.

    Returns:
        Markdown with YAML front matter, results by view as `model-index`.

    Raises:
        ValueError: the text would hold what looks like an access token.
    """
    return render_card("embedder.md", embedder_metadata(facts), facts, sections.embedder(facts))


def render_head_card(facts: HeadFacts) -> str:
    """The card of a sequential head's repo; arguments and errors as `render_embedder_card`."""
    return render_card("head.md", head_metadata(facts), facts, sections.head(facts))


def render_dataset_card(
    facts: DatasetFacts, configs: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None
) -> str:
    """The card of a dataset repo.

    Args:
        facts: as from `DatasetFacts.from_dataset`.
        configs: which files each config has, see `dataset_metadata`; default: as `RecDataset.push_to_hub` lays them
            out.

    Raises:
        ValueError: no config `interactions`, or the text would hold what looks like an access token.
    """
    return render_card("dataset.md", dataset_metadata(facts, configs), facts, sections.dataset(facts))


def render_space_card(facts: SpaceFacts) -> str:
    """The card of a Space; errors as `render_embedder_card`."""
    return render_card("space.md", space_metadata(facts), facts, sections.space(facts))


def write_card(text: str, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a rendered card as README.md, atomically, never over the work of a person.

    The file ends in a comment with a hash of what stands before it. Whoever edits the file breaks the hash, and from
    then on the card is theirs. The form that `peft` leaves beside an adapter, not filled in, counts as nobody's.

    Args:
        text: from `render_*_card`.
        folder: the repo's folder; it must exist.
        overwrite: replace whatever README.md is there.

    Returns:
        The path written.

    Raises:
        ValueError: no such folder, a README.md of somebody else, or a text with what looks like an access token.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"`folder` must exist, got {str(folder)!r}; save the model or dataset first.")
    refuse_tokens(text)
    path = folder / CARD_FILE
    if path.exists() and not overwrite and not is_ours(path.read_text(encoding="utf-8", errors="replace")):
        raise ValueError(
            f"`folder` {str(folder)!r} holds a {CARD_FILE} that was written or edited by somebody; it is kept. "
            "Pass `overwrite=True` to replace it."
        )
    with whole_file(path) as partial:
        partial.write_text(marked(text), encoding="utf-8", newline="\n")
    return path


def render_card(template: str, data: CardData, facts: Any, parts: Mapping[str, Any]) -> str:
    """A card from its template.

    Args:
        template: file in `templates/`.
        data: the front matter.
        facts: with `repo_id`, and `revision` where the snippet pins one.
        parts: what the template prints beside the facts.

    Raises:
        ValueError: the text would hold what looks like an access token.
    """
    yaml = Markdown(data.to_yaml(line_break="\n"))
    load = python_string(facts.repo_id)
    if getattr(facts, "revision", None):
        load = Markdown(f"{load}, revision={python_string(facts.revision)}")
    title = one_line(facts.repo_id.rstrip("/").split("/")[-1])
    values = {"facts": facts, "front_matter": yaml, "load": load, "title": title, **parts}
    text = _environment().get_template(template).render(values)
    return marked(refuse_tokens(re.sub(r"\n{3,}", "\n\n", text)))


def _environment() -> jinja2.Environment:
    # jinja2 is a dependency of torch; the client's own `from_template` would turn a missing fact into nothing.
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - `_finalize` escapes, for Markdown
    )
    environment.filters.update(code=code, py=python_string)
    return environment


def _finalize(value: Any) -> Any:
    """Escape what a template prints unless it is Markdown already; a fact that is not known is an error."""
    return value if isinstance(value, Markdown) or _is_undefined(value) else escape(value)


def _is_undefined(value: Any) -> bool:
    import jinja2

    return isinstance(value, jinja2.Undefined)  # StrictUndefined raises when it is printed
