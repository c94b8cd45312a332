"""How much memory and time backbones need: computed from their published sizes, not measured.

    python benchmarks/gpu_memory.py            # prints the tables of docs/guides/gpu.md
    python benchmarks/gpu_memory.py --write    # puts them there

The sizes below are those of the checkpoints' `config.json`; the parameters counted from them are compared with the
number that the Hub shows for the checkpoint (tests/test_gpu_memory.py). The rest is arithmetic (see the page).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guides" / "gpu.md"
BEGIN, END = "<!-- benchmarks/gpu_memory.py: {} -->", "<!-- end -->"

GIB = 2**30
BF16, F32 = 2, 4
TEXT_TOKENS = 25
"""Of a title in a history, number and line break included: what we assume."""
HISTORY = 10
LORA_RANK = 16
PEAK_TFLOPS = {"L4": 121.0, "A100": 312.0, "H100": 989.0}
"""Dense bfloat16 peaks as the vendor states them."""
REACHED = 0.3
"""Share of the peak that we assume is reached; `benchmarks/real_shapes.py` measures it on your device."""


@dataclass(frozen=True)
class Backbone:
    """Sizes of a checkpoint, as its `config.json` has them.

    Args:
        name: of the checkpoint on the Hub.
        published: parameters that the Hub shows for it.
        layers, hidden, heads, kv_heads, head_dim, intermediate, vocabulary, tied: of the language model; `tied` where
            the next-token head is the embedding.
        depth, width, vision_intermediate, gated, patch: of the vision tower; `gated` where its feed-forward part has
            three matrices.
        tokens_per_image: in the language model, at the resolution of `pixels`.
        pixels: side of the square image.
        merger: parameters between the tower and the language model.
        deepstack: layers of the tower whose states the language model reads as well.
    """

    name: str
    published: int
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool
    depth: int
    width: int
    vision_intermediate: int
    gated: bool
    patch: int
    tokens_per_image: int
    pixels: int
    merger: int
    deepstack: int = 0

    @property
    def patches(self) -> int:
        """Of an image, in the tower."""
        return (self.pixels // self.patch) ** 2

    @property
    def language(self) -> int:
        """Parameters of the language model's layers."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def embedding(self) -> int:
        """Parameters of the token embedding."""
        return self.vocabulary * self.hidden

    @property
    def tower(self) -> int:
        """Parameters of the vision tower's blocks."""
        feed_forward = (3 if self.gated else 2) * self.width * self.vision_intermediate
        return self.depth * (4 * self.width**2 + feed_forward)

    @property
    def whole(self) -> int:
        """Parameters of the checkpoint, next-token head included."""
        return self.kept + (0 if self.tied else self.embedding)

    @property
    def kept(self) -> int:
        """Parameters of an embedder: there is no next-token head."""
        return self.language + self.embedding + self.tower + self.merger

    @property
    def lora(self) -> int:
        """Parameters of the default adapters: rank 16 on all seven projections of the language model."""
        query, key = self.heads * self.head_dim, self.kv_heads * self.head_dim
        sides = 2 * (self.hidden + query) + 2 * (self.hidden + key) + 3 * (self.hidden + self.intermediate)
        return self.layers * LORA_RANK * sides

    def stored_per_token(self) -> int:
        """Bytes of one token's states that a layer keeps for its backward pass (bfloat16, fused attention)."""
        attention = 2 * self.hidden + 2 * self.head_dim * (self.heads + self.kv_heads)
        return BF16 * (attention + 2 * self.hidden + 4 * self.intermediate)

    def training_bytes(self, batch: int, *, whole_model: bool) -> int:
        """Weights, gradients, AdamW's states and states of a step with gradient checkpointing.

        One history row and one target row per user and modality; image features are known (frozen tower).
        """
        rows = batch * (HISTORY + 1) * (TEXT_TOKENS + self.tokens_per_image)
        states = rows * (BF16 * self.layers * self.hidden + self.stored_per_token())
        trained = self.language + self.embedding if whole_model else self.lora
        fixed = self.kept - trained if whole_model else self.kept  # adapters are additional
        return BF16 * fixed + 4 * F32 * trained + states

    def feature_bytes(self) -> int:
        """Of one image in the frozen-vision cache (bfloat16)."""
        return BF16 * self.tokens_per_image * self.hidden * (1 + self.deepstack)

    def item_flops(self) -> float:
        """Of one item with text and image, tower included."""
        tokens = TEXT_TOKENS + self.tokens_per_image
        attention = 4 * self.layers * self.heads * self.head_dim * tokens**2 / 2
        vision = 2 * self.tower * self.patches + 4 * self.depth * self.width * self.patches**2
        return 2 * self.language * tokens + attention + vision

    def click_flops(self) -> float:
        """Of a training step's share per user: history and target, forward, twice for checkpointing, and backward."""
        tokens = (HISTORY + 1) * (TEXT_TOKENS + self.tokens_per_image)
        return 2 * self.language * tokens * 3  # forward, forward again, backward to states (weights are frozen)


def _qwen_merger(width: int, hidden: int, times: int = 1) -> int:
    return times * (4 * width * 4 * width + 4 * width * hidden)


