"""A mixed load on a server that is killed (SIGKILL) and restarted: what it acknowledged is there afterwards."""

import random
import signal
import threading
import time

import pytest

from ..waiting import PATIENCE_S
from .live import Live, httpx


@pytest.mark.parametrize(
    ("requests", "kills"), [(150, 2), pytest.param(10_000, 20, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_nothing_acknowledged_is_lost(requests, kills, open_copy, tmp_path, shop):
    state, log = tmp_path / "state", tmp_path / "log"
    known = [str(item) for item in shop.item_ids]
    server = Live(open_copy, log, state=str(state))
    port, clients = server.port, 4
    items, clicks, failures = {}, {}, []  # item -> last acknowledged state; user -> acknowledged clicks
    unsure = set()  # items whose last change was not answered: either state is right
    done = [0] * clients
    stop = threading.Event()

    def client(number):
        """Each client has items and users of its own, so that it knows what must be there."""
        draw = random.Random(number)
        with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as http:
            while done[number] < requests // clients and not stop.is_set():
                kind = draw.choices(("recommend", "click", "put", "delete", "similar"), (3, 3, 2, 1, 1))[0]
                user, item = f"u{number}-{draw.randrange(8)}", f"n{number}-{draw.randrange(12)}"
                try:
                    if kind == "recommend":
                        answer = http.get(f"/users/{user}/recommendations")
                    elif kind == "similar":
                        answer = http.post("/similar", json={"item": draw.choice(known)})
                    elif kind == "click":
                        before = clicks.setdefault(user, [[]])
                        one = draw.choice(known)
                        before.append([*before[-1], one])  # unanswered until proven otherwise
                        answer = http.post(f"/users/{user}/clicks", json={"items": [one]})
                        clicks[user] = [before[-1]]
                    elif kind == "put":
                        unsure.add(item)
                        answer = http.put(f"/items/{item}", json={"text": f"tent {done[number]}"})
                        items[item] = f"tent {done[number]}"
                        unsure.discard(item)
                    else:
                        unsure.add(item)
                        answer = http.delete("/items", params={"item_id": item})
                        items[item] = None
                        unsure.discard(item)
                    if answer.status_code != 200:
                        failures.append((kind, answer.status_code, answer.text))
                    done[number] += 1
                except httpx.TransportError:
                    if kind == "click" and len(clicks[user]) > 1:
                        # Nobody knows whether it was kept; another user goes on.
                        clicks[f"{user}-{time.monotonic_ns()}"] = None
                        unknown[user] = clicks.pop(user)
                        clicks[user] = asked_again(http, user, unknown[user])
                    time.sleep(0.02)

    unknown = {}

    def asked_again(http, user, either):
        """Which of the possible histories the server has, once it is back; it must be one of them."""
        while not stop.is_set():
            try:
                answer = http.post(f"/users/{user}/clicks", json={"items": ["no such"], "on_unknown": "skip"})
            except httpx.TransportError:
                time.sleep(0.05)
                continue
            fits = [one for one in either if len(one) == answer.json()["length"]]
            if not fits:
                failures.append((user, either, answer.json()))
            return fits[-1:] or [either[0]]
        return either[:1]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for kill in range(1, kills + 1):
        while sum(done) < requests * kill / (kills + 1) and any(thread.is_alive() for thread in threads):
            time.sleep(0.01)
        assert server.end(signal.SIGKILL) == -9
        server = Live(open_copy, log, port=port, state=str(state))
    for thread in threads:
        thread.join(600)
        assert not thread.is_alive()
    stop.set()
    assert server.end(signal.SIGKILL) == -9
    assert not failures and sum(done) == requests // clients * clients

    from vlm2rec_hf.serving.click_log import ClickLog
    from vlm2rec_hf.serving.user_clicks import UserClicks

    index, kept = open_copy().index, UserClicks(1e9, log=ClickLog(state))
    ids = index.item_ids()
    assert len(ids) == len(set(ids)) and set(known) <= set(ids)
    changed = [item for item in items if item not in unsure]
    assert len(changed) > 10
    for item in changed:
        texts = [row["text"] for row in index.metadata([item])]
        assert texts == ([] if items[item] is None else [items[item]]), item
    users = {user: one[-1] for user, one in clicks.items() if one}
    assert len(users) > 10
    for user, one in users.items():
        assert kept.of(user) == one, user
