"""The first hour with one's own files: any names, images by a pattern, and loud where the data is useless."""

import io
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm2rec_hf import RecDataset, load_recsys
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.readers.image_pattern import paths_by_pattern
from vlm2rec_hf.data.usefulness import losses

IDS = [f"0{n:03d}75015" for n in range(8)]


def png(color="red"):
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), color).save(buffer, format="PNG")
    return buffer.getvalue()


def write_shop(folder, *, images=True, log_ids=IDS, item_ids=IDS):
    """A shop's own files: other names, other columns, images in sub-folders named by the first digits."""
    folder.mkdir(parents=True, exist_ok=True)
    events = [
        f"c{user};{log_ids[(user + step) % len(log_ids)]};{100 + step}" for user in range(6) for step in range(5)
    ]
    (folder / "T.csv").write_text("\n".join(["customer;article;when", *events]))
    (folder / "A.csv").write_text("\n".join(["article,prod_name", *(f"{item},Shirt {item}" for item in item_ids)]))
    for item in item_ids if images else ():
        (folder / "images" / item[:3]).mkdir(parents=True, exist_ok=True)
        (folder / "images" / item[:3] / f"{item}.PNG").write_bytes(png())
    return folder


MAPPING = {"customer": "user_id", "article": "item_id", "when": "timestamp", "prod_name": "title"}
WORDS = ",".join(f"{theirs}={ours}" for theirs, ours in MAPPING.items())


def from_files(shop, **options):
    options = {"image_folder": shop / "images", "image_pattern": "{article[:3]}/{article}.png", **options}
    return RecDataset.from_files(shop / "T.csv", shop / "A.csv", column_mapping=MAPPING, **options)


def test_files_of_any_name_and_images_by_a_pattern(tmp_path, capsys):
    """From Python and from the command line: the same dataset, every image found."""
    shop = write_shop(tmp_path / "shop")
    dataset = from_files(shop)
    assert (dataset.n_users, dataset.n_items, dataset.n_interactions) == (6, len(IDS), 30)
    assert dataset.coverage.items_with_both == len(IDS)
    assert dataset.item(3)["text"] == f"Shirt {IDS[3]}" and dataset.item(3)["image"].size == (6, 4)
    command = ["prepare", "--interactions", str(shop / "T.csv"), "--items", str(shop / "A.csv")]
    command += ["--column_mapping", WORDS, "--image-folder", str(shop / "images")]
    command += ["--image-pattern", "{item_id[:3]}/{item_id}"]
    assert main([*command, "--split", "none", "--output", str(tmp_path / "data")]) == 0
    assert RecDataset.load(tmp_path / "data").fingerprint == dataset.fingerprint
    assert "Next: vlm2rec train" in capsys.readouterr().err


def test_parquet_files_and_a_mapping_for_each_table(tmp_path):
    pq.write_table(pa.table({"id": ["u", "u"], "sku": [7, 8], "position": [1, 2]}), tmp_path / "log-2024.parquet")
    pq.write_table(pa.table({"id": [7, 8], "name": ["Mug", "Cup"]}), tmp_path / "products.parquet")
    mapping = {"interactions": {"id": "user_id", "sku": "item_id"}, "items": {"id": "item_id", "name": "title"}}
    dataset = RecDataset.from_files(
        tmp_path / "log-2024.parquet", tmp_path / "products.parquet", column_mapping=mapping
    )
    assert dataset.item_ids.tolist() == ["7", "8"] and dataset.item_texts() == ["Mug", "Cup"]


@given(
    value=st.text(st.characters(exclude_characters="\0/\\", exclude_categories=["Cs"]), min_size=1, max_size=12),
    start=st.none() | st.integers(-9, 9),
    stop=st.none() | st.integers(-9, 9),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_parts_are_pythons(value, start, stop):
    part = (
        "" if start is None and stop is None else f"[{'' if start is None else start}:{'' if stop is None else stop}]"
    )
    items = pa.table({"item_id": [value, None], "n": [1, 2]})
    cut = value[start:stop] if part else value
    expected = f"a/x{cut}_1.jpg"
    assert paths_by_pattern(items, f"a/x{{item_id{part}}}_{{n}}.jpg") == [expected, None]


@pytest.mark.parametrize("value", ["../../secret", "/etc/passwd", "..", "a\0b"])
def test_no_path_leads_out_of_the_folder(tmp_path, value):
    """A value of somebody's table never makes another file be opened."""
    (tmp_path / "images").mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    assert paths_by_pattern(pa.table({"item_id": [value]}), "{item_id}") == [None]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"image_pattern": "{color}.jpg"}, "'color'.*article_id"), ({"image_pattern": "x.jpg"}, "braces"),
     ({"image_pattern": "{item_id"}, "braces"), ({"image_folder": "no-such-folder"}, "no folder 'no-such-folder'"),
     ({"image_folder": None}, "`image_pattern` needs `image_folder`"), ({"image_column": "x"}, "at most one")],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(tmp_path, options, message):
    shop = write_shop(tmp_path, images=True)
    message = message.replace("article_id", "item_id")
    with pytest.raises(ValueError, match=message):
        from_files(shop, **options)


