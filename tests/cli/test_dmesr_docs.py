"""The command lines of docs/guides/dmesr.md run, in order, in an empty folder; its table names options that exist."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

from vlm2rec_hf.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "dmesr.md").read_text(encoding="utf-8")


def test_command_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (shop,) = [s for s in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if '.save("shop")' in s]
    exec(compile(shop, "docs/guides/dmesr.md", "exec"), {})
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)).strip().splitlines()
    assert len(lines) == 3
    for line in lines:
        words = shlex.split(line)
        if "--num_train_epochs" in words:
            words[words.index("--num_train_epochs") + 1] = "2"
        assert main(words[1:]) == 0, line
    assert (tmp_path / "dmesr" / "evaluation" / "report.json").is_file()
    assert len(capsys.readouterr().out.strip().splitlines()[-6:]) == 6


def test_options_in_the_table_exist():
    from vlm2rec_hf.cli.train_dmesr import CHEAP
    from vlm2rec_hf.trainers.dmesr_args import DMESRTrainingArguments

    kinds = (*CHEAP, DMESRTrainingArguments)
    known = {field.name for kind in kinds for field in fields(kind)}
    rows = re.findall(r"^\| (`--.*?) \|", PAGE, flags=re.MULTILINE)
    named = set(re.findall(r"--(\w+)", " ".join(rows)))
    assert len(named) >= 14 and named <= known
