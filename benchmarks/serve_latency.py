"""What a request to a server costs, at 1, 8 and 32 clients, and what micro-batching gives.

Two servers in processes of their own, on the loopback, with real clients that each ask as soon as they are answered:

- a head (GRU4Rec) over a catalogue of 100,000 items; bar: at 8 clients 99 of 100 requests take at most 50 ms;
- a tiny embedder, whose requests hold new items and so are encoded, with micro-batching and one by one; bar: at 32
  clients micro-batching answers at least 3 times as many requests per second.

Clients run in one process beside the server and take part of the machine. The last line printed is one JSON object.

    python benchmarks/serve_latency.py --json
    python benchmarks/serve_latency.py --items 2000 --seconds 2    # a look
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HEAD_BAR_MS, BATCHING_BAR = 50.0, 3.0


def head_recommender(items: int, seed: int) -> Any:
    """A head with random weights over so many items."""
    import torch

    from vlm2rec_hf import SeqRecConfig, SequentialRecommender, recommender

    torch.manual_seed(seed)
    head = SequentialRecommender(SeqRecConfig(n_items=items, encoder="gru4rec", hidden_size=64, max_length=50))
    head.set_catalogue([f"i{n}" for n in range(items)], torch.arange(items))
    return recommender(head.eval())


def embedder_recommender(folder: str, seed: int) -> Any:
    """A tiny embedder over a small demo shop, with an index on the disk."""
    from vlm2rec_hf import build_index, make_demo_shop, recommender, tiny_vlm

    shop = make_demo_shop(200, n_users=50, seed=seed).dataset()
    model, processor = tiny_vlm("qwen2_vl", [text for text in shop.item_texts() if text], seed=seed)
    build_index(model.eval(), shop, Path(folder) / "index", processor=processor)
    return recommender(model, shop, processor=processor, index=Path(folder) / "index")


def run_server(kind: str, settings: dict[str, Any], options: dict[str, Any], pipe: Any) -> None:
    """The server's process."""
    import torch

    from vlm2rec_hf.serving import running
    from vlm2rec_hf.serving.settings import ServerSettings

    torch.set_num_threads(options["threads"])
    with tempfile.TemporaryDirectory() as folder:
        if kind == "head":
            made = head_recommender(options["items"], options["seed"])
        else:
            made = embedder_recommender(folder, options["seed"])
        limits = ServerSettings(queue_size=1024, **settings)
        app = running.application(made, limits)
        running.serve(lambda: app, limits, host="127.0.0.1", port=0, workers=1, listening=pipe.send)


def head_body(number: int, items: int) -> bytes:
    """A history of 20 ids."""
    return json.dumps({"history": [f"i{(number * 7919 + n * 104729) % items}" for n in range(20)]}).encode()


def embedder_body(number: int, items: int) -> bytes:
    """A history of four new texts, which nothing knows yet."""
    return json.dumps({"history": [{"text": f"tent {number} colour {n} of the year"} for n in range(4)]}).encode()


async def ask_for(url: str, clients: int, seconds: float, body: Callable[[int], bytes]) -> list[float]:
    """Times of all requests (seconds) that `clients` clients make one after another."""
    host, port = url.removeprefix("http://").split(":")
    times: list[float] = []
    end = time.perf_counter() + seconds

    async def client(number: int) -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        count = number
        while time.perf_counter() < end:
            data = body(count)
            count += clients
            begun = time.perf_counter()
            head = (
                f"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
            )
            writer.write(head.encode() + b"\r\n\r\n" + data)
            await writer.drain()
            answer = await reader.readuntil(b"\r\n\r\n")
            if b" 200 " not in answer.split(b"\r\n")[0]:
                raise RuntimeError(answer.decode())
            length = next(int(line.split(b":")[1]) for line in answer.split(b"\r\n") if line.startswith(b"content-le"))
            await reader.readexactly(length)
            times.append(time.perf_counter() - begun)
        writer.close()

    await asyncio.gather(*(client(number) for number in range(clients)))
    return times


def measure(kind: str, settings: dict[str, Any], options: argparse.Namespace, clients: list[int]) -> dict[str, Any]:
    """p50 and p99 (ms) and requests per second for each number of clients."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    server = context.Process(target=run_server, args=(kind, settings, vars(options), theirs), daemon=True)
    server.start()
    try:
        while not ours.poll(0.2):
            if not server.is_alive():
                raise RuntimeError("the server ended")
        url = ours.recv()
        time.sleep(1.0)
        body = {"head": head_body, "embedder": embedder_body}[kind]
        found = {}
        for count in clients:
            make = lambda number: body(number, options.items)  # noqa: E731
            asyncio.run(ask_for(url, count, options.warm_up, make))
            begun = time.perf_counter()
            times = asyncio.run(ask_for(url, count, options.seconds, make))
            took = time.perf_counter() - begun
            cuts = statistics.quantiles(times, n=100) if len(times) > 1 else times * 99
            found[str(count)] = {
                "p50_ms": round(1000 * cuts[49], 2),
                "p99_ms": round(1000 * cuts[98], 2),
                "per_second": round(len(times) / took, 1),
            }
            print(f"{kind} {settings} {count} clients: {found[str(count)]}")
        return found
    finally:
        server.terminate()
        server.join()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000, help="of the head's catalogue")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each measurement")
    parser.add_argument("--warm_up", type=float, default=1.0, help="seconds before each")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--threads", type=int, default=1, help="of the model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object on the last line (always done)")
    options = parser.parse_args()
    head = measure("head", {}, options, options.clients)
    together = measure("embedder", {}, options, options.clients)
    alone = measure("embedder", {"max_batch": 1}, options, options.clients)
    most = str(max(options.clients))
    middle = "8" if "8" in head else most
    ours, other = together[most]["per_second"], alone[most]["per_second"]
    ratio = round(ours / other, 2)
    print(json.dumps({
        "claim": f"requests per second of {most} clients to a tiny embedder, micro-batching against one by one",
        "ours": ours, "other": other, "ratio": ratio, "bar": BATCHING_BAR, "unit": "1/s",
        "met": ratio >= BATCHING_BAR and head[middle]["p99_ms"] <= HEAD_BAR_MS,
        "head_p99_ms": head[middle]["p99_ms"], "head_bar_ms": HEAD_BAR_MS, "head_items": options.items,
        "head": head, "embedder": together, "one_by_one": alone,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
