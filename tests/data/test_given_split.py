"""A split that the data bring along: taken over everywhere alike, or refused, or kept under another name."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import load_recsys

VALUES = [0, 0, 1, 2]
ROWS = [{"user_id": "u", "item_id": f"i{n}", "timestamp": n, "split": s} for n, s in enumerate(VALUES)]
NAMES = ["train", "train", "validation", "test"]


def write(folder, kind, rows=ROWS):
    frame = pd.DataFrame(rows)
    if kind == "parquet":
        pq.write_table(pa.Table.from_pandas(frame), folder / "interactions.parquet")
    elif kind == "jsonl":
        (folder / "interactions.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    elif kind == "inter":
        names = {"user_id": "user_id:token", "item_id": "item_id:token", "timestamp": "timestamp:float"}
        frame.rename(columns={**names, "split": "split:float"}).to_csv(folder / "a.inter", sep="\t", index=False)
    else:
        frame.to_csv(folder / f"interactions.{kind}", sep="\t" if kind == "tsv" else ",", index=False)


@pytest.mark.parametrize("kind", ["parquet", "csv", "tsv", "jsonl", "inter"])
def test_every_folder_keeps_its_split_and_says_so(tmp_path, kind):
    write(tmp_path, kind)
    dataset = load_recsys(tmp_path)
    assert dataset.split_spec == {"kind": "given", "column": "split"}
    assert dataset.interactions["split"][:] == VALUES
    with pytest.raises(ValueError, match="`k_core` must come before the split"):
        dataset.k_core(2)
    plain = load_recsys(tmp_path, split_column=None)
    assert plain.split_spec == {"kind": "none"} and set(plain.interactions["split"][:]) == {0}
    assert [int(float(value)) for value in plain.interactions["given_split"][:]] == VALUES


@pytest.mark.parametrize("values", [NAMES, np.array(VALUES, np.uint8), np.array(VALUES, float), ["0", "0", "1", "2"]])
def test_names_and_codes_of_any_type_are_one_split(values):
    frame = pd.DataFrame(ROWS).assign(split=values)
    for table in (frame, frame.to_dict("records"), frame.astype({"split": "category"})):
        dataset = RecDataset.from_tables(table)
        assert dataset.interactions["split"][:] == VALUES and len(dataset.quarantine) == 0


def test_a_dataset_written_out_unsplit_comes_back_unsplit():
    dataset = RecDataset.from_tables([{**row, "split": 0} for row in ROWS])
    assert dataset.split_spec == {"kind": "none"}
    again = RecDataset.from_tables(dataset.interactions)
    assert again.fingerprint == dataset.fingerprint and again.k_core(1).n_interactions == 4


def test_a_column_of_that_name_which_is_no_split_is_refused():
    rows = [{**row, "split": "ab"[n % 2]} for n, row in enumerate(ROWS)]
    with pytest.raises(
        ValueError, match=r"column `split` that holds \['a', 'b'\].*`split_column=None`.*`given_split`"
    ):
        RecDataset.from_tables(rows)
    assert RecDataset.from_tables(rows, split_column=None).interactions["given_split"][:] == ["a", "b", "a", "b"]
    with pytest.raises(ValueError, match="columns `split` and `given_split`"):
        RecDataset.from_tables([{**row, "given_split": 1} for row in rows], split_column=None)
    other = [{**row, "part": name} for row, name in zip(rows, NAMES, strict=True)]
    dataset = RecDataset.from_tables(other, split_column="part")
    assert dataset.interactions["split"][:] == VALUES and dataset.interactions["given_split"][0] == "a"


def test_a_value_that_is_no_split_is_counted():
    assert RecDataset.from_tables([*ROWS, {**ROWS[0], "timestamp": 9, "split": 7}]).coverage.quarantined == {
        "bad_split": 1
    }
