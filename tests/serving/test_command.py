"""`vlm2rec serve RUN` without options, with two processes: the same list from server, command line and Python."""

import json
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from vlm2rec_hf.cli.main import main
from vlm2rec_hf.recommending.opening import open_recommender

from ..waiting import PATIENCE_S
from .live import httpx


@pytest.mark.slow  # three processes that each import torch
def test_two_processes_serve_a_run_as_python_and_the_command_line_do(run_folder, shop, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    command = [sys.executable, "-m", "vlm2rec_hf.cli.main", "serve", str(run), "--port", "0", "--workers", "2"]
    log = (tmp_path / "log").open("w+")
    server = subprocess.Popen([*command, "--threads", "1"], stderr=log, stdout=log)
    try:
        history = [str(item) for item in shop.item_ids[:3]]
        (ours,) = open_recommender(run).recommend([history], 5)
        parts = ["--model", run / "embedder", "--dataset", run / "shop", "--index", run / "index"]
        assert main(["recommend", *map(str, parts), "--history", ",".join(history), "-k", "5"]) == 0
        lines = capsys.readouterr().out.splitlines()[1:6]
        text = lambda: (tmp_path / "log").read_text()  # noqa: E731
        end = time.monotonic() + 250
        while text().count('"ready"') < 2 and time.monotonic() < end and server.poll() is None:
            time.sleep(0.1)
        url = re.search(r"http://127\.0\.0\.1:\d+", text())[0]

        def theirs():
            answer = httpx.post(f"{url}/recommend", json={"history": history, "k": 5}, timeout=PATIENCE_S)
            return [one["item_id"] for one in answer.json()["items"]]

        assert theirs() == ours.item_ids == [line.split()[1] for line in lines]
        user = f"{url}/users/new"
        lengths = [
            httpx.post(f"{user}/clicks", json={"items": history[:1]}, timeout=PATIENCE_S).json()["length"]
            for _ in range(6)
        ]
        assert lengths == [1, 2, 3, 4, 5, 6]  # whichever process was asked
        assert httpx.put(f"{url}/items/n1", json={"text": "tent"}, timeout=PATIENCE_S).status_code == 200
        for _ in range(6):
            body = {"history": ["n1"], "candidates": ["n1"], "exclude_seen": False}
            found = httpx.post(f"{url}/recommend", json=body, timeout=PATIENCE_S).json()["items"]
            assert [one["item_id"] for one in found] == ["n1"]
        counted = httpx.get(f"{url}/metrics", timeout=PATIENCE_S).text
        assert re.search(r"^vlm2rec_clicks_total 6\.0$", counted, re.MULTILINE)
        server.send_signal(signal.SIGTERM)
        assert server.wait(30) == 0
        events = [json.loads(line)["event"] for line in text().splitlines() if line.startswith("{")]
        assert events.count("ended") == 2 and "error" not in events
    finally:
        server.kill()
        server.wait()
        log.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "Name a folder"),
        (["no/such"], "`--folder` 'no/such' holds neither"),
        (["RUN", "--host", "0.0.0.0"], "`--host` '0.0.0.0' can be reached from other machines"),
        (["RUN", "--api_token_file", "absent"], "`--api_token_file` 'absent' cannot be read"),
        (["RUN", "--max_batch", "0"], "`--max_batch` must be above 0"),
        (["RUN", "--workers", "0"], "`--workers`"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_cannot_be_served_is_said_before_anything_listens(options, message, run_folder, capsys):
    assert main(["serve", *(str(run_folder) if word == "RUN" else word for word in options)]) == 2
    assert message in capsys.readouterr().err


def test_the_command_line_lists_what_the_server_lists(run_folder, live, shop, capsys):
    history = [str(item) for item in shop.item_ids[:3]]
    answer = live().client.post("/recommend", json={"history": history, "k": 5}).json()
    parts = ["--model", run_folder / "embedder", "--dataset", run_folder / "shop", "--index", run_folder / "index"]
    assert main(["recommend", *map(str, parts), "--history", ",".join(history), "-k", "5"]) == 0
    lines = capsys.readouterr().out.splitlines()[1:6]
    assert [line.split()[1] for line in lines] == [one["item_id"] for one in answer["items"]]


def test_a_taken_port_is_named():
    import socket

    from vlm2rec_hf.serving.running import serve
    from vlm2rec_hf.serving.settings import ServerSettings

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ValueError, match=f"`port` {port}"):
            serve("no.such:app", ServerSettings(), host="127.0.0.1", port=port, workers=1, listening=print)
