"""The snippets of docs/guides/losses.md run, and its tables name what the code has."""

import inspect
import re
from pathlib import Path

import pytest

from vlm2rec_hf.losses import OBJECTIVES, VLM2RecLoss

from .batches import make_batch

TEXT = (Path(__file__).parents[2] / "docs" / "guides" / "losses.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippets_run(snippet):
    assert "assert " in snippet
    exec(compile(snippet, "docs/guides/losses.md", "exec"), {})


def section(title):
    return TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]


def test_tables_are_complete():
    assert len(SNIPPETS) >= 5
    defaults = dict(
        re.findall(r"^\| `(\w+)` \| `?([^|`]+?)`? \|", section("Switches and defaults"), flags=re.MULTILINE)
    )
    parameters = list(inspect.signature(VLM2RecLoss).parameters.values())[1:]
    assert list(defaults) == [p.name for p in parameters]
    for parameter in parameters:
        written = "1/3" if parameter.name == "unimodal_weight" else str(parameter.default)
        assert defaults[parameter.name] == written
    for name in OBJECTIVES:
        assert f"`{name}`" in section("Objectives")
    for name in VLM2RecLoss()(**make_batch()).diagnostics:
        assert f"`{name}`" in section("Diagnostics")
