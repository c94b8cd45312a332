"""The README's "Serve it" does what it says: its server is started, its requests are sent."""

import json
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ..waiting import PATIENCE_S

README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def lines():
    section = README.split("## Serve it\n", 1)[1]
    return re.findall(r"```bash\n(.*?)```", section, flags=re.DOTALL)[0].splitlines()


def request(words, port):
    """A `curl` line as a request to another port."""
    data = words[words.index("-d") + 1].encode() if "-d" in words else None
    headers = dict([words[words.index("-H") + 1].split(": ")]) if "-H" in words else {}
    (address,) = [word for word in words if word.startswith("localhost:8000/")]
    where = address.replace("localhost:8000", f"http://127.0.0.1:{port}")
    with urllib.request.urlopen(urllib.request.Request(where, data, headers), timeout=PATIENCE_S) as answer:
        return json.loads(answer.read())


def test_serve_it(run_folder, tmp_path):
    serve, *requests = lines()
    assert len(lines()) <= 10
    shutil.copytree(run_folder, tmp_path / "runs" / "quickstart")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words = [sys.executable, "-m", "vlm2rec_hf.cli.main", *shlex.split(serve)[1:], "--port", str(port)]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(words, cwd=tmp_path, stderr=log, stdout=log) as server:
        try:
            until = time.monotonic() + PATIENCE_S
            while True:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=5).close()
                    break
                except (urllib.error.URLError, ConnectionError):
                    assert server.poll() is None and time.monotonic() < until, (tmp_path / "log").read_text()
                    time.sleep(0.2)
            listed, _, again = [request(shlex.split(line), port) for line in requests]
        finally:
            server.terminate()
            server.wait(30)
    assert len(listed["items"]) == len(again["items"]) == 5
    assert "p000012" not in [item["item_id"] for item in again["items"]]
    for one, other in zip(listed["items"], again["items"], strict=True):  # anna's one click is that history
        assert one.pop("score") == pytest.approx(other.pop("score"), abs=1e-5)
        assert one == other