def test_images_that_are_not_found_are_said_with_what_was_looked_for(tmp_path, caplog):
    shop = write_shop(tmp_path)
    with pytest.raises(ValueError, match="0 images of 8 items") as error:
        from_files(shop, image_pattern="{item_id}_front.jpg")
    assert f"{IDS[0]}_front.jpg" in str(error.value) and IDS[0][:3] in str(error.value)
    for item in IDS[:3]:
        (shop / "images" / item[:3] / f"{item}.PNG").unlink()
    with caplog.at_level(logging.WARNING, logger="vlm2rec_hf"):
        dataset = from_files(shop)
    assert "5 images of 8 items" in caplog.text and dataset.coverage.items_image_path_only == 3
    assert from_files(shop, image_pattern=None).coverage.items_with_image == 5  # by id, subfolders searched


def prepared(shop, tmp_path, capsys, *more):
    code = main(["prepare", "--interactions", str(shop / "T.csv"), "--items", str(shop / "A.csv"), "--column_mapping",
                 WORDS, "--output", str(tmp_path / "data"), *more])  # fmt: skip
    return code, capsys.readouterr().err


def test_ids_that_lost_their_leading_zeros_are_said(tmp_path, capsys):
    """One file went through a program that reads ids as numbers. Nothing matches: an error; half: a warning."""
    shop = write_shop(tmp_path / "all", images=False, log_ids=[item.lstrip("0") for item in IDS])
    code, error = prepared(shop, tmp_path, capsys)
    assert code == 2 and "leading zeros" in error and repr(IDS[0]) in error and repr(IDS[0].lstrip("0")) in error
    assert not (tmp_path / "data").exists()
    mixed = [item.lstrip("0") if place % 2 else item for place, item in enumerate(IDS)]
    code, error = prepared(write_shop(tmp_path / "half", images=False, log_ids=mixed), tmp_path, capsys)
    assert code == 0 and "leading zeros" in error and "went to the quarantine" in error
    assert "Next: vlm2rec train" not in error


def test_items_with_neither_text_nor_image_are_said(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop", images=False)
    (shop / "A.csv").write_text("\n".join(["article,prod_name", *(f"{item}," for item in IDS)]))
    code, error = prepared(shop, tmp_path, capsys)
    assert code == 0 and "None of the 8 items has a text or an image" in error and "column_mapping" in error
    assert "Next: vlm2rec train" not in error and "--method seqrec" in error


REASONS = st.sampled_from(["unknown_item", "bad_line", "duplicate"])


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(REASONS, st.integers(0, 100)), st.integers(0, 300))
def test_more_than_a_fifth_in_quarantine_is_a_warning(quarantined, kept):
    lost = quarantined.get("unknown_item", 0) + quarantined.get("bad_line", 0)
    assert bool(losses(quarantined, kept)) == (lost > 0.2 * (kept + sum(quarantined.values())))


@pytest.mark.parametrize("name", ["no-such-folder", "data/no-such-folder", "./nowhere", "/nowhere/at/all"])
def test_a_wrong_path_is_no_folder(name, capsys):
    with pytest.raises(ValueError, match=f"no folder '{name}'"):
        load_recsys(name)
    assert main(["train", "--dataset", name, "--tiny", "qwen2_vl", "--output_dir", "x"]) == 2
    assert f"`--dataset`: there is no folder '{name}'" in capsys.readouterr().err
    if name.count("/") == 1 and name[0] != ".":
        assert main(["evaluate", "--dataset", name, "--model", name, "--output", "x"]) == 2
        assert main(["recommend", "--model", name, "--history", "a"]) == 2
        assert f"`--model`: there is no folder '{name}'" in capsys.readouterr().err


def test_options_of_files_are_checked_before_anything_is_read(tmp_path, capsys):
    shop = write_shop(tmp_path / "shop", images=False)
    assert main(["prepare", "--dataset", "x", "--interactions", "y", "--output", str(tmp_path / "o")]) == 2
    assert main(["prepare", "--items", "y", "--output", str(tmp_path / "o")]) == 2
    assert main(["prepare", "--interactions", "no.csv", "--output", str(tmp_path / "o")]) == 2
    error = capsys.readouterr().err
    assert "not both" in error and "`--interactions` is required" in error and "no file 'no.csv'" in error
    (tmp_path / "file").write_text("mine")
    for output in (tmp_path / "file", shop):
        assert prepared(shop, tmp_path, capsys, "--output", str(output))[0] == 2
    assert (tmp_path / "file").read_text() == "mine"
