"""The three prompts: from the package's template, or from the user's file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..columns import VIEWS

TEMPLATE = Path(__file__).with_name("prompts.yaml")


@dataclass(frozen=True)
class Prompts:
    """What a model is asked about an item.

    Attributes:
        text: shown the item's text, `{text}`, only.
        image: shown the image only.
        both: shown both.
    """

    text: str
    image: str
    both: str

    def __post_init__(self) -> None:
        for kind, prompt in asdict(self).items():
            if not isinstance(prompt, str) or not prompt.strip():
                raise ValueError(f"`prompts` must hold a text as `{kind}`, got {prompt!r}.")
            wanted = 0 if kind == "image" else 1
            if prompt.count("{text}") != wanted:
                raise ValueError(f"`prompts` must hold '{{text}}' {wanted} times in `{kind}`, got {prompt!r}.")

    def parts(self, kind: str) -> tuple[str, str]:
        """What stands before and behind the item's text."""
        before, _, after = getattr(self, kind).partition("{text}")
        return before, after

    @property
    def fingerprint(self) -> str:
        """A hash of the three prompts, 12 hex digits."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


def load_prompts(path: str | Path | None = None) -> Prompts:
    """Read prompts from a YAML file with the keys `text`, `image` and `both`; the package's own by default.

    Raises:
        ValueError: no such file, not of that form, or a prompt without its `{text}`.
    """
    import yaml

    path = TEMPLATE if path is None else Path(path)
    if not path.is_file():
        raise ValueError(f"`prompts` {str(path)!r} does not exist; name a YAML file with {', '.join(VIEWS)}.")
    try:
        prompts = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"`prompts` {str(path)!r} is no YAML: {error}") from error
    if not isinstance(prompts, dict) or set(prompts) != set(VIEWS):
        raise ValueError(f"`prompts` {str(path)!r} must hold exactly the keys {', '.join(VIEWS)}.")
    return Prompts(**prompts)
