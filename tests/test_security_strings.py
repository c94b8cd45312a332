"""A text that looks like an address or a path is a text: nothing is ever opened or called because of it."""

import csv
import json
import shutil
import sys
from contextlib import contextmanager
from urllib.parse import unquote

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

from vlm2rec_hf.catalogues.prepared_catalogue import PreparedCatalogue
from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.hub_images import for_hub
from vlm2rec_hf.data.readers import load_recsys

CANARY = "canary-7f3a.png"
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "socket.sendto")
_watching: list[list[tuple[str, str]]] = []


def _hook(event, arguments):
    # An audit hook sees every way to open a file or a connection from Python, `os.open` and PIL included.
    if _watching and (event == "open" or event in NETWORK):
        _watching[-1].append((event, " ".join(str(argument) for argument in arguments)))


sys.addaudithook(_hook)


@contextmanager
def nothing_touched(text):
    """No connection within, and no file opened whose name is `text` or the file it points at."""
    seen = []
    _watching.append(seen)
    try:
        yield
    finally:
        _watching.pop()
    plain = unquote(text.strip().removeprefix("file://"))
    guilty = [
        (event, what)
        for event, what in seen
        if event in NETWORK or CANARY in what or (len(plain) > 3 and (plain in what or text in what))
    ]
    assert guilty == []


