"""A real server and a real client: every route, every limit, hostile, huge, slow and concurrent requests."""

import base64
import concurrent.futures
import json
import signal
import socket
import struct
import time
import zlib

import pytest

from vlm2rec_hf.serving.running import listening_socket

from .live import httpx

TOKEN = "a-token-of-this-very-test"


def ids_of(answer):
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def recommended(server, history, **more):
    return ids_of(server.client.post("/recommend", json={"history": history, **more}))


@pytest.fixture(scope="module")
def served(run_folder, loaded, shop, tmp_path_factory):
    """One server for all tests that change nothing for others."""
    import shutil

    from vlm2rec_hf import recommender

    from .live import Live

    folder = tmp_path_factory.mktemp("one")
    shutil.copytree(run_folder / "index", folder / "index")
    with Live(
        lambda: recommender(loaded, shop, index=folder / "index"), folder / "log", state=str(folder / "state"),
        max_body_mb=0.2, max_image_mb=0.1, receive_s=1.0, max_pixels=10_000,
    ) as server:  # fmt: skip
        yield server


def test_lists_are_those_of_python(served, open_copy, shop, image):
    ours = open_copy()
    history = [str(item) for item in shop.item_ids[:3]]
    (best,) = ours.recommend([history], 5, explain=True)
    answer = served.client.post("/recommend", json={"history": history, "k": 5, "explain": True}).json()
    assert [item["item_id"] for item in answer["items"]] == best.item_ids
    assert [item["score"] for item in answer["items"]] == pytest.approx(best.scores, abs=1e-6)
    assert [item["title"] for item in answer["items"]] == best.titles
    for item in answer["items"]:
        assert sum(item["reason"]["shares"].values()) == pytest.approx(item["score"], abs=1e-6)
        assert {pull["item_id"] for pull in item["reason"]["pulls"]} == set(history)
    (near,) = ours.similar([history[0]], 4)
    assert ids_of(served.client.post("/similar", json={"item": history[0], "k": 4})) == near.item_ids
    assert ids_of(served.client.post("/similar", json={"item": {"image": image}, "k": 2}))
    told = {"filter": {"item_id": best.item_ids[1:3]}, "view_weights": {"text": 1, "image": 0.5}}
    (some,) = ours.recommend([history], 5, **told)
    assert recommended(served, history, k=5, **told) == some.item_ids
    assert set(some.item_ids) == set(best.item_ids[1:3])
    assert recommended(served, history, candidates=best.item_ids[:1]) == best.item_ids[:1]
    popular = served.client.post("/recommend", json={"history": ["none-such"], "on_unknown": "skip"}).json()
    assert popular["source"] == "popularity" and popular["n_unknown"] == 1


def test_a_click_changes_what_a_user_gets(served, shop, open_copy):
    item = str(shop.item_ids[7])
    before = served.client.get("/users/anna%2Fb/recommendations").json()
    assert before["source"] == "popularity"
    answer = served.client.post("/users/anna%2Fb/clicks", json={"items": [item, "lost"], "on_unknown": "skip"})
    assert answer.json() == {"length": 1, "n_unknown": 1}
    after = served.client.get("/users/anna%2Fb/recommendations", params={"k": 3}).json()
    assert after["source"] == "model"
    assert [one["item_id"] for one in after["items"]] == recommended(served, [item], k=3)
    more = str(shop.item_ids[9])  # what was read of the first click is kept
    served.client.post("/users/anna%2Fb/clicks", json={"items": [more]})
    grown = served.client.get("/users/anna%2Fb/recommendations", params={"k": 3})
    assert ids_of(grown) == recommended(served, [item, more], k=3)
    user = str(shop.sequences().user_ids[0])
    (theirs,) = open_copy().recommend(users=[user], k=3)
    assert ids_of(served.client.get(f"/users/{user}/recommendations?k=3")) == theirs.item_ids
    refused = served.client.post("/users/anna/clicks", json={"items": ["lost"]})
    assert refused.status_code == 422 and "lost" in refused.json()["detail"]


def test_a_new_item_is_recommended_at_once_and_can_go_again(served, image):
    put = served.client.put(
        "/items/shoe%2F1", json={"text": "Alpina tent", "image": image, "metadata": {"title": "T"}}
    )
    assert put.status_code == 200, put.text
    assert recommended(served, ["shoe/1"], candidates=["shoe/1"], exclude_seen=False) == ["shoe/1"]
    assert served.client.put("/items/shoe/1", json={"metadata": {"title": "U"}}).status_code == 200
    (found,) = served.client.post("/recommend", json={"history": [], "candidates": ["shoe/1"]}).json()["items"]
    assert found["title"] == "U" and found["metadata"]["text"] == "Alpina tent"
    assert served.client.put("/items/x", json={"metadata": {"no such": 1}}).status_code == 422
    assert served.client.put("/items/x", json={}).status_code == 422
    assert served.client.put("/items/x", json={"metadata": {"text": "t"}}).status_code == 422
    assert served.client.delete("/items/shoe/1").json() == {"deleted": 1}
    assert served.client.delete("/items/shoe/1").status_code == 404
    assert served.client.put("/items/y", json={"text": "lamp"}).status_code == 200
    assert served.client.delete("/items", params={"item_id": ["y", "z"]}).json() == {"deleted": 1}


