"""What the commands say of times and splits that the data leave open, or have settled already."""

import pytest

from vlm2rec_hf import RecDataset
from vlm2rec_hf.cli.main import main

HEAD = "user_id,item_id,timestamp"


def prepare(folder, output, *options):
    return main(["prepare", "--dataset", str(folder), "--output", str(output), *options])


def write(folder, *lines):
    folder.mkdir()
    (folder / "interactions.csv").write_text("\n".join(lines))
    return folder


def test_an_open_day_month_order_is_settled_by_the_option(tmp_path, capsys):
    raw = write(tmp_path / "raw", HEAD, "u,a,03/04/2024", "u,b,01/05/2024", "u,c,02/05/2024")
    assert prepare(raw, tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "3 April 2024" in said and "4 March 2024" in said and "`--day_first`" in said
    assert prepare(raw, tmp_path / "days", "--day_first", "true") == 0
    assert prepare(raw, tmp_path / "months", "--day_first", "false") == 0
    assert RecDataset.load(tmp_path / "days").interactions["item_id"][:] == ["a", "b", "c"]
    assert RecDataset.load(tmp_path / "months").interactions["item_id"][:] == ["b", "c", "a"]


@pytest.mark.parametrize("asked", ["temporal:0.5,0.8", "none"])
def test_a_second_split_is_refused(tmp_path, capsys, asked):
    raw = write(tmp_path / "raw", HEAD, *(f"u,{i},{i}" for i in range(5)))
    assert prepare(raw, tmp_path / "one") == 0
    assert prepare(tmp_path / "one", tmp_path / "two", "--split", asked) == 2
    assert f"`--split` '{asked}' must come before the split (the dataset has one already: 'leave_one_out')" in (
        capsys.readouterr().err
    )
    assert not (tmp_path / "two").exists()
    assert prepare(tmp_path / "one", tmp_path / "same", "--split", "leave_one_out") == 0  # that is what it has
    assert prepare(raw, tmp_path / "other", "--split", "temporal:0.5,0.8") == 0
    assert prepare(tmp_path / "other", tmp_path / "again", "--split", "temporal:0.5,0.8") == 0
    assert prepare(tmp_path / "other", tmp_path / "more", "--split", "temporal:0.5,0.9") == 2


def test_a_split_column_is_kept_or_left_by_the_option(tmp_path, capsys):
    raw = write(tmp_path / "raw", f"{HEAD},split", "u,a,1,train", "u,b,2,test", "u,c,3,train", "u,d,4,train")
    assert prepare(raw, tmp_path / "kept") == 2
    assert "goes back in time" in (said := capsys.readouterr().err) and "--split_column none" in said
    assert prepare(raw, tmp_path / "left", "--split_column", "none") == 0
    assert RecDataset.load(tmp_path / "left").interactions["split"][:] == [0, 0, 1, 2]
    good = write(tmp_path / "good", f"{HEAD},part", "u,a,1,train", "u,b,2,test")
    assert prepare(good, tmp_path / "part", "--split_column", "part") == 0
    assert RecDataset.load(tmp_path / "part").split_spec == {"kind": "given", "column": "part"}
