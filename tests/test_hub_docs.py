"""The commands and snippets of the docs that talk to the Hub run, in order, against a loopback Hub."""

import re
import shlex
from pathlib import Path

from vlm2rec_hf.cli.main import main

GUIDES = Path(__file__).parents[1] / "docs" / "guides"


def run(page, until):
    """All blocks of a page up to a heading; returns what they left in their scope and the kinds that ran."""
    text = (GUIDES / page).read_text(encoding="utf-8").split(f"\n## {until}\n")[0]
    scope: dict = {}
    kinds = []
    for kind, block in re.findall(r"^```(bash|python hub|python)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE):
        kinds.append(kind)
        if kind == "bash":
            for line in block.splitlines():
                assert line.startswith("vlm2rec ") and main(shlex.split(line)[1:]) == 0, line
        else:
            exec(compile(block, page, "exec"), scope)
    return scope, kinds


def test_the_hub_guide_holds(hub, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope, kinds = run("hub.md", "What a model repo holds")
    assert kinds == ["python", "bash", "python hub", "python hub"]
    assert {"v1.0"} == set(hub.repo("org/vlm2rec-demo").tags) == set(hub.repo("org/demo-shop", "datasets").tags)
    assert scope["titles"] == list(scope["dataset"].items["title"])[:3]
    assert "vectors equal to" in capsys.readouterr().out


def test_the_data_guide_holds(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope, kinds = run("data.md", "From files")
    assert kinds.count("python hub") == 2
    assert set(hub.repo("org/shop", "datasets").tags) == {"v1.0"}
    assert scope["built"].fingerprint == scope["split"].fingerprint
