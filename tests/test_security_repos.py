"""A dataset repo of a stranger is data: nothing it names elsewhere is asked for, and nothing in it is unpickled."""

import io
import json
import tarfile
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import datasets
import pytest
import torch
from huggingface_hub import HfApi

from vlm2rec_hf.data.readers import load_recsys

REPO = "org/evil"
ROWS = b"user_id,item_id,timestamp\nann,SECRET,1\nann,b,2\n"


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")


@pytest.fixture
def elsewhere():
    """Another server; `hits` lists what it was asked for."""
    hits = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):  # noqa: N802
            hits.append((self.command, self.path))
            self.send_response(200)
            self.send_header("Content-Length", str(len(ROWS)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(ROWS)

        do_HEAD = do_GET

        def log_message(self, *args):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    server.hits = hits
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def upload(**files):
    api = HfApi()
    api.create_repo(REPO, repo_type="dataset", exist_ok=True)
    for path, content in files.items():
        api.upload_file(repo_id=REPO, repo_type="dataset", path_or_fileobj=content, path_in_repo=path)


def declare(interactions, items=None):
    card = ["---", "configs:", "- config_name: interactions", f"  data_files: {json.dumps(interactions)}"]
    card += ["- config_name: items", f"  data_files: {json.dumps(items)}"] if items else []
    return "\n".join([*card, "---", ""]).encode()


def fetched(hub):
    """The files of the repo that were asked for."""
    return {path.split("/resolve/")[1].split("/", 1)[1] for _, path, _ in hub.requests if "/resolve/" in path}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("how", ["address", "address and file", "address for items", "path", "other repo", "yaml"])
def test_what_a_card_names_elsewhere_is_never_asked_for(hub, elsewhere, tmp_path, how, streaming):
    address = f"http://127.0.0.1:{elsewhere.server_port}/secret.csv"
    secret = tmp_path / "secret.csv"
    secret.write_bytes(ROWS)
    card = {
        "address": declare(address),
        "address and file": declare(["a.csv", address]),
        "address for items": declare("a.csv", address),
        "path": declare(str(secret)),
        "other repo": declare("hf://datasets/org/private/secret.csv"),
        "yaml": declare("a.csv"),
    }[how]
    HfApi().create_repo("org/private", repo_type="dataset", private=True)
    HfApi().upload_file(repo_id="org/private", repo_type="dataset", path_or_fileobj=ROWS, path_in_repo="secret.csv")
    upload(**{"README.md": card, "a.csv": b"user_id,item_id,timestamp\nann,a,1\n"})
    if how == "yaml":  # `datasets` reads this file over the card
        upload(**{".huggingface.yaml": declare(address).strip(b"-\n")})
        hub.requests.clear()
        found = load_recsys(REPO, streaming=streaming)
        rows = list(found["interactions"]) if streaming else found.interactions.to_list()
        assert [row["item_id"] for row in rows] == ["a"]
    else:
        hub.requests.clear()
        with pytest.raises(ValueError, match="`data_files`, which is no relative path within the repo"):
            load_recsys(REPO, streaming=streaming)
        assert fetched(hub) <= {"README.md", "dataset.json"}
    assert elsewhere.hits == [] and not any("private" in path for _, path, _ in hub.requests)


def webdataset():
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        tensor = io.BytesIO()
        torch.save({"x": torch.ones(2)}, tensor)
        for name, content in (("0.pth", tensor.getvalue()), ("0.json", b'{"user_id": "u", "item_id": "i"}')):
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("name", ["a.tar", "a.pkl", "a.pth", "a.csv.pkl", "a.zip", "a.h5", "a.png"])
def test_what_could_be_unpickled_is_not_even_fetched(hub, monkeypatch, name, streaming):
    loads = []
    honest = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **options: loads.append(args) or honest(*args, **options))
    for config in (declare(name), declare("b.csv", name), declare("*")):
        upload(**{"README.md": config, name: webdataset(), "b.csv": ROWS})
        hub.requests.clear()
        with pytest.raises(ValueError, match=f"names '{name}', which has none of the endings"):
            load_recsys(REPO, streaming=streaming)
        assert fetched(hub) <= {"README.md", "dataset.json"} and loads == []


def test_a_list_of_files_of_our_form_names_no_patterns(hub):
    info = {
        "format_version": 1, "fingerprint": "x", "image_path_column": None, "name": "n", "split": {}, "steps": [],
        "files": {"interactions/x.parquet": 1, "items/[a-z]*.parquet": 1},
    }  # fmt: skip
    upload(**{"README.md": b"x", "dataset.json": json.dumps(info).encode(), "items/big.parquet": b"x" * 20_000})
    hub.requests.clear()
    with pytest.raises(ValueError, match=r"lists 'items/\[a-z\]\*.parquet', which is no data file"):
        load_recsys(REPO)
    assert fetched(hub) <= {"README.md", "dataset.json"}
