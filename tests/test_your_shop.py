"""docs/start/your_shop.md, from CSV files to recommendations, for real: with a smaller shop and few steps."""

import re
import shlex
from pathlib import Path

from vlm2rec_hf.cli.main import main

PAGE = (Path(__file__).parents[1] / "docs" / "start" / "your_shop.md").read_text(encoding="utf-8")
SMALLER = {
    "--warm_up_backbone": "2",
    "--max_steps": "2",
    "--num_train_epochs": "2",
    "--per_device_train_batch_size": "16",
}


def blocks():
    return re.findall(r"^```(python|bash)\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def test_from_csv_files_to_recommendations(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    n_commands = 0
    for kind, block in blocks():
        if kind == "python":
            smaller = block.replace("n_items=200, n_users=400", "n_items=60, n_users=80")
            exec(compile(smaller, "your_shop.md", "exec"), scope)
            continue
        for line in block.strip().splitlines():
            words = shlex.split(line)
            assert words[0] == "vlm2rec"
            for option, value in SMALLER.items():
                if option in words:
                    words[words.index(option) + 1] = value
            assert main(words[1:]) == 0, line
            n_commands += 1
    assert n_commands >= 8
    runs = tmp_path / "runs"
    assert scope["dataset"].item_has_image.all(), "the images of the folder were read"
    assert (runs / "data" / "rec_dataset.json").is_file() and (runs / "items.parquet").is_file()
    for model in ("by-id", "embedder", "head"):
        assert (runs / model / "config.json").is_file() and (runs / model / "evaluation" / "report.json").is_file()
    assert (runs / "report" / "report.json").is_file() and (runs / "compared").is_dir()
    assert "<img" in (runs / "page.html").read_text(encoding="utf-8")
    assert re.search(r"^  #  item +score  title$", capsys.readouterr().out, flags=re.MULTILINE)


def test_commands_that_are_shown_only_are_parsed_the_same_way():
    shown = re.findall(r"^```text\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
    commands = [line for block in shown for line in block.replace("\\\n", " ").strip().splitlines()]
    assert [shlex.split(line)[:2] for line in commands] == [["vlm2rec", "train"], ["vlm2rec", "push"]]
