"""The snippets of README.md run, one after the other, in an empty folder."""

import re
import shlex
from pathlib import Path

import pytest

from vlm2rec_hf.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(snippets) >= 4
    scope: dict = {}
    for snippet in snippets:
        exec(compile(snippet, "README.md", "exec"), scope)
    assert (tmp_path / "my-embedder" / "config.json").is_file()
    assert (tmp_path / "my-report" / "report.json").is_file()


def test_the_hub_section_holds(hub, tmp_path, monkeypatch, capsys):
    """Its commands and snippets, in order, after the snippets before it, against a loopback Hub."""
    monkeypatch.chdir(tmp_path)
    before, section = README.split("## On the Hub\n")
    section = section.split("\n## ")[0]
    scope: dict = {}
    for snippet in re.findall(r"```python\n(.*?)```", before, flags=re.DOTALL):
        exec(compile(snippet, "README.md", "exec"), scope)
    blocks = re.findall(r"```(bash|python hub)\n(.*?)```", section, flags=re.DOTALL)
    assert [kind for kind, _ in blocks] == ["bash", "python hub", "python hub"]
    for kind, text in blocks:
        if kind == "bash":
            for line in text.splitlines():
                assert line.startswith("vlm2rec ") and main(shlex.split(line)[1:]) == 0, line
        else:
            exec(compile(text, "README.md", "exec"), scope)
    assert {"v1.0"} == set(hub.repo("org/vlm2rec-demo").tags) == set(hub.repo("org/demo-shop", "datasets").tags)
    assert scope["titles"] == [dataset_title for dataset_title in list(scope["dataset"].items["title"])[:3]]
    assert "vectors equal to" in capsys.readouterr().out


def test_opens_with_the_two_commands():
    assert re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)[:2] == [
        "pip install -c constraints.txt . && vlm2rec quickstart\n",
        "pip install -c constraints.txt '.[test]' && pytest\n",
    ]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        assert target.startswith("https://") or (ROOT / target).exists(), target


def test_names_every_command():
    for command in COMMANDS:
        assert f"`vlm2rec {command}" in README
