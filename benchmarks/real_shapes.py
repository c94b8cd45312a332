"""What an accelerator makes of models of real size: random weights in bfloat16, shapes of released checkpoints.

For each model: items and histories per second, peak memory, and the share of the device's peak arithmetic that the
model's own arithmetic reaches (model-FLOPs utilisation); rows padded and packed; images through the tower and
features from memory; training steps of the language model with a frozen tower. Nothing is downloaded. Without an
accelerator one line `{"skipped": ...}` is printed; `--tiny` runs small shapes on the CPU, to test this script.

    python benchmarks/real_shapes.py --json
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen2.5-VL-3B": {
        "family": "qwen2_5_vl",
        "text": {
            "hidden_size": 2048, "intermediate_size": 11008, "num_hidden_layers": 36, "num_attention_heads": 16,
            "num_key_value_heads": 2, "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
        },
        "vision": {
            "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048,
            "patch_size": 14, "fullatt_block_indexes": [7, 15, 23, 31], "window_size": 112,
        },
    },
    "Qwen3-VL-2B": {
        "family": "qwen3_vl",
        "text": {
            "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936,
            "rope_parameters": {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20]},
        },
        "vision": {
            "depth": 24, "hidden_size": 1024, "intermediate_size": 4096, "num_heads": 16, "out_hidden_size": 2048,
            "patch_size": 16, "deepstack_visual_indexes": [5, 11, 17], "num_position_embeddings": 2304,
        },
    },
}  # fmt: skip
# Dense bfloat16 peaks in TFLOP/s as the vendor states them; another device's is given by `--peak-tflops`.
PEAK_TFLOPS = {"H200": 989.0, "H100": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}


def build(name: str, options: argparse.Namespace, device: str) -> tuple[Any, Any]:
    """Model and processor of one shape; the tiny ones keep the family."""
    import torch
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor

    from vlm2rec_hf import VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor
    from vlm2rec_hf.tiny.backbones import tiny_backbone_config, tiny_vlm, train_tokenizer

    shape = SHAPES[name]
    if options.tiny:
        return tiny_vlm(shape["family"], ["tent"], hidden_size=32, vision_hidden_size=32, image_size=56)
    tokenizer = train_tokenizer(["red tent"])
    config = tiny_backbone_config(shape["family"], tokenizer, patch_size=shape["vision"]["patch_size"])
    raw = config.to_dict()
    raw["text_config"].pop("layer_types", None)  # one entry per layer of the small model
    raw["text_config"].update({"head_dim": 128, **shape["text"]})
    raw["vision_config"].update(shape["vision"])
    config = type(config)(**raw)
    patch = shape["vision"]["patch_size"]
    processor = VLM2RecProcessor(
        Qwen2VLImageProcessor(
            patch_size=patch, merge_size=2, temporal_patch_size=2,
            size={"shortest_edge": (2 * patch) ** 2, "longest_edge": options.image_size**2},
        ),
        tokenizer, backbone_type=shape["family"],
    )  # fmt: skip
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = VLM2RecEmbedder(VLM2RecConfig(vlm_config=config)).eval()
    finally:
        torch.set_default_dtype(before)
    model.set_attn_implementation(options.attention)
    return model, processor


def make_items(processor: Any, options: argparse.Namespace) -> list[Any]:
    """Prepared items with titles of mixed length and images of mixed size: what is timed is the model."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    items = []
    for i in range(options.items):
        text = " ".join(rng.choice(["red", "tent", "lamp", "mug"], int(np.clip(rng.lognormal(2.5, 0.6), 1, 80))))
        low = options.image_size // 4
        size = [int(edge) for edge in rng.integers(low, options.image_size, 2)]
        items.append({"text": f"{text} {i}", "image": Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8))})
    return processor.prepare_items(items, keys=range(len(items)))


def seconds(run: Callable[[], Any], device: str) -> tuple[float, float]:
    """Wall seconds of the second of two runs, and the peak memory in GiB (0 on a CPU)."""
    import torch

    run()
    if device == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    begin = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return time.perf_counter() - begin, peak


