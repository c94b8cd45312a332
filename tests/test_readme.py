"""README.md is short, opens with the two commands, and its snippets run, one after the other, in an empty folder."""

import re
import shlex
from pathlib import Path

from vlm2rec_hf.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_python_snippets_run_in_order(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    snippets = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(snippets) == 3  # train, load, recommend
    scope: dict = {}
    for snippet in snippets:
        assert len(snippet.splitlines()) <= 10
        exec(compile(snippet, "README.md", "exec"), scope)
    assert (tmp_path / "my-embedder" / "config.json").is_file()
    assert scope["vectors"].both.shape[0] == 2 and scope["users"].both.shape[0] == 1
    assert len(scope["best"].item_ids) == 5
    assert "popularity (floor)" in capsys.readouterr().out


def test_opens_with_the_two_commands():
    assert re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)[:2] == [
        "pip install -c constraints.txt . && vlm2rec quickstart\n",
        "pip install -c constraints.txt '.[test]' && pytest\n",
    ]


def test_is_read_in_three_minutes():
    prose = re.sub(r"```.*?```|\]\([^)]*\)", "", README, flags=re.DOTALL)
    assert len(prose.split()) < 600  # 200 words a minute
    assert len(re.findall(r"^!\[", README, flags=re.MULTILINE)) == 1


def test_commands_exist():
    named = re.findall(r"`(vlm2rec [^`]+)`", README)
    assert len(named) >= 3
    for line in named:
        assert shlex.split(line)[1] in COMMANDS, line
