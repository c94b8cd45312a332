"""Images that exist are found, wherever they lie and however their names are written; what is missing is named."""

import io
import logging

import pyarrow as pa
import pytest
from PIL import Image

from vlm2rec_hf import RecDataset
from vlm2rec_hf.data.readers.image_folder import with_images


def image(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), color).save(buffer, "PNG")
    return buffer.getvalue()


def put(folder, *names, color="red"):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image(color))


def found(table):
    return [cell is not None and bool(cell["bytes"]) for cell in table["image"].to_pylist()]


def items(*ids, **columns):
    return pa.table({"item_id": list(ids), **columns})


def test_links_subfolders_capitals_and_accents(tmp_path):
    blobs, folder = tmp_path / "blobs", tmp_path / "snapshot"
    put(blobs, "0a1b2c")
    put(folder, "010/b.JPG", "c.d.Png", "cafe\u0301.jpeg", "sub/deep/e.TIFF")
    (folder / "a.jpg").symlink_to("../blobs/0a1b2c")  # as the Hub's cache
    put(tmp_path / "elsewhere", "f.webp")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "010" / "round").symlink_to(folder)  # a circle
    table = with_images(items("a", "b", "c.d", "caf\u00e9", "deep/e", "sub/deep/e", "f", "g"), folder)
    assert found(table) == [True, True, True, True, False, True, True, False]


def test_a_link_to_something_else_is_no_image(tmp_path):
    folder = tmp_path / "images"
    put(folder, "b.jpg")
    (tmp_path / "secret").write_text("password")
    (folder / "a.jpg").symlink_to(tmp_path / "secret")
    table = with_images(items("a", "b"), folder)
    assert table["image"].to_pylist()[0] == {"bytes": None, "path": "a.jpg"} and found(table) == [False, True]


def test_names_in_a_column(tmp_path):
    folder = tmp_path / "images"
    put(folder, "001/x.jpg", "002/x.jpg", "top.PNG", "only/once.png")
    names = ["001/x.jpg", "images\\002\\x.jpg", "https://host.org/images/top.png", "top", "once.png", "x.jpg", None]
    with_paths = with_images(items(*"abcdefg", file=names), folder, file_column="file")
    assert found(with_paths) == [True, True, True, True, True, False, False]  # x.jpg might be either
    lists = pa.array([["no.jpg", "top.png"], [], None, ["once.png"]])
    assert found(with_images(items(*"abcd", file=lists), folder, file_column="file")) == [True, False, False, True]


def test_images_that_are_there_already_stay(tmp_path):
    put(tmp_path, "a.png")
    known = pa.array([{"bytes": b"old", "path": None}] * 2, pa.struct([("bytes", pa.binary()), ("path", pa.string())]))
    cells = with_images(items("a", "b", image=known), tmp_path)["image"].to_pylist()
    assert [cell["path"] for cell in cells] == ["a.png", None] and cells[1]["bytes"] == b"old"


def test_no_image_at_all_is_an_error_that_says_what_was_looked_for(tmp_path):
    put(tmp_path, "sub/0001.jpg", "sub/0002.jpg")
    with pytest.raises(
        ValueError, match=r"has 0 of 3 images\. Looked for <item_id> .*\.jpg.* 2 image files"
    ) as caught:
        with_images(items("1", "2", "7"), tmp_path)
    assert all(word in str(caught.value) for word in (str(tmp_path), "sub/0001", "'1', '2', '7'", "`image_column`"))
    assert "2 of them would be there without leading zeros" in str(caught.value)
    with pytest.raises(ValueError, match=r"has 0 of 1 images\. Looked for the names in 'file'"):
        with_images(items("1", file=["nothing.jpg"]), tmp_path, file_column="file")


def test_more_than_a_fifth_missing_is_a_warning(tmp_path, caplog):
    put(tmp_path, *(f"{i}.jpg" for i in range(8)), "x/9.jpg", "y/9.jpg")
    with caplog.at_level(logging.WARNING):
        with_images(items(*map(str, range(10))), tmp_path)  # a fifth
        assert not caplog.records
        with_images(items(*map(str, range(11))), tmp_path)
    (record,) = caplog.records
    assert "has 8 of 11 images" in record.getMessage() and "missing are '8', '9', '10'" in record.getMessage()
    assert "1 of them are names of files in several subfolders" in record.getMessage()


def test_what_cannot_be_read_keeps_its_name(tmp_path, monkeypatch):
    put(tmp_path, "a.png", "b.png")
    with open(tmp_path / "a.png", "ab") as file:
        file.write(bytes(1000))
    monkeypatch.setattr("vlm2rec_hf.data.images.MAX_BYTES", 1000)
    assert with_images(items("a", "b"), tmp_path)["image"].to_pylist()[0] == {"bytes": None, "path": "a.png"}


EVENTS = [{"user_id": "u", "item_id": i, "timestamp": i} for i in range(5)]


@pytest.mark.parametrize("column", ["image", "images"])
@pytest.mark.parametrize("form", ["rows", "arrow", "large", "fixed"])
def test_lists_of_images(column, form, caplog):
    red, blue = image("red"), image("blue")
    lists = [[red, blue], [blue], [None, red], [], None]
    if form == "rows":
        lists[1] = [Image.open(io.BytesIO(blue))]
        table = [{"item_id": i, column: one} for i, one in enumerate(lists)]
    else:
        kind = {"arrow": pa.list_(pa.binary()), "large": pa.large_list(pa.binary())}.get(
            form, pa.list_(pa.binary(), 2)
        )
        if form == "fixed":
            lists = [[red, blue], [blue, None], [None, red], [None, None], None]
        table = pa.table({"item_id": range(5), column: pa.array(lists, kind)})
        table = pa.concat_tables([table.slice(0, 2), table.slice(2)])
    with caplog.at_level(logging.WARNING):
        dataset = RecDataset.from_tables(EVENTS, table)
    shown = [dataset.item(i)["image"] for i in range(5)]
    assert [one and one.getpixel((0, 0)) for one in shown] == [(255, 0, 0), (0, 0, 255), (255, 0, 0), None, None]
    assert "1 items have several images" in caplog.text


def test_lists_of_addresses_are_no_images():
    rows = [{"item_id": i, "images": [{"large": "http://a/b.jpg"}]} for i in range(5)]
    assert RecDataset.from_tables(EVENTS, rows).items.column_names == ["item_id", "images"]
    rows = [{"item_id": i, "images": ["b.jpg"]} for i in range(5)]
    assert not RecDataset.from_tables(EVENTS, rows).item_has_image.any()


def test_a_broken_image_in_a_table_costs_its_item_the_image():
    cut = image()[:50]
    rows = [{"item_id": i, "image": Image.open(io.BytesIO(cut if i == 1 else image()))} for i in range(5)]
    dataset = RecDataset.from_tables(EVENTS, rows)
    assert dataset.item_has_image.tolist() == [True, False, True, True, True]
    assert dataset.coverage.items_image_path_only == 1