def useful_flops(run: Callable[[], Any]) -> float:
    """Arithmetic of a run without padding: products of matrices and attention, as PyTorch counts them."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def cached(model: Any, items: list[Any]) -> list[Any]:
    """The items with vision features in place of pixels."""
    from dataclasses import replace

    import torch

    made = []
    with torch.no_grad():
        for item in items:
            grid = torch.tensor([item.grid], device=model.device)
            made.append(
                replace(
                    item, pixel_values=None, features=model.encode_images(item.pixel_values.to(model.device), grid)
                )
            )
    return made


def training_steps(model: Any, processor: Any, items: list[Any], options: argparse.Namespace) -> Callable[[], Any]:
    """One forward and backward pass of in-batch InfoNCE and a plain SGD step, tower frozen, features known."""
    import torch

    model.freeze_vision()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    count = max(2, min(options.batch, len(items) // 2))
    users = processor.collate([items[i : i + 2] for i in range(count)], "user").to(model.device)
    targets = processor.collate([[item] for item in items[:count]], "item").to(model.device)

    def step() -> None:
        scores = model(**users).embeddings @ model(**targets).embeddings.T
        torch.nn.functional.cross_entropy(scores / 0.1, torch.arange(count, device=scores.device)).backward()
        with torch.no_grad():
            for parameter in trained:
                if parameter.grad is not None:
                    parameter -= 1e-6 * parameter.grad
                    parameter.grad = None

    return step


def measure(name: str, options: argparse.Namespace, device: str, peak_tflops: float | None) -> dict[str, Any]:
    """Everything about one model."""
    model, processor = build(name, options, device)
    items = make_items(processor, options)
    known = cached(model, items)
    histories = [[items[(7 * i + j) % len(items)] for j in range(options.history)] for i in range(options.histories)]
    known_histories = [
        [known[(7 * i + j) % len(known)] for j in range(options.history)] for i in range(options.histories)
    ]
    found: dict[str, Any] = {"parameters": sum(parameter.numel() for parameter in model.parameters())}
    for way, packing in (("padded", False), ("packed", True)):
        for source, kind, encode in (
            (items, "items", model.encode_items),
            (known, "items_cached", model.encode_items),
            (histories, "histories", model.encode_histories),
            (known_histories, "histories_cached", model.encode_histories),
        ):
            # Without a flash kernel a packed row needs a mask of its length squared.
            limit = 4096 if packing and "flash" not in options.attention else "auto"

            def run(encode: Any = encode, source: Any = source, packing: bool = packing, limit: Any = limit) -> Any:
                return encode(source, processor, packing=packing, max_tokens=limit)

            took, peak = seconds(run, device)
            line = {"per_second": round(len(source) / took, 2), "peak_gib": round(peak, 2)}
            if peak_tflops and way == "padded":
                # One row at a time has no padding, so this is the arithmetic that is needed.
                part = source[: max(1, len(source) // 16)]
                needed = useful_flops(lambda e=encode, p=part: e(p, processor, max_tokens=1, packing=False))
                line["mfu"] = float(f"{needed * len(source) / len(part) / took / (peak_tflops * 1e12):.3g}")
            found[f"{kind}_{way}"] = line
    took, peak = seconds(training_steps(model, processor, known, options), device)
    found["training"] = {"steps_per_second": round(1 / took, 3), "peak_gib": round(peak, 2)}
    return found


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line (it never does more)")
    parser.add_argument("--tiny", action="store_true", help="small shapes, on the CPU, to test the script")
    parser.add_argument("--models", nargs="+", choices=sorted(SHAPES), default=sorted(SHAPES))
    parser.add_argument("--items", type=int, default=1024)
    parser.add_argument("--histories", type=int, default=256)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--batch", type=int, default=32, help="users of a training step")
    parser.add_argument("--image-size", type=int, default=448)
    parser.add_argument("--attention", help="attn_implementation; by default flash_attention_2 where it is, else sdpa")
    parser.add_argument("--peak-tflops", type=float, help="dense bfloat16 peak of the device")
    options = parser.parse_args()

    import torch
    from transformers.utils import is_flash_attn_2_available, logging

    logging.set_verbosity_error()
    if options.attention is None:
        options.attention = "flash_attention_2" if is_flash_attn_2_available() and not options.tiny else "sdpa"
    if not options.tiny and not torch.cuda.is_available():
        print(json.dumps({"skipped": "no CUDA device on this machine; --tiny tests the script on the CPU"}))
        return
    device = "cpu" if options.tiny else "cuda"
    machine = platform.processor() or platform.machine()
    peak = options.peak_tflops
    if device == "cuda":
        machine = torch.cuda.get_device_name()
        peak = peak or next((value for part, value in PEAK_TFLOPS.items() if part in machine), None)
    torch.manual_seed(0)
    result = {
        "claim": "models of real size with random weights in bfloat16",
        "machine": {"device": machine, "torch": torch.__version__, "peak_bf16_tflops": peak},
        "tiny": options.tiny,
        "attention": options.attention,
        "models": {name: measure(name, options, device, peak) for name in options.models},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
