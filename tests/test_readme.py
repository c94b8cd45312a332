"""The snippets of README.md run, one after the other, in an empty folder."""

import re
from pathlib import Path

import pytest

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
    from vlm2rec_hf.cli.main import COMMANDS

    for command in COMMANDS:
        assert f"`vlm2rec {command}" in README
