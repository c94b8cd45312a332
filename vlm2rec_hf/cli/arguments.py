"""Arguments of the commands as dataclasses: from the command line, from `--config FILE.yaml`, or in Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass
class DataArguments:
    """Which dataset, and what is done to it before use."""

    dataset: str = field(default="", metadata={"help": "Folder (prepared or raw) or Hub id of the dataset."})
    format: str | None = field(default=None, metadata={"help": "Reader to use; found by itself by default."})
    revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of a Hub dataset."})
    column_mapping: str | None = field(
        default=None,
        metadata={"help": "Columns of raw files, as THEIRS=OURS,... (user=user_id,sku=item_id)."},
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with this many interactions; 0: all."})
    split: str = field(
        default="leave_one_out",
        metadata={"help": "Split of a dataset that has none: leave_one_out, or temporal:0.8,0.9 (shares of time)."},
    )
    cold_items: float = field(default=0.0, metadata={"help": "Share of items held out of training (cold items)."})

    def __post_init__(self) -> None:
        if self.k_core < 0:
            raise ValueError(f"`k_core` must be 0 or more, got {self.k_core}.")


@dataclass
class ModelArguments:
    """Which embedder: a trained one, a raw backbone, or a tiny one built from config."""

    model: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of an embedder or of a raw vision-language backbone."}
    )
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    model_dtype: str = field(default="auto", metadata={"help": "Weights' dtype: auto, float32, bfloat16, float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})
    fusion: str = field(default="external", metadata={"help": "external (the paper's) or internal (baseline)."})
    tiny: str | None = field(
        default=None,
        metadata={
            "help": "Build a tiny backbone from config: qwen2_vl, qwen2_5_vl, qwen3_vl, smolvlm, idefics3, paligemma."
        },
    )
    hidden_size: int = field(default=128, metadata={"help": "Of a tiny backbone."})
    num_layers: int = field(default=2, metadata={"help": "Of a tiny backbone's language model."})
    vision_hidden_size: int = field(default=96, metadata={"help": "Of a tiny backbone's vision tower."})
    vision_layers: int = field(default=2, metadata={"help": "Of a tiny backbone's vision tower."})
    image_size: int = field(default=84, metadata={"help": "Pixels a side that a tiny backbone sees."})
    vocab_size: int = field(default=4000, metadata={"help": "Of a tiny backbone's tokenizer."})
    item_instruction: str | None = field(default=None, metadata={"help": "Text in front of an item."})
    user_instruction: str | None = field(default=None, metadata={"help": "Text in front of a history."})
    history_template: str | None = field(default=None, metadata={"help": "How one title stands in a history."})
    max_item_tokens: int | None = field(default=None, metadata={"help": "Tokens kept of an item's text."})
    max_history_item_tokens: int | None = field(
        default=None, metadata={"help": "Tokens kept of each text inside a history."}
    )
    lora: bool | None = field(
        default=None, metadata={"help": "Train LoRA adapters; by default for pretrained models, not for tiny ones."}
    )
    lora_r: int = field(default=16, metadata={"help": "Rank of the adapters."})
    lora_alpha: int | None = field(default=None, metadata={"help": "Scaling of the adapters, 2 * lora_r by default."})
    lora_dropout: float = field(default=0.05, metadata={"help": "Dropout in front of the adapters."})

    def processor_options(self) -> dict[str, str | int]:
        """What was set of the processor's options."""
        names = ("item_instruction", "user_instruction", "history_template", "max_item_tokens",
                 "max_history_item_tokens")  # fmt: skip
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


@dataclass
class WarmUpArguments:
    """The warm-up of a backbone without pretrained weights."""

    warm_up_steps: int = field(default=0, metadata={"help": "Steps of the warm-up; 0: none."})
    warm_up_batch_size: int = field(default=256, metadata={"help": "Items per step."})
    warm_up_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    warm_up_target: str = field(default="semantic", metadata={"help": "semantic or identity."})

    def facts(self) -> dict[str, Any]:
        """What a model's card and `training.json` tell of the warm-up."""
        return {name.removeprefix("warm_up_"): value for name, value in vars(self).items()}


