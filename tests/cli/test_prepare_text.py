"""`vlm2rec prepare` of files: which columns make the text, and what is no dataset."""

import pandas as pd
import pytest

from vlm2rec_hf import RecDataset
from vlm2rec_hf.cli.main import main

EVENTS = [{"user_id": u, "item_id": i, "timestamp": n} for u in "uv" for n, i in enumerate("abc")]
ITEMS = [
    {"item_id": i, "name": f"Chair {i}", "colour": 300 + n, "description": "<p>Oak</p>"} for n, i in enumerate("abc")
]


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    pd.DataFrame(EVENTS).to_csv(folder / "interactions.csv", index=False)
    pd.DataFrame(ITEMS).to_csv(folder / "items.csv", index=False)
    return folder


def test_text_columns_of_the_command_line(raw, tmp_path, capsys):
    command = ["prepare", "--dataset", str(raw), "--output", str(tmp_path / "out"), "--column_mapping", "name=title"]
    assert main([*command, "--text_columns", "name, colour,description"]) == 0
    assert RecDataset.load(tmp_path / "out").item_texts()[0] == "Chair a. 300. Oak"
    said = capsys.readouterr().out
    assert "step=text_columns, columns=['title', 'colour', 'description']" in said
    assert "text of an item: `text`, else `title`" in said and "texts_with_markup" in said
    assert main([*command, "--overwrite", "true", "--text_columns", "wat"]) == 2
    assert "`--text_columns` must be" in capsys.readouterr().err


def test_nothing_to_save_is_an_error(raw, tmp_path, capsys):
    frame = pd.DataFrame(EVENTS).assign(item_id="zzz")
    for rows, words in ((frame, "No interaction is left"), (frame[:0], "interactions` is empty")):
        rows.to_csv(raw / "interactions.csv", index=False)
        own = [f"--{table}={raw / table}.csv" for table in ("interactions", "items")]
        for source in (["--dataset", str(raw)], own):
            assert main(["prepare", *source, "--output", str(tmp_path / "out")]) == 2
            captured = capsys.readouterr()
            assert words in captured.err and "Saved" not in captured.err + captured.out
            assert not (tmp_path / "out").exists()