def png_of(width, height):
    """The header of a huge image without its pixels."""
    data = b"\x89PNG\r\n\x1a\n"
    for chunk in (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT" + zlib.compress(b"")):
        data += struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return base64.b64encode(data).decode()


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 422, "JSON"),
        (b'{"history": ["p000001"], "k": 0}', 422, "`k`"),
        (b'{"history": ["p000001"], "k": 5000}', 422, "at most 1000"),
        (b'{"history": ["none"]}', 422, "none"),
        (b'{"history": "p000001"}', 422, "`history`"),
        (b'{"history": [{"text": "a", "path": "/etc/passwd"}]}', 422, "path"),
        (b'{"history": [{"image": "/etc/passwd"}]}', 422, "base64"),
        (b'{"history": [{"image": "http://127.0.0.1:1/x.png"}]}', 422, "base64"),
        (b'{"history": [{"image": "AAAA"}]}', 422, "not_an_image"),
        (b'{"history": [{"image": "%s"}]}' % png_of(20_000, 20_000).encode(), 422, "too_many_pixels"),
        (b'{"history": [{"image": "%s"}]}' % (b"A" * 150_000), 413, "0.1 MB"),
        (b'{"history": [%s]}' % b",".join([b'{"text": "a"}'] * 40), 422, "At most 32"),
        (b'{"history": [], "filter": {"no": 1}}', 422, "`filter`"),
        (b'{"history": ["p000001"], "view_weights": {"text": NaN}}', 422, "view_weights"),
        (b'{"history": ["p000001"], "surprise": 1}', 422, "surprise"),
        (b"[" * 100_000, 400, ""),
        (b'{"history": []' + b" " * 300_000 + b"}", 413, "0.2 MB"),
        (b"\xff\xfe", 422, ""),
    ],
    ids=lambda value: str(value)[:24],
)
def test_bad_requests_are_told_what_is_wrong(served, body, status, says):
    answer = served.client.post("/recommend", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert "Traceback" not in answer.text and ".py" not in answer.text


def raw(server, data, wait=5.0):
    """What a server answers to bytes, and after how many seconds the connection ends."""
    begun = time.monotonic()
    with socket.create_connection(("127.0.0.1", server.port), timeout=wait) as one:
        one.sendall(data)
        answer = b""
        while part := one.recv(65536):
            answer += part
    return answer, time.monotonic() - begun


def test_slow_malformed_and_endless_requests_are_cut_off(served):
    answer, seconds = raw(served, b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
    assert b" 408 " in answer.split(b"\r\n")[0] and seconds < 4
    answer, seconds = raw(served, b"GET /healthz HT")  # a head that never ends
    assert answer == b"" and seconds < 4
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as one:  # nor the second one
        one.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += one.recv(65536)
        assert b" 200 " in answer
        one.sendall(b"GET /he")
        assert one.recv(65536) == b""
    assert b" 400 " in raw(served, b"nonsense\r\n\r\n")[0].split(b"\r\n")[0]
    chunk = b"%x\r\n%s\r\n" % (60_000, b" " * 60_000)  # no length is told; the body is counted as it comes
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=5) as one:
        one.sendall(head)
        try:
            for _ in range(100):
                one.sendall(chunk)
        except OSError:
            pass  # the server has hung up
        else:
            assert b" 413 " in one.recv(65536)
    assert served.client.get("/healthz").json() == {"status": "ok"}


def test_what_arrives_together_is_encoded_together(live, shop):
    server = live(batch_wait_ms=100)
    history = [str(item) for item in shop.item_ids[:2]]
    alone = recommended(server, history, k=3)
    before = server.metric("vlm2rec_batch_size_count"), server.metric("vlm2rec_batch_size_sum")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        asked = [
            pool.submit(server.client.post, "/recommend", json={"history": h, "k": k})
            for h, k in [(history, 3)] * 6 + [(history, 2)] * 4 + [(["no-such"], 3)] * 2
        ]
        answers = [one.result() for one in asked]
    assert [ids_of(one) for one in answers[:10]] == [alone] * 6 + [alone[:2]] * 4
    assert [one.status_code for one in answers[10:]] == [422, 422]
    batches = server.metric("vlm2rec_batch_size_count") - before[0]
    assert server.metric("vlm2rec_batch_size_sum") - before[1] == 12 and batches <= 6


def test_a_full_queue_a_deadline_and_the_end(open_copy, tmp_path, shop):
    """Slow work: some requests are refused at once, some give up, and the end finishes what was accepted."""
    from .live import Live

    def slow():
        made = open_copy()
        real = made.side.user_views

        def user_views(histories, users=None):
            time.sleep(sum(4 if len(history) == 2 else 0.4 for history in histories))
            return real(histories, users)

        made.side.user_views = user_views
        return made

    item = str(shop.item_ids[0])
    log = tmp_path / "log"
    with Live(slow, log, queue_size=3, max_batch=1, deadline_s=3.0, batch_wait_ms=0) as server:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(server.client.post, "/recommend", json={"history": [item]}) for _ in range(8)]
            answers = [one.result() for one in asked]
        statuses = [one.status_code for one in answers]
        assert set(statuses) == {200, 503}
        refused = next(one for one in answers if one.status_code == 503)
        assert refused.headers["retry-after"] == "1"
        assert server.metric('vlm2rec_refused_total{reason="queue"}') == statuses.count(503)
        late = server.client.post("/recommend", json={"history": [item, item]})
        assert late.status_code == 504 and "3 s" in late.json()["detail"]
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            asked = [pool.submit(httpx.post, f"{server.url}/recommend", json={"history": [item]}) for _ in range(2)]
            while server.metric("vlm2rec_waiting") < 1 or server.metric("vlm2rec_batch_size_count") < 6:
                time.sleep(0.05)  # one is worked on, one waits
            assert server.end(signal.SIGTERM) == 0
            assert [one.result().status_code for one in asked] == [200, 200]
    assert [json.loads(line)["event"] for line in log.read_text().splitlines()][-1] == "ended"