@dataclass
class EvaluateArguments:
    """What is ranked and where the report goes."""

    output: str = field(default="", metadata={"help": "Folder of the report."})
    eval_split: str = field(default="test", metadata={"help": "validation or test."})
    eval_max_history: int | None = field(
        default=None, metadata={"help": "Most recent items shown to the model; as in training by default."}
    )
    ks: str = field(default="10,20", metadata={"help": "Cut-offs, separated by commas."})
    include_seen: bool = field(default=False, metadata={"help": "Let items of the user's past be candidates."})
    max_users: int | None = field(default=None, metadata={"help": "Rank only this many users, evenly spread."})
    eval_batch_size: int = field(default=64, metadata={"help": "Histories or items per forward pass."})
    method: str = field(default="embedder", metadata={"help": "Name of the model in the report."})

    def cut_offs(self) -> tuple[int, ...]:
        """The cut-offs as numbers.

        Raises:
            ValueError: something that is no list of positive whole numbers.
        """
        try:
            numbers = tuple(sorted({int(part) for part in self.ks.split(",")}))
        except ValueError:
            numbers = ()
        if not numbers or numbers[0] < 1:
            raise ValueError(f"`ks` must be whole numbers separated by commas, such as 10,20; got {self.ks!r}.")
        return numbers


@dataclass
class EncoderArguments:
    """A sequence encoder, and the test report of the head that is built on it."""

    encoder: str = field(default="sasrec", metadata={"help": "sasrec, gru4rec or bert4rec."})
    hidden_size: int = field(default=64, metadata={"help": "Length of item and user vectors."})
    num_layers: int = field(default=2, metadata={"help": "Blocks of the encoder."})
    num_heads: int = field(default=2, metadata={"help": "Attention heads."})
    max_length: int = field(default=50, metadata={"help": "Most recent items that are read."})
    dropout: float = field(default=0.2, metadata={"help": "During training."})
    output: str = field(default="", metadata={"help": "Folder of the test report; OUTPUT_DIR/evaluation by default."})
    ks: str = field(default="10,20", metadata={"help": "Cut-offs of the test report, separated by commas."})
    include_seen: bool = field(default=False, metadata={"help": "Let items of the user's past be candidates."})
    max_users: int | None = field(default=None, metadata={"help": "Test only this many users, evenly spread."})

    def __post_init__(self) -> None:
        if self.max_users is not None and self.max_users < 1:
            raise ValueError(f"`--max_users` must be at least 1, got {self.max_users}.")

    def sizes(self) -> dict[str, Any]:
        """What of these a head's configuration takes."""
        names = ("encoder", "hidden_size", "num_layers", "num_heads", "max_length", "dropout")
        return {name: getattr(self, name) for name in names}


@dataclass
class VisionCacheFolder:
    """Where features of pictures are kept across runs."""

    vision_cache: str | None = field(
        default=None,
        metadata={"help": "Folder that keeps features of pictures for later runs (frozen tower)."},
    )


@dataclass
class VisionCacheArguments(VisionCacheFolder):
    """The cache as commands without training arguments take it."""

    vision_cache_dtype: str = field(
        default="float32", metadata={"help": "What features are kept in: float32, bfloat16 or float16."}
    )


@dataclass
class EmbedArguments:
    """Where the vectors go, and who computes them."""

    output: str = field(
        default="", metadata={"help": "FILE.parquet to write, or a folder that is to hold shards and manifest."}
    )
    embed_batch_size: int = field(default=64, metadata={"help": "Items per forward pass."})
    shard_size: int | None = field(
        default=None,
        metadata={"help": "Items per shard, the unit that a killed run loses; chosen by size by default."},
    )
    num_processes: int = field(default=1, metadata={"help": "Processes of this machine, each with its own model."})
    torch_threads: int | None = field(
        default=None, metadata={"help": "Threads of each process; by default 1 where there are several."}
    )
    shard: str | None = field(
        default=None,
        metadata={"help": "I/N: do part I of N parts, from 0; by default RANK and WORLD_SIZE of the environment."},
    )
    engine: str = field(default="local", metadata={"help": "local, or ray (a Ray Data job; needs the extra `ray`)."})

    def __post_init__(self) -> None:
        for name in ("embed_batch_size", "shard_size", "num_processes", "torch_threads"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise ValueError(f"`--{name}` must be at least 1, got {number}.")
        if self.engine not in ("local", "ray"):
            raise ValueError(f"`--engine` must be local or ray, got {self.engine!r}.")

    def part(self, environment: Mapping[str, str]) -> tuple[int, int]:
        """Which part of how many this run does: as `--shard` says, else as a launcher's `RANK` and `WORLD_SIZE` do.

        Raises:
            ValueError: no such part.
        """
        text, source = self.shard, "`--shard`"
        if text is None:
            size = environment.get("WORLD_SIZE", "1")
            text, source = f"{environment.get('RANK', '0') if size != '1' else '0'}/{size}", "`RANK`/`WORLD_SIZE`"
        try:
            index, count = (int(number) for number in text.split("/"))
        except ValueError:
            index, count = 0, 0
        if not 0 <= index < count:
            raise ValueError(f"{source} must be I/N with 0 <= I < N, such as 0/4 for the first of four; got {text!r}.")
        return index, count
