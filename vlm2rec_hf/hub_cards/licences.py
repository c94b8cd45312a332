"""Licences in the front matter of a card: the identifiers that the Hub knows, and what to do with others."""

from __future__ import annotations

import re
from typing import Any

# https://huggingface.co/docs/hub/repositories-licenses
HUB_LICENCES = frozenset(
    """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
    bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0
    cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0
    cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0
    cdla-permissive-1.0 cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl
    gpl gpl-2.0 gpl-3.0 lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr
    mpl-2.0 odc-by odbl openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr
    deepfloyd-if-license fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
    unknown other
    """.split()
)


def licence_fields(licence: str | None) -> dict[str, Any]:
    """Front matter for a licence.

    Args:
        licence: as its holder names it; None where nobody said.

    Returns:
        `license`; a name that the Hub does not know becomes `license: other` with a `license_name`. What is not known
        is `unknown`, never a guess.
    """
    if licence is None or not licence.strip():
        return {"license": "unknown"}
    identifier = licence.strip().lower()
    if identifier in HUB_LICENCES:
        return {"license": identifier}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", identifier).strip("-.") or "unnamed"}


def licence_words(licence: str | None) -> str:
    """A licence in the text of a card."""
    return licence.strip() if licence and licence.strip() else "unknown: check before use"