def test_tokens_and_a_log_that_tells_nothing_of_users(live, tmp_path, monkeypatch):
    (tmp_path / "tokens").write_text(f"# of the shop\nanother-token-0000\n{TOKEN}\n")
    server = live(token_file=str(tmp_path / "tokens"))
    for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": f"Basic {TOKEN}"}):
        answer = server.client.get("/users/secret-user/recommendations", headers=header)
        assert answer.status_code == 401 and answer.headers["www-authenticate"] == "Bearer"
    assert server.client.get("/metrics").status_code == 401 and server.client.get("/readyz").status_code == 200
    good = {"authorization": f"Bearer {TOKEN}"}
    assert server.client.get("/users/secret-user/recommendations?k=1", headers=good).status_code == 200
    assert server.client.get("/openapi.json", headers=good).json()["security"] == [{"token": []}]
    body = {"history": [{"text": "secret words"}], "k": 0}
    assert server.client.post("/recommend", json=body, headers=good).status_code == 422
    server.end()
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert [one["status"] for one in lines if one["event"] == "request"] == [401] * 4 + [200, 200, 422]
    assert "secret" not in server.log.read_text() and TOKEN not in server.log.read_text()


def test_a_failure_is_logged_without_what_it_says_and_answered_without_a_trace(open_copy, tmp_path):
    from .live import Live

    def broken():
        made = open_copy()

        def fail(histories, users=None):
            if histories == [["p000001"]]:
                raise KeyError("secret of a user")
            return real(histories, users)

        real, made.side.user_views = made.side.user_views, fail
        return made

    with Live(broken, tmp_path / "log") as server:
        answer = server.client.post("/recommend", json={"history": ["p000001"]})
        assert answer.status_code == 500 and "secret" not in answer.text and "Traceback" not in answer.text
        assert server.client.get("/healthz").status_code == 200
        lines = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (error,) = [one for one in lines if one["event"] == "error"]
    assert error["error"] == "KeyError" and any("batching.py" in place for place in error["at"])
    assert error["id"] in answer.text and "secret" not in (tmp_path / "log").read_text()


def test_numbers_tell_coverage_fallbacks_and_drift(live, shop):
    server = live()
    recommended(server, [str(shop.item_ids[0])], k=6)
    recommended(server, [], k=3)
    assert server.metric("vlm2rec_fallback_share") == 0.5
    assert 6 / 60 <= server.metric("vlm2rec_coverage") <= 9 / 60
    assert server.metric("vlm2rec_score_drift") == 0.0
    assert server.metric('vlm2rec_lists_total{source="popularity"}') == 1
    assert server.metric("vlm2rec_items") == 60


def test_two_processes_share_the_clicks(live, tmp_path, shop):
    item = str(shop.item_ids[0])
    one, other = (live(state=str(tmp_path / "state")) for _ in range(2))
    lengths = [
        server.client.post("/users/u/clicks", json={"items": [item]}).json()["length"] for server in (one, other, one)
    ]
    assert lengths == [1, 2, 3]
    assert other.client.get("/users/u/recommendations").json()["source"] == "model"


def test_another_process_changes_the_index(live, open_copy):
    server, other = live(), open_copy()
    other.upsert([{"item_id": "theirs", "text": "tent"}])
    assert recommended(server, ["theirs"], candidates=["theirs"], exclude_seen=False) == ["theirs"]
    server.client.put("/items/ours", json={"text": "lamp"})
    other.index.refresh()
    assert "ours" in other.index


def test_answers_are_not_held_back_for_acknowledgements():
    with listening_socket("127.0.0.1", 0) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
        with pytest.raises(ValueError, match="cannot be listened on"):
            listening_socket("192.0.2.1", 0)
