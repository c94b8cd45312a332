"""What the frozen-vision cache saves in a training step.

The same LoRA training steps of `VLM2RecTrainer` on the demo shop, the same batches and weights, with the vision tower
frozen: once with images decoded and run through the tower in every step, once with their features read from a
`VisionCache` on disk. Both are done in turn, in one process; a step is collating the batch, the forward and backward
pass, and the optimiser. Losses and gradients must agree to 1e-5. The backbone is a small random Qwen2-VL whose tower
is far larger than its language model, as the claim says; where the language model is the larger part, the gain is
less. The last line printed is one JSON object.

    python benchmarks/vision_cache.py --json
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

BAR = 3.0


def make_trainer(options: argparse.Namespace, folder: Path, dataset: Any, cached: bool) -> Any:
    """A trainer of a fresh model (same seed, same weights), and the seconds its making took."""
    from vlm2rec_hf import VLM2RecTrainer, VLM2RecTrainingArguments, default_lora_config, tiny_vlm

    model, processor = tiny_vlm(
        "qwen2_vl",
        [text for text in dataset.item_texts() if text],
        image_size=options.image_size,
        hidden_size=options.hidden_size,
        layers=options.layers,
        vision_hidden_size=options.vision_hidden_size,
        vision_layers=options.vision_layers,
        processor_options={"max_history": options.history},
    )
    arguments = VLM2RecTrainingArguments(
        str(folder / "run"), per_device_train_batch_size=options.batch, use_cpu=True,
        cache_vision_features=cached, vision_cache_dir=str(folder / "cache") if cached else None, save_strategy="no",
        vision_cache_dtype=options.dtype, disable_tqdm=True, targets_per_row=options.targets_per_row,
    )  # fmt: skip
    return VLM2RecTrainer(
        model, arguments, train_dataset=dataset, processing_class=processor,
        peft_config=default_lora_config(8, dropout=0.0),
    )  # fmt: skip


def step(trainer: Any, optimizer: Any, rows: list[int]) -> dict[str, Any]:
    """One training step; seconds of its two parts, the loss and the gradients."""
    begin = time.perf_counter()
    batch = trainer.data_collator([trainer.train_dataset[row] for row in rows])
    collated = time.perf_counter()
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()
    gradients = [p.grad.clone() for p in trainer.model.parameters() if p.grad is not None]
    optimizer.step()
    optimizer.zero_grad()
    end = time.perf_counter()
    images = len(batch["images"].get("image_grid_thw", ()))
    return {"step": end - begin, "model": end - collated, "loss": float(loss.detach()), "gradients": gradients,
            "images": images}  # fmt: skip


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Alternate the two ways; returns the result."""
    import numpy as np
    import torch

    from vlm2rec_hf import make_demo_shop

    torch.set_num_threads(options.threads)
    dataset = make_demo_shop(options.items, n_users=options.users, history=options.history + 5).dataset()
    begin = time.perf_counter()
    ways = {"cached": make_trainer(options, folder, dataset, True)}
    filling = time.perf_counter() - begin
    begin = time.perf_counter()
    make_trainer(options, folder, dataset, True)
    again = time.perf_counter() - begin
    ways["uncached"] = make_trainer(options, folder, dataset, False)
    optimizers = {name: torch.optim.AdamW([p for p in t.model.parameters() if p.requires_grad], lr=1e-4)
                  for name, t in ways.items()}  # fmt: skip
    windows = ways["cached"].train_dataset
    count = len(windows.cut(0))
    full = [row for row in range(count) if len(windows[row]["items"]) >= options.history]
    rng = np.random.default_rng(0)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    furthest = 0.0
    for number in range(options.steps + 1):  # the first one warms both up
        rows = rng.choice(full, options.batch, replace=False).tolist()
        found = {name: step(trainer, optimizers[name], rows) for name, trainer in ways.items()}
        a, b = found["cached"], found["uncached"]
        pairs = zip(a.pop("gradients"), b.pop("gradients"), strict=True)
        furthest = max(furthest, abs(a["loss"] - b["loss"]), *(float((x - y).abs().max()) for x, y in pairs))
        if number:
            for name in ways:
                runs[name].append(found[name])
    if options.dtype == "float32" and furthest > 1e-5:
        raise RuntimeError(f"cached and uncached steps differ by {furthest}")
    medians = {
        name: {part: statistics.median(run[part] for run in done) for part in ("step", "model")}
        for name, done in runs.items()
    }
    model = ways["cached"].embedder
    tower = sum(p.numel() for p in model.vision_parameters())
    language = sum(p.numel() for p in model.vlm.language_model.parameters())
    patches = ways["uncached"].catalogue[0].pixel_values.shape[0]
    ratio = medians["uncached"]["step"] / medians["cached"]["step"]
    return {
        "claim": "a training step with frozen vision and images in the history, cached over uncached "
        f"(targets per row: {options.targets_per_row})",
        "ours": round(medians["cached"]["step"], 4),
        "other": round(medians["uncached"]["step"], 4),
        "ratio": round(ratio, 2),
        "bar": BAR,
        "unit": "s",
        "ratio_without_decoding": round(medians["uncached"]["model"] / medians["cached"]["model"], 2),
        "largest_difference": furthest,
        "trained": "LoRA of rank 8 on the language model",
        "batch": options.batch,
        "history": options.history,
        "images_per_step": statistics.mean(run["images"] for run in runs["uncached"]),
        "image_size": options.image_size,
        "patches_per_image": patches,
        "tower_parameters": tower,
        "language_parameters": language,
        "cache_dtype": options.dtype,
        "catalogue": dataset.n_items,
        "seconds_to_fill": round(filling, 2),
        "seconds_to_reopen": round(again, 2),
        "threads": options.threads,
        "steps": options.steps,
        "met": ratio >= BAR,
    }


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--users", type=int, default=200)
    parser.add_argument("--batch", type=int, default=8, help="rows per step")
    parser.add_argument(
        "--targets-per-row", default="last", choices=("last", "all"),
        help="last: the step that the bar was set for; all: ten times the targets, so more of the language model",
    )  # fmt: skip
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--steps", type=int, default=6, help="of each way, in turn")
    parser.add_argument("--image-size", type=int, default=112)
    parser.add_argument("--hidden-size", type=int, default=128, help="of the language model")
    parser.add_argument("--layers", type=int, default=4, help="of the language model")
    parser.add_argument("--vision-hidden-size", type=int, default=256)
    parser.add_argument("--vision-layers", type=int, default=8)
    parser.add_argument("--dtype", default="float32", help="of the cache")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory(prefix="vision_cache_") as scratch:
        result = measure(options, Path(scratch))
    if not options.json:
        print(f"uncached {result['other']} s, cached {result['ours']} s per step")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
