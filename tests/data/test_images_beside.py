"""A folder `images` beside the tables is read though nobody names it, in every format that is two tables."""

import gzip
import io
import json
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import load_recsys

EVENTS = {"user_id": ["a", "a"], "item_id": [7, 8], "timestamp": [1, 2]}
ITEMS = {"item_id": [7, 8], "title": ["Mug", "Cup"]}


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_csv(folder):
    (folder / "interactions.csv").write_text("user_id,item_id,timestamp\na,7,1\na,8,2\n")
    (folder / "items.csv").write_text("item_id,title\n7,Mug\n8,Cup\n")


def write_parquet(folder):
    pq.write_table(pa.table(EVENTS), folder / "interactions.parquet")
    pq.write_table(pa.table(ITEMS), folder / "items.parquet")


def write_amazon(folder):
    for name, rows in (
        ("reviews_X_5", [{"reviewerID": "a", "asin": i, "overall": 5.0, "unixReviewTime": int(i)} for i in "78"]),
        ("meta_X", [{"asin": "7", "title": "Mug"}]),
    ):
        (folder / f"{name}.json.gz").write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))


@pytest.fixture
def shop(tmp_path):
    (tmp_path / "images" / "sub").mkdir(parents=True)
    (tmp_path / "images" / "sub" / "8.png").write_bytes(png())
    return tmp_path


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_amazon])
def test_images_beside_the_tables_are_read(shop, write):
    write(shop)
    dataset = load_recsys(shop)
    assert dataset.item_has_image.tolist() == [False, True]
    assert dataset.fingerprint == load_recsys(shop, image_folder=shop / "images").fingerprint


@pytest.mark.parametrize("write", [write_csv, write_parquet, write_amazon])
def test_a_folder_without_any_of_them_is_a_warning_and_changes_nothing(tmp_path, write, caplog):
    write(tmp_path)
    before = load_recsys(tmp_path).fingerprint
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "logo.png").write_bytes(png())
    with caplog.at_level(logging.WARNING, "vlm2rec_hf"):
        assert load_recsys(tmp_path).fingerprint == before
    assert "0 of 2 images" in caplog.text and "The items stay without images." in caplog.text
    with pytest.raises(ValueError, match="0 of 2 images"):  # who names a folder means it
        load_recsys(tmp_path, image_folder=tmp_path / "images")


def test_images_of_the_table_itself_stay(shop):
    write_parquet(shop)
    cells = [{"bytes": png("blue"), "path": None}] * 2
    pq.write_table(pa.table({**ITEMS, "image": cells}), shop / "items.parquet")
    assert [load_recsys(shop).item(i)["image"].getpixel((0, 0)) for i in (0, 1)] == [(0, 0, 255)] * 2


def test_parquet_tables_take_an_image_folder_with_names_of_their_own(tmp_path):
    pq.write_table(pa.table({"who": ["a"], "sku": [7], "timestamp": [1]}), tmp_path / "interactions.parquet")
    pq.write_table(pa.table({"sku": [7], "name": ["Mug"], "file": ["x.png"]}), tmp_path / "items.parquet")
    (tmp_path / "covers").mkdir()
    (tmp_path / "covers" / "x.png").write_bytes(png())
    dataset = load_recsys(
        tmp_path,
        image_folder=tmp_path / "covers",
        image_column="file",
        column_mapping={"who": "user_id", "sku": "item_id", "name": "title"},
        text_columns=["name", "file"],
    )
    assert dataset.item_has_image.tolist() == [True] and dataset.item_texts() == ["Mug. x.png"]


def test_the_command_line_reads_them(shop, capsys):
    write_csv(shop)
    assert main(["prepare", "--dataset", str(shop), "--split", "none", "--output", str(shop / "data")]) == 0
    assert RecDataset.load(shop / "data").item_has_image.tolist() == [False, True]
    command = ["prepare", "--dataset", str(shop), "--image_folder", str(shop / "images"), "--output", str(shop / "d2")]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert "`--image_folder` goes with files of your own" in error and "`images` is read by itself" in error
