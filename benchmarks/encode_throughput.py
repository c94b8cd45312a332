"""How fast `encode_items` is beside sentence-transformers' own `encode` of the same model and items.

A small Qwen2-VL whose vision tower is most of its cost, and a catalogue as shops have it: titles of 1 to 60 words,
images of many shapes and sizes, one item in ten without an image, and products in variants (sizes, colours) that
have titles of their own and share the product's image. `--variants 1` makes every image another one; the result
states both. sentence-transformers loads the saved folder of the same weights, so whatever our model class does faster
counts for both sides. Sides are measured in turn in one process; vectors must agree to 1e-5. `cpu_ratio` is the ratio
of processor seconds, which other processes on the machine disturb less. The last line printed is one JSON object.

    python benchmarks/encode_throughput.py --json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

BAR = 1.5
TOLERANCE = 1e-5


def make_items(count: int, variants: int, seed: int) -> list[dict[str, Any]]:
    """Items in random order; each product has 1 to `2 * variants - 1` variants, on average `variants`."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(seed)
    words = [f"{start}{end}" for start in ("red", "al", "tent", "lu", "mo") for end in ("", "pina", "x", "12", "ra")]
    items: list[dict[str, Any]] = []
    while len(items) < count:
        height, width = rng.integers(90, 400, 2)
        coarse = rng.integers(0, 255, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((int(width), int(height)), Image.Resampling.BICUBIC)
        has_image = rng.random() < 0.9
        for _ in range(int(rng.integers(1, 2 * variants))):
            length = int(np.clip(rng.lognormal(2.2, 0.6), 1, 60))
            item: dict[str, Any] = {"text": " ".join(rng.choice(words, length)) + f" {len(items)}"}
            if has_image:
                item["image"] = image.copy()  # as decoded anew for each item
            items.append(item)
    return [items[i] for i in rng.permutation(len(items))[:count]]


def build(options: argparse.Namespace, items: list[dict[str, Any]], folder: str) -> tuple[Any, Any, Any]:
    """The model, its processor, and sentence-transformers' form of both."""
    from sentence_transformers import SentenceTransformer
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor

    from vlm2rec_hf import tiny_vlm
    from vlm2rec_hf.sentence_transformers.model_files import write_sentence_transformer_files

    model, processor = tiny_vlm(
        "qwen2_vl", [item["text"] for item in items], hidden_size=options.hidden_size, layers=options.layers,
        vision_hidden_size=options.vision_hidden_size, vision_layers=options.vision_layers, seed=options.seed,
    )  # fmt: skip
    processor.image_processor = Qwen2VLImageProcessor(
        patch_size=14, merge_size=2, temporal_patch_size=2,
        size={"shortest_edge": 56 * 56, "longest_edge": options.image_size**2},
    )  # fmt: skip
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config)
    return model, processor, SentenceTransformer(folder, device="cpu")


def cpu_seconds() -> float:
    """Processor seconds of this process and of its ended children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def in_turn(
    sides: dict[str, Callable[[], Any]], repeats: int, say: Callable[[str], None]
) -> dict[str, dict[str, Any]]:
    """Wall and processor seconds of each side, the medians of `repeats` runs in turn; vectors must agree."""
    import torch

    wall: dict[str, list[float]] = {name: [] for name in sides}
    cpu: dict[str, list[float]] = {name: [] for name in sides}
    largest = 0.0
    for _ in range(repeats):
        vectors = {}
        for name, side in sides.items():
            begin, begin_cpu = time.perf_counter(), cpu_seconds()
            vectors[name] = side()
            wall[name].append(time.perf_counter() - begin)
            cpu[name].append(cpu_seconds() - begin_cpu)
            say(f"  {name}: {wall[name][-1]:.2f} s, {cpu[name][-1]:.2f} processor seconds")
        expected = vectors["sentence_transformers"]
        for name, found in vectors.items():
            difference = float((torch.as_tensor(found) - expected).abs().max())
            if not difference < TOLERANCE:
                raise RuntimeError(f"{name} gives other vectors than sentence-transformers: {difference:.2e}")
            largest = max(largest, difference)
    # Both sides of a round meet the same machine, so their ratio is taken before the median.
    other = "sentence_transformers"
    return {
        name: {
            "seconds": round(statistics.median(wall[name]), 3),
            "cpu_seconds": round(statistics.median(cpu[name]), 3),
            "ratio": round(statistics.median(b / a for a, b in zip(wall[name], wall[other], strict=True)), 2),
            "cpu_ratio": round(statistics.median(b / a for a, b in zip(cpu[name], cpu[other], strict=True)), 2),
            "largest_difference": largest,
        }
        for name in sides
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--variants", type=int, default=2, help="items that share an image, on average")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--workers", type=int, default=1, help="for the row with worker processes; 0: no such row")
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--vision-hidden-size", type=int, default=256)
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=224, help="images keep at most this many pixels squared")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    import torch
    from transformers.utils import logging

    logging.set_verbosity_error()

    def say(text: str) -> None:
        if not options.json:
            print(text, flush=True)

    found: dict[str, dict[str, Any]] = {}
    for name, variants in (("with_variants", options.variants), ("all_images_differ", 1)):
        items = make_items(options.items, variants, options.seed)
        images = [item["image"].tobytes() for item in items if "image" in item]
        found[name] = {"images": len(images), "distinct_images": len(set(images))}
        with tempfile.TemporaryDirectory(prefix="encode_throughput_") as folder:
            model, processor, other = build(options, items, folder)
            sides = {
                "ours": lambda: model.encode_items(items, processor).both,  # noqa: B023 - called in this round
                "sentence_transformers": lambda: other.encode_document(  # noqa: B023
                    items,  # noqa: B023
                    convert_to_tensor=True,
                    show_progress_bar=False,
                ),
            }
            if options.workers:
                sides["ours_with_workers"] = lambda: model.encode_items(items, processor, workers=options.workers).both  # noqa: B023
            for threads in options.threads:
                torch.set_num_threads(threads)
                say(f"{name}, {found[name]['distinct_images']} distinct images, {threads} threads")
                for side in sides.values():
                    if options.repeats > 1:
                        side()  # warm
                found[name][f"threads_{threads}"] = in_turn(sides, options.repeats, say)
    threads = f"threads_{options.threads[0]}"
    both = {"images shared": found["with_variants"][threads], "all differ": found["all_images_differ"][threads]}
    ratio = {name: one["ours"]["ratio"] for name, one in both.items()}
    result = {
        "claim": "`encode_items` over sentence-transformers' encode of the same model and items, mixed lengths",
        "ours": {name: one["ours"]["seconds"] for name, one in both.items()},
        "other": {name: one["sentence_transformers"]["seconds"] for name, one in both.items()},
        "ratio": ratio,
        "bar": BAR,
        "unit": "s; an image shared by two items on average, or by none",
        "items": options.items,
        "threads": options.threads[0],
        "model": {
            "hidden_size": options.hidden_size,
            "layers": options.layers,
            "vision_hidden_size": options.vision_hidden_size,
            "vision_layers": options.vision_layers,
            "image_size": options.image_size,
        },
        **found,
        "met": min(ratio.values()) >= BAR,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