BACKBONES = (
    Backbone("HuggingFaceTB/SmolVLM-256M-Instruct", 256_484_928, 30, 576, 9, 3, 64, 1536, 49280, False,
             12, 768, 3072, False, 16, 64, 512, 768 * 16 * 576),
    Backbone("HuggingFaceTB/SmolVLM-500M-Instruct", 507_482_304, 32, 960, 15, 5, 64, 2560, 49280, False,
             12, 768, 3072, False, 16, 64, 512, 768 * 16 * 960),
    Backbone("HuggingFaceTB/SmolVLM-Instruct", 2_246_272_880, 24, 2048, 32, 32, 64, 8192, 49155, False,
             27, 1152, 4304, False, 14, 81, 384, 1152 * 9 * 2048),
    Backbone("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600, 28, 1536, 12, 2, 128, 8960, 151936, True,
             32, 1280, 5120, False, 14, 64, 224, _qwen_merger(1280, 1536)),
    Backbone("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976, 36, 2048, 16, 2, 128, 11008, 151936, True,
             32, 1280, 3420, True, 14, 64, 224, _qwen_merger(1280, 2048)),
    Backbone("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656, 28, 3584, 28, 4, 128, 18944, 152064, False,
             32, 1280, 3420, True, 14, 64, 224, _qwen_merger(1280, 3584)),
    Backbone("Qwen/Qwen3-VL-2B-Instruct", 2_127_532_032, 28, 2048, 16, 8, 128, 6144, 151936, True,
             24, 1024, 4096, False, 16, 49, 224, _qwen_merger(1024, 2048, 4), 3),
    Backbone("Qwen/Qwen3-VL-4B-Instruct", 4_437_815_808, 36, 2560, 32, 8, 128, 9728, 151936, True,
             24, 1024, 4096, False, 16, 49, 224, _qwen_merger(1024, 2560, 4), 3),
    Backbone("Qwen/Qwen3-VL-8B-Instruct", 8_767_123_696, 36, 4096, 32, 8, 128, 12288, 151936, False,
             27, 1152, 4304, False, 16, 49, 224, _qwen_merger(1152, 4096, 4), 3),
    Backbone("HuggingFaceM4/Idefics3-8B-Llama3", 8_462_144_752, 32, 4096, 32, 8, 128, 14336, 128259, False,
             27, 1152, 4304, False, 14, 169, 364, 1152 * 4 * 4096),
    Backbone("google/paligemma-3b-pt-224", 2_923_466_480, 18, 2048, 8, 1, 256, 16384, 257216, True,
             27, 1152, 4304, False, 14, 256, 224, 1152 * 2048),
    Backbone("google/paligemma2-3b-pt-224", 3_032_242_416, 26, 2304, 8, 4, 256, 9216, 257216, True,
             27, 1152, 4304, False, 14, 256, 224, 1152 * 2304),
    Backbone("llava-hf/llava-1.5-7b-hf", 7_063_427_072, 32, 4096, 32, 32, 128, 11008, 32064, False,
             24, 1024, 4096, False, 14, 576, 336, 1024 * 4096 + 4096 * 4096),
    Backbone("google/gemma-3-4b-it", 4_300_079_472, 34, 2560, 8, 4, 256, 10240, 262208, True,
             27, 1152, 4304, False, 14, 256, 896, 1152 * 2560),
)  # fmt: skip


def memory_table() -> str:
    """Weights, and what training takes, in GiB."""
    lines = [
        "| backbone | parameters | weights | LoRA, 16 users | LoRA, 64 users | all weights, 16 users "
        "| cached features of 100,000 images |",
        "|---|---|---|---|---|---|---|",
    ]
    for backbone in BACKBONES:
        cells = [f"`{backbone.name}`", f"{backbone.kept / 1e9:.2f} B", f"{BF16 * backbone.kept / GIB:.1f}"]
        cells += [f"{backbone.training_bytes(batch, whole_model=False) / GIB:.0f}" for batch in (16, 64)]
        cells.append(f"{backbone.training_bytes(16, whole_model=True) / GIB:.0f}")
        cells.append(f"{1e5 * backbone.feature_bytes() / GIB:.0f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def time_table() -> str:
    """Hours for a hundred thousand items and a million training examples, by card."""
    lines = [
        "| backbone | tokens per image | " + " | ".join(f"items, {card}" for card in PEAK_TFLOPS) + " | "
        + " | ".join(f"training, {card}" for card in PEAK_TFLOPS) + " |",
        "|---" * (2 + 2 * len(PEAK_TFLOPS)) + "|",
    ]  # fmt: skip
    for backbone in BACKBONES:
        cells = [f"`{backbone.name}`", str(backbone.tokens_per_image)]
        for work in (1e5 * backbone.item_flops(), 1e6 * backbone.click_flops()):
            cells += [_hours(work / (REACHED * peak * 1e12)) for peak in PEAK_TFLOPS.values()]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _hours(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.2f}" if hours < 1 else f"{hours:.1f}" if hours < 10 else f"{hours:.0f}"


TABLES = {"memory": memory_table, "time": time_table}


def with_tables(text: str) -> str:
    """The page with both tables between their marks.

    Raises:
        ValueError: a mark is not there.
    """
    for name, table in TABLES.items():
        before, mark, rest = text.partition(BEGIN.format(name))
        _, end, after = rest.partition(END)
        if not (mark and end):
            raise ValueError(f"{PAGE.name} needs the lines {BEGIN.format(name)!r} and {END!r}.")
        text = f"{before}{mark}\n\n{table()}\n\n{end}{after}"
    return text


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put them into docs/guides/gpu.md")
    options = parser.parse_args()
    if options.write:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print("\n\n".join(table() for table in TABLES.values()))


if __name__ == "__main__":
    main()