def test_the_watch_sees_what_it_watches_for(tmp_path):
    import os
    import socket
    import urllib.request

    path = tmp_path / CANARY
    Image.new("RGB", (4, 4)).save(path)
    for touch in (
        lambda: path.read_bytes(),
        lambda: os.close(os.open(path, os.O_RDONLY)),
        lambda: Image.open(path).load(),
        lambda: urllib.request.urlopen(f"file://{path}").read(),
        lambda: socket.create_connection(("127.0.0.1", 9), timeout=0.01),
    ):
        with pytest.raises(AssertionError), nothing_touched(str(path)):
            try:
                touch()
            except OSError:
                pass
    with nothing_touched(str(path)):
        str(path).upper()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a real image whose path serves as a title."""
    folder = tmp_path_factory.mktemp("images")
    Image.new("RGB", (8, 8), "red").save(folder / CANARY)
    return folder


def pointing(draw_path):
    """Texts that point somewhere: web, local, share, device, inline data."""
    words = st.text("abcxyz0189-_%", min_size=1, max_size=12)
    hosts = st.sampled_from(
        ["example.org", "127.0.0.1:9", "localhost", "[::1]", "169.254.169.254", "user:pw@host.test"]
    )
    schemes = st.sampled_from(["http", "https", "ftp", "s3", "hf", "file", "gs", "HTTP"])
    endings = st.sampled_from(["", ".png", ".jpg", ".webp?size=2", "#x"])
    web = st.builds(lambda s, h, w, e: f"{s}://{h}/{w}{e}", schemes, hosts, words, endings)
    local = st.sampled_from(
        [draw_path, f"file://{draw_path}", f" {draw_path} ", f"{draw_path}\n", "/dev/stdin", "/dev/random",
         "/etc/passwd", "~/.ssh/id_rsa", "C:\\Windows\\win.ini", "NUL", "../../../etc/shadow"]
    )  # fmt: skip
    share = st.builds(lambda h, w: f"\\\\{h}\\share\\{w}.png", hosts, words)
    inline = st.builds(lambda w: f"data:image/png;base64,{w}", words)
    return st.one_of(web, local, share, inline)


# Resolved when an example is drawn: the folder is known only then.
TITLES = st.deferred(lambda: pointing("@CANARY@"))
MANY = settings(
    max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FEW = settings(MANY, max_examples=12)


def placed(text, place):
    return text.replace("@CANARY@", str(place / CANARY))


def shop(title, **item):
    events = [{"user_id": "u", "item_id": "a", "timestamp": 1}, {"user_id": title, "item_id": "a", "timestamp": 2}]
    rows = [{"item_id": "a", "title": title, "text": title, "description": title, **item}]
    return RecDataset.from_tables(events, rows, name=title)


@MANY
@given(text=TITLES)
@example(text="http://example.org/x.png")
@example(text="@CANARY@")
def test_a_table_keeps_the_text_and_touches_nothing(place, text):
    title = placed(text, place)
    with nothing_touched(title):
        dataset = shop(title)
        item = dataset.item(0)
        assert item == {"text": title, "image": None}
        assert dataset.item_texts() == [title] and dataset.catalogue_items()[0]["text"] == title
        assert dataset.check_images().coverage.items_with_image == 0
        assert title in dataset.sequences().user_ids
        dataset.describe()


@FEW
@given(text=TITLES)
@example(text="@CANARY@")
def test_an_image_that_is_only_named_is_not_looked_for(place, text, tmp_path):
    title = placed(text, place)
    with nothing_touched(title):
        dataset = shop("lamp", image={"bytes": None, "path": title})
        assert dataset.item(0)["image"] is None
        assert dataset.coverage.items_image_path_only == 1
        for_others, label = for_hub(dataset.items)
        assert for_others[0]["image"] is None and for_others[0][label] == title
        # `datasets` would read the file into the saved table, decoding or not.
        dataset.save(tmp_path / "d", overwrite=True)
        again = RecDataset.load(tmp_path / "d")
        assert again.items[0]["image"] == {"bytes": None, "path": title}
        again.verify()
        with pytest.raises(ValueError, match="never opened or fetched"):
            shop("lamp", image=title)


@FEW
@given(text=TITLES)
@example(text="@CANARY@")
def test_files_with_such_texts_are_read_as_text(place, text, tmp_path):
    title = placed(text, place)
    folder = tmp_path / "csv"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, rows in (
        ("interactions", [["user_id", "item_id", "timestamp"], ["u", "a", 1]]),
        ("items", [["item_id", "title"], ["a", title]]),
    ):
        with open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
    with nothing_touched(title):
        dataset = load_recsys(folder)
        assert dataset.item(0)["text"].strip() == title.strip()
        dataset.save(tmp_path / "saved", overwrite=True)
        assert RecDataset.load(tmp_path / "saved").item(0)["text"].strip() == title.strip()


@pytest.fixture(scope="module", params=["qwen2_vl", "smolvlm"])
def embedder(request):
    from vlm2rec_hf.tiny.backbones import tiny_vlm

    model, processor = tiny_vlm(request.param, ["red tent"], hidden_size=32, vision_hidden_size=32)
    processor(items=["warm up"])
    return model, processor


@FEW
@given(text=TITLES)
@example(text="http://example.org/x.png")
@example(text="@CANARY@")
def test_the_model_reads_the_text_and_no_image(place, embedder, text):
    title = placed(text, place)
    model, processor = embedder
    with nothing_touched(title):
        batch = processor(items=[title, {"text": title}])
        assert batch["has_text"].tolist() == [True, True] and batch["has_image"].tolist() == [False, False]
        assert "pixel_values" not in batch
        assert not processor(histories=[[title, {"text": title, "image": None}]])["has_image"].any()
        assert len(PreparedCatalogue([title, {"text": title}], processor)) == 2
        with pytest.raises(TypeError, match="`image` of an item must be a PIL"):
            processor(items=[{"text": "x", "image": title}])
        with pytest.raises(TypeError, match="`items` must be a list"):
            processor(items=title)


def test_vectors_of_such_texts_are_those_of_texts(place, embedder):
    model, processor = embedder
    title = str(place / CANARY)
    with nothing_touched(title):
        found = model.encode_items([title, {"text": title}, "https://example.org/a.png"], processor)
        users = model.encode_histories([[title, "https://example.org/a.png"]], processor)
    assert found.has_text.all() and not found.has_image.any() and not users.has_image.any()
    assert (found.both[0] - found.both[1]).abs().max() < 1e-6


# ---- folders and repos of others, whose columns claim to be images


def claiming(place):
    """Items in which a second column claims to be an image, and names a file."""
    cell = {"bytes": None, "path": str(place / CANARY)}
    table = pa.table({"item_id": ["a"], "title": ["lamp"], "image": [cell], "thumb": [cell]})
    features = datasets.Features(
        item_id=datasets.Value("string"),
        title=datasets.Value("string"),
        image=datasets.Image(),
        thumb=datasets.Image(),
    )
    return datasets.Dataset(table.cast(features.arrow_schema), info=datasets.DatasetInfo(features=features))


def test_a_saved_folder_cannot_make_us_open_files(place, tmp_path):
    shop("lamp").save(tmp_path / "d")
    claims = claiming(place)
    with pytest.raises(AssertionError), nothing_touched(CANARY):
        claims[0]  # the trap works: `datasets` itself does open the file
    shutil.rmtree(tmp_path / "d" / "items")
    # Saved by way of plain types: `save_to_disk` of the claims themselves would read the file at once.
    plain = datasets.Dataset(claims.data.table.replace_schema_metadata(None))
    plain.save_to_disk(str(tmp_path / "d" / "items"))
    about = tmp_path / "d" / "items" / "dataset_info.json"
    about.write_text(json.dumps({**json.loads(about.read_text()), "features": claims.features.to_dict()}))
    arrow = next((tmp_path / "d" / "items").glob("*.arrow"))
    with pa.OSFile(str(arrow), "wb") as file, pa.ipc.new_stream(file, claims.features.arrow_schema) as writer:
        writer.write_table(claims.data.table)
    with pytest.raises(AssertionError), nothing_touched(CANARY):
        datasets.load_from_disk(str(tmp_path / "d" / "items"))[0]
    info = json.loads((tmp_path / "d" / "rec_dataset.json").read_text())
    info["files"] = {n: s for n, s in info["files"].items() if not n.startswith("items/")}
    (tmp_path / "d" / "rec_dataset.json").write_text(json.dumps(info))
    with nothing_touched(CANARY):
        loaded = RecDataset.load(tmp_path / "d")
        assert loaded.item(0) == {"text": "lamp", "image": None}
        assert loaded.items[0]["thumb"]["bytes"] is None
        assert loaded.item_texts() == ["lamp"]


def test_a_repo_cannot_make_us_open_files(place, hub, tmp_path, monkeypatch):
    from huggingface_hub import HfApi

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    HfApi().create_repo("org/trap", repo_type="dataset")
    events = datasets.Dataset.from_list([{"user_id": "u", "item_id": "a", "timestamp": 1}])
    events.push_to_hub("org/trap", "interactions")
    claiming(place).push_to_hub("org/trap", "items", embed_external_files=False)
    seen = []
    _watching.append(seen)
    try:
        dataset = load_recsys("org/trap")
        assert dataset.item(0) == {"text": "lamp", "image": None}
        streams = load_recsys("org/trap", streaming=True)
        row = next(iter(streams["items"]))
        assert row["thumb"]["bytes"] is None
        built = RecDataset.from_tables(streams["interactions"], streams["items"])
        assert built.items[0]["title"] == "lamp"
    finally:
        _watching.pop()
    assert [what for event, what in seen if CANARY in what] == []
    assert seen  # files of the cache and the loopback Hub were
