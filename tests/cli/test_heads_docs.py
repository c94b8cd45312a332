"""The command lines of docs/guides/heads.md run, in order, in an empty folder; those without data are parsed."""

import re
import shlex
from pathlib import Path

from vlm2rec_hf.cli.main import main

PAGE = (Path(__file__).parents[2] / "docs" / "guides" / "heads.md").read_text(encoding="utf-8")


def commands():
    for block in re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL):
        for line in block.strip().splitlines():
            yield line, shlex.split(line)


def test_command_lines_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (shop,) = [s for s in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if '.save("shop")' in s]
    exec(compile(shop, "docs/guides/heads.md", "exec"), {})
    n_run = 0
    for line, words in commands():
        if "--dataset" in words and words[words.index("--dataset") + 1] != "shop":
            continue
        assert words[0] == "vlm2rec"
        assert main(words[1:]) == 0, line
        n_run += 1
    assert n_run >= 11
    for head in ("by-id", "content", "frozen", "started"):
        assert (tmp_path / "heads" / head / "catalogue.parquet").is_file()
        assert (tmp_path / "heads" / head / "evaluation" / "report.json").is_file()
    assert "<img" in (tmp_path / "page.html").read_text()
    printed = capsys.readouterr().out
    assert re.search(r"^  #  item +score  title$", printed, flags=re.MULTILINE)


def test_the_protocol_commands_say_what_the_arguments_are(tmp_path):
    from vlm2rec_hf.cli.parsing import parse
    from vlm2rec_hf.cli.train_seqrec import CHEAP
    from vlm2rec_hf.trainers.seqrec_args import SeqRecTrainingArguments

    (words,) = [words for _, words in commands() if "ml1m-mm" in words]
    _, data, head, *_, training = parse("train", "", (*CHEAP, SeqRecTrainingArguments), words[2:])
    assert (data.k_core, head.max_length, head.hidden_size, training.validation_users) == (5, 200, 128, 512)
    assert head.item_representation in (None, "id") and training.loss == "cross_entropy"


def test_options_in_the_table_exist():
    from dataclasses import fields

    from vlm2rec_hf.cli.train_seqrec import CHEAP
    from vlm2rec_hf.trainers.seqrec_args import SeqRecTrainingArguments

    known = {field.name for kind in (*CHEAP, SeqRecTrainingArguments) for field in fields(kind)}
    rows = re.findall(r"^\| (`--.*?) \|", PAGE, flags=re.MULTILINE)
    named = set(re.findall(r"--(\w+)", " ".join(rows)))
    assert len(named) >= 14 and named <= known
