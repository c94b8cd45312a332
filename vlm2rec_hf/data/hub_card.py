"""The README of a dataset repo: the front matter that makes `load_dataset` work, and a plain text below it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..hub.front_matter import front_matter

if TYPE_CHECKING:
    from .dataset import RecDataset


def with_configs(card: str, configs: list[dict[str, Any]], license: Any) -> str:
    """A card whose front matter declares exactly `configs`, whatever it declared before.

    Args:
        card: the whole README; one without a front matter gets one.
        configs: the entries of `configs` as the Hub's dataset cards hold them.
        license: licence id to put into the front matter; None leaves what the card says.

    Raises:
        ValueError: the front matter is no YAML mapping.
    """
    import yaml

    data, body = front_matter(card, "`card`")
    if data.get("configs") == configs and license in (None, data.get("license")):
        return card
    data["configs"] = configs
    if license is not None:
        data["license"] = license
    written = yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{written}---\n{body}"


def license_of(card: str) -> Any:
    """The licence that a card's front matter states; None where it states none or cannot be read."""
    try:
        return front_matter(card.replace("\r\n", "\n"), "The card")[0].get("license")
    except ValueError:  # a card on the Hub, about which only this was asked
        return None


def plain_card(dataset: RecDataset, repo_id: str) -> str:
    """The text of a card without front matter: what is in the dataset and how to load it.

    Args:
        dataset: what the repo holds.
        repo_id: `owner/name`, for the snippet.
    """
    steps = [", ".join(f"{key}={value}" for key, value in step.items()) for step in dataset.steps]
    split = ", ".join(f"{key}={value}" for key, value in dataset.split_spec.items())
    return f"""
# {_one_line(dataset.name or repo_id.split("/")[1])}

Interactions of users with items, for recommendation.

- fingerprint: `{dataset.fingerprint}`
- split: {split}
- unit of the timestamps: {dataset.timestamp_unit or "not stated"}
{"".join(f"- step {number}: {step}{chr(10)}" for number, step in enumerate(steps, start=1))}
```python
from .. import load_recsys

dataset = load_recsys("{repo_id}")  # revision="..." for one version for ever
assert dataset.fingerprint == "{dataset.fingerprint}"
```

The tables alone: `datasets.load_dataset("{repo_id}", "interactions")` has the splits; the config `items` has one row
per item, with decoded pictures where there are any.

{dataset.coverage.table()}
"""


def _one_line(text: str) -> str:
    """A heading's text: a name with line breaks could otherwise write sections of its own."""
    return " ".join(text.split())
