"""The front matter of a dataset repo's README, which makes `load_dataset` work."""

from __future__ import annotations

from typing import Any

from ..hub.front_matter import front_matter


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


def license_of(card: str) -> dict[str, Any]:
    """What a card's front matter says in `license` and `license_name`; empty where it cannot be read."""
    try:
        data, _ = front_matter(card.replace("\r\n", "\n"), "The card")
    except ValueError:  # a card on the Hub, about which only this was asked
        return {}
    return {name: data[name] for name in ("license", "license_name") if name in data}
