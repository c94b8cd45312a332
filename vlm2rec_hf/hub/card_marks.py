"""Tell cards that this package wrote from those a person wrote or changed: the latter are never lost."""

from __future__ import annotations

import hashlib
import re
import tempfile
from typing import TYPE_CHECKING

from .commits import Head, content_hashes
from .files import file_if_there
from .front_matter import front_matter

if TYPE_CHECKING:
    from huggingface_hub import HfApi

CARD_FILE = "README.md"
READMES = ("write", "replace", "keep")
_MARKER = re.compile(
    r"\n<!-- written by vlm2rec_hf, sha256:([0-9a-f]{64}); edit freely: an edited card is kept -->\n?$"
)
_NEW_SPACE = re.compile(
    r"(Check out the c|C)onfiguration reference at https://huggingface\.co/docs/hub/spaces-config-reference"
)
"""All that the Hub writes below the front matter of a Space that is made."""


def is_ours(text: str) -> bool:
    """Whether a README.md's text is as `write_card` left it (line ends apart), or a form that nobody filled in."""
    text = text.replace("\r\n", "\n")  # git may have changed them
    mark = _MARKER.search(text)
    return mark[1] == _hash(text[: mark.start()]) if mark is not None else is_blank_form(text)


def marked(text: str) -> str:
    """A rendered card with the comment by which `is_ours` knows it; a card that bears one already stays as it is."""
    if _MARKER.search(text):
        return text
    body = text.rstrip("\n") + "\n"
    return f"{body}\n<!-- written by vlm2rec_hf, sha256:{_hash(body)}; edit freely: an edited card is kept -->\n"


def unmarked(text: str) -> str:
    """A card without the comment of `marked`."""
    mark = _MARKER.search(text)
    return text if mark is None else text[: mark.start()]


def is_blank_form(text: str) -> bool:
    """Whether nobody wrote this: the client's model card template, as `peft` saves it, or the card of a new Space."""
    from huggingface_hub import ModelCard, ModelCardData

    blank = ModelCard.from_template(ModelCardData()).text
    body = re.sub(r"^---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL)
    if body != text and _NEW_SPACE.fullmatch(body.strip()):
        return True
    body = re.sub(r"\n### Framework versions\s+(- PEFT \S+\s*)+$", "", body)
    return body.split() == blank.split()


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def licence_in(text: str) -> str | None:
    """Licence in the front matter of a card of ours; `None` where it has none, or is not ours to believe."""
    if not text or not is_ours(text):
        return None
    data, _ = front_matter(text, "The card")
    licence = data.get("license")
    if licence == "other":
        licence = data.get("license_name") or licence
    return str(licence) if licence and licence != "unknown" else None


def read_card(api: HfApi, repo_id: str, kind: str, revision: str = "main") -> str:
    """Text of a repo's card; empty where there is no repo or no card.

    Raises:
        ValueError: no right to see it.
        ConnectionError: the Hub cannot be reached.
    """
    with tempfile.TemporaryDirectory() as cache:
        path = file_if_there(api, repo_id, CARD_FILE, kind=kind, revision=revision, cache_dir=cache, needs_repo=False)
        return "" if path is None else path.read_text(encoding="utf-8", errors="replace")


def check_readme(argument: str, value: str) -> None:
    """Refuse what is not one of `READMES`.

    Raises:
        ValueError: it is not.
    """
    if value not in READMES:
        raise ValueError(f"`{argument}` must be one of {READMES}, got {value!r}.")


def may_write_card(
    api: HfApi, repo_id: str, kind: str, head: Head, readme: str, *, argument: str, card: bytes = b""
) -> bool:
    """Whether a new card is to be written into a repo.

    Args:
        api: the client.
        repo_id: `owner/name`.
        kind: "model", "dataset" or "space".
        head: where main stands.
        readme: one of `READMES`.
        argument: what the user knows it as, for the message.
        card: the new card where it is known; the same one again is no conflict.

    Raises:
        ValueError: there is a card that a person wrote or changed, and `readme` is "write".
    """
    if readme != "write" or head.files.get(CARD_FILE) in {None, *content_hashes(card)}:
        return readme != "keep"
    if not is_ours(read_card(api, repo_id, kind, head.commit)):
        raise ValueError(
            f"`{argument}`: {CARD_FILE} of {repo_id!r} was written or changed by hand; pass 'replace' to write a new "
            "one over it or 'keep' to leave it."
        )
    return True
