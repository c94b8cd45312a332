"""Arguments of the commands as dataclasses: from the command line, from `--config FILE.yaml`, or in Python."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any

DTYPES = ("auto", "float32", "bfloat16", "float16")
"""What `--model_dtype` takes."""
TINY_SIZES = ("hidden_size", "num_layers", "vision_hidden_size", "vision_layers", "image_size", "vocab_size")
"""Sizes of a backbone that is built from config."""


@dataclass
class DataArguments:
    """Which dataset, and what is done to it before use."""

    _argument_group_name = "data"

    dataset: str = field(default="", metadata={"help": "Folder (prepared or raw) or Hub id of the dataset."})
    format: str | None = field(default=None, metadata={"help": "Reader to use; found by itself by default."})
    revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of a Hub dataset."})
    column_mapping: str | None = field(
        default=None,
        metadata={"help": "Columns of raw files, as THEIRS=OURS,... (user=user_id,sku=item_id)."},
    )
    text_columns: str | None = field(
        default=None,
        metadata={"help": "Columns of raw items that make their text, in this order (title,colour,description)."},
    )
    day_first: bool | None = field(
        default=None,
        metadata={"help": "Timestamps such as 3/4/2024 in raw files: true for 3 April, false for 4 March."},
    )
    split_column: str | None = field(
        default=None,
        metadata={"help": "Column of raw interactions with an existing split (default: split); none: take over none."},
    )
    k_core: int = field(default=0, metadata={"help": "Keep users and items with this many interactions; 0: all."})
    split: str | None = field(
        default=None,
        metadata={
            "help": "Split of a dataset that has none: leave_one_out (the default), temporal:0.8,0.9 (shares of time) "
            "or none."
        },
    )
    cold_items: float = field(default=0.0, metadata={"help": "Share of items held out of training (cold items)."})

    def __post_init__(self) -> None:
        if self.k_core < 0:
            raise ValueError(f"`--k_core` must be 0 or more, got {self.k_core}.")
        if not 0 <= self.cold_items < 1:
            raise ValueError(f"`--cold_items` must be at least 0 and below 1, got {self.cold_items}.")


@dataclass
class ModelArguments:
    """Which model, and how its weights are loaded."""

    _argument_group_name = "model"

    model: str | None = field(default=None, metadata={"help": "Folder or Hub id of the model."})
    model_revision: str | None = field(default=None, metadata={"help": "Tag, branch or commit of the model."})
    model_dtype: str = field(default="auto", metadata={"help": "Weights' dtype: auto, float32, bfloat16, float16."})
    attn_implementation: str | None = field(default=None, metadata={"help": "sdpa, eager, flash_attention_2, ..."})

    def __post_init__(self) -> None:
        if self.model_dtype not in DTYPES:
            raise ValueError(f"`--model_dtype` must be one of {', '.join(DTYPES)}, got {self.model_dtype!r}.")

    def loading(self) -> dict[str, Any]:
        """Options of `load_model` and its siblings."""
        options = {"dtype": self.model_dtype, "attn_implementation": self.attn_implementation}
        return {name: value for name, value in options.items() if value is not None}


@dataclass
class EncoderModelArguments(ModelArguments):
    """A trained embedder or PixRec model, or a raw vision-language backbone that becomes one."""

    fusion: str = field(
        default="external", metadata={"help": "Of a new embedder: external (the paper's) or internal (baseline)."}
    )
    template: str | None = field(
        default=None,
        metadata={"help": "Of a new embedder: rows as a published one reads them (qwen3_vl_embedding), not ours."},
    )


@dataclass
class TrainModelArguments(EncoderModelArguments):
    """What is trained: a model to train further, a raw backbone, or a tiny one built from config."""

    tiny: str | None = field(
        default=None,
        metadata={
            "help": "Build a tiny backbone from config: qwen2_vl, qwen2_5_vl, qwen3_vl, smolvlm, idefics3, "
            "paligemma, llava, gemma3, parts (with --feature_size: images as features)."
        },
    )
    language_model: str | None = field(
        default=None,
        metadata={"help": "Put a backbone together: Hub id or folder of a causal language model, instead of --model."},
    )
    image_encoder: str | None = field(
        default=None,
        metadata={"help": "Beside --language_model: Hub id or folder of an image encoder, which stays frozen."},
    )
    image_encoder_revision: str | None = field(default=None, metadata={"help": "Commit, branch or tag of it."})
    feature_size: int | None = field(
        default=None,
        metadata={"help": "Beside --language_model or --tiny parts: width of the items' image_features."},
    )
    tokens_per_image: int = field(
        default=4, metadata={"help": "Features that an image encoder's patches are averaged to (parts only)."}
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
    min_pixels: int | None = field(
        default=None, metadata={"help": "Least pixels (height x width) that images are resized to (Qwen-VL)."}
    )
    max_pixels: int | None = field(
        default=None, metadata={"help": "Most pixels (height x width) that images are resized to (Qwen-VL)."}
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

    def __post_init__(self) -> None:
        super().__post_init__()
        check_at_least(self, 1, *TINY_SIZES, "max_item_tokens", "max_history_item_tokens", "min_pixels", "max_pixels")
        if self.tiny is None and (self.model or self.language_model) is not None:
            self._refuse(TINY_SIZES, "is of a tiny backbone (`--tiny`)")
        if self.tiny is not None:
            self._refuse(("model_revision", "model_dtype", "attn_implementation"), "goes with `--model`")
        if self.image_encoder is None:
            self._refuse(("image_encoder_revision",), "goes with `--image_encoder`")
        if self.language_model is None and self.image_encoder is not None:
            raise ValueError(f"`--image_encoder` {self.image_encoder!r} needs a `--language_model` beside it.")
        if self.feature_size is not None and self.language_model is None and self.tiny != "parts":
            raise ValueError("`--feature_size` goes with `--language_model`, or with `--tiny parts`.")
        if self.tokens_per_image < 1 or (self.feature_size or 1) < 1:
            raise ValueError("`--tokens_per_image` and `--feature_size` must be at least 1.")
        if (self.min_pixels or 1) > (self.max_pixels or math.inf):
            raise ValueError(f"`--min_pixels` must not be above `--max_pixels`, got {self.min_pixels}.")

    def _refuse(self, names: Sequence[str], why: str) -> None:
        """Refuse options that were set and would not act.

        Raises:
            ValueError: there is one.
        """
        given = given_options(self)
        for name in names:
            if name in given:
                raise ValueError(f"`--{name}` {getattr(self, name)!r} {why}; leave it out.")

    def pixels(self) -> dict[str, int]:
        """Bounds of the images' sizes that were set."""
        bounds = {"max_pixels": self.max_pixels, "min_pixels": self.min_pixels}
        return {name: value for name, value in bounds.items() if value is not None}

    def tiny_options(self) -> dict[str, Any]:
        """Options of `tiny_vlm`."""
        return {
            "image_size": self.image_size,
            "vocab_size": self.vocab_size,
            "fusion": self.fusion,
            "hidden_size": self.hidden_size,
            "layers": self.num_layers,
            "vision_hidden_size": self.vision_hidden_size,
            "vision_layers": self.vision_layers,
            **self.feature_options(),
        }

    def feature_options(self) -> dict[str, Any]:
        """What a backbone of parts needs to know of images; nothing for other tiny backbones."""
        if self.language_model is None and self.tiny != "parts":
            return {}
        return {"feature_size": self.feature_size, "tokens_per_image": self.tokens_per_image}


@dataclass
class WarmUpArguments:
    """The warm-up of a backbone without pretrained weights, before training itself."""

    _argument_group_name = "warm-up of a tiny backbone"

    warm_up_backbone: int = field(
        default=0, metadata={"help": "Steps in which a tiny backbone learns to match the items' captions; 0: none."}
    )
    warm_up_batch_size: int = field(default=256, metadata={"help": "Items per step."})
    warm_up_learning_rate: float = field(default=1e-3, metadata={"help": "Peak learning rate."})
    warm_up_target: str = field(
        default="semantic",
        metadata={"help": "semantic, identity, or encoder:MODEL (any SentenceTransformer's vector of an item)."},
    )

    def __post_init__(self) -> None:
        check_at_least(self, 0, "warm_up_backbone")
        check_at_least(self, 2, "warm_up_batch_size")
        if not self.warm_up_learning_rate > 0:
            raise ValueError(f"`--warm_up_learning_rate` must be above 0, got {self.warm_up_learning_rate}.")
        kind, colon, encoder = self.warm_up_target.partition(":")
        if self.warm_up_target not in ("semantic", "identity") and (kind != "encoder" or not (colon and encoder)):
            raise ValueError(
                f"`--warm_up_target` must be semantic, identity or encoder:MODEL, got {self.warm_up_target!r}."
            )

    def facts(self) -> dict[str, Any]:
        """What a model's card and `training.json` tell of the warm-up."""
        facts = {name.removeprefix("warm_up_"): value for name, value in vars(self).items()}
        return {"steps": facts.pop("backbone"), **facts}


@dataclass
class RankingArguments:
    """Who is ranked, and what counts."""

    _argument_group_name = "evaluation"

    ks: str = field(default="10,20", metadata={"help": "Cut-offs, separated by commas."})
    include_seen: bool = field(default=False, metadata={"help": "Let items of the user's past be candidates."})
    max_users: int | None = field(default=None, metadata={"help": "Rank only this many users, evenly spread."})
    report_name: str | None = field(
        default=None, metadata={"help": "Name of the model in the report; that of its method by default."}
    )

    def __post_init__(self) -> None:
        self.cut_offs()
        check_at_least(self, 1, "max_users")

    def cut_offs(self) -> tuple[int, ...]:
        """The cut-offs as numbers.

        Raises:
            ValueError: something that is no list of positive whole numbers.
        """
        try:
            numbers = tuple(sorted({int(part) for part in str(self.ks).split(",")}))
        except ValueError:
            numbers = ()
        if not numbers or numbers[0] < 1:
            raise ValueError(f"`--ks` must be whole numbers separated by commas, such as 10,20; got {self.ks!r}.")
        return numbers

    def ranking(self) -> dict[str, Any]:
        """Options of `evaluate`."""
        return {
            "ks": self.cut_offs(),
            "exclude_seen": not self.include_seen,
            "max_users": self.max_users,
            "report_name": self.report_name,
        }


@dataclass
class EncoderRankingArguments(RankingArguments):
    """The test report of an embedder or PixRec model after training."""

    eval_split: str = field(default="test", metadata={"help": "validation or test."})
    eval_batch_size: int = field(default=64, metadata={"help": "Histories or items per forward pass."})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.eval_split not in ("validation", "test"):
            raise ValueError(f"`--eval_split` must be validation or test, got {self.eval_split!r}.")
        check_at_least(self, 1, "eval_batch_size")

    def ranking(self) -> dict[str, Any]:
        """Options of `evaluate`."""
        return {**super().ranking(), "split": self.eval_split, "batch_size": self.eval_batch_size}


@dataclass
class EvaluateArguments(EncoderRankingArguments):
    """What is ranked and where the report goes."""

    output: str = field(default="", metadata={"help": "Folder of the report."})
    eval_max_history: int | None = field(
        default=None, metadata={"help": "Most recent items shown to an encoder; as in training by default."}
    )
    mix: str | None = field(
        default=None,
        metadata={"help": "Also rank an embedder or head with this floor's scores added, ease or item_knn; the weight "
                          "is chosen on the validation split."},
    )  # fmt: skip
    without: str | None = field(
        default=None,
        metadata={"help": "Also rank an embedder with text, image or each of text,image removed from all items and "
                          "histories."},
    )  # fmt: skip

    def removed(self) -> tuple[str, ...]:
        """The modalities of `--without`."""
        return tuple(name.strip() for name in self.without.split(",")) if self.without else ()


@dataclass
class HeadEncoderArguments:
    """The sequence encoder of a head."""

    _argument_group_name = "model"

    encoder: str = field(default="sasrec", metadata={"help": "sasrec, gru4rec or bert4rec."})
    hidden_size: int = field(default=64, metadata={"help": "Length of item and user vectors."})
    num_layers: int = field(default=2, metadata={"help": "Blocks of the encoder."})
    num_heads: int = field(default=2, metadata={"help": "Attention heads."})
    max_length: int = field(default=50, metadata={"help": "Most recent items that are read."})
    dropout: float = field(default=0.2, metadata={"help": "During training."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "max_length")

    def sizes(self) -> dict[str, Any]:
        """What of these a head's configuration takes."""
        names = ("encoder", "hidden_size", "num_layers", "num_heads", "max_length", "dropout")
        return {name: getattr(self, name) for name in names}


@dataclass
class TextEncoderArguments:
    """A frozen text encoder."""

    _argument_group_name = "text encoder"

    text_encoder: str | None = field(
        default=None,
        metadata={"help": "Folder or Hub id of a SentenceTransformer, or lsa: made from the texts, no download."},
    )
    text_encoder_revision: str | None = field(default=None, metadata={"help": "Its tag, branch or commit."})
    lsa_dim: int = field(default=128, metadata={"help": "Length of the vectors of --text_encoder lsa."})
    encode_batch_size: int = field(default=32, metadata={"help": "Texts per forward pass of the text encoder."})

    def __post_init__(self) -> None:
        check_at_least(self, 1, "encode_batch_size")
        foreign, whose = "lsa_dim", "--text_encoder lsa"
        if self.text_encoder == "lsa":
            foreign, whose = "text_encoder_revision", "a SentenceTransformer"
        if self.text_encoder and foreign in given_options(self):
            raise ValueError(
                f"`--{foreign}` is an option of {whose}, and `--text_encoder` is {self.text_encoder!r}; leave it out."
            )


@dataclass
class PixRecItemArguments:
    """How PixRec describes items."""

    _argument_group_name = "PixRec"

    images: bool | None = field(
        default=None, metadata={"help": "false: leave every image out (the text-only ablation)."}
    )
    item_columns: str | None = field(
        default=None,
        metadata={"help": "Item columns that make an item's text, such as title,category,brand,price; in training by "
                          "default where there are any, later as in training."},
    )  # fmt: skip

    def columns(self) -> list[str] | None:
        """The item columns as a list; `None` for the default ones."""
        return [name.strip() for name in self.item_columns.split(",")] if self.item_columns else None


@dataclass
class PixRecRankingArguments(PixRecItemArguments):
    """PixRec's items, and its ranking by generated text."""

    generate_users: int = field(
        default=0, metadata={"help": "Also rank this many users by generated text and BM25; 0: nobody."}
    )
    beams: int = field(default=4, metadata={"help": "Beams of the generation."})
    max_new_tokens: int = field(default=24, metadata={"help": "Tokens of a generated text at most."})

    def __post_init__(self) -> None:
        check_at_least(self, 0, "generate_users")
        check_at_least(self, 1, "beams", "max_new_tokens")

    def generation(self) -> Any:
        """`GenerationOptions`, or `None` where nobody is ranked so."""
        if not self.generate_users:
            return None
        from ..evaluation.generated import GenerationOptions

        return GenerationOptions(self.generate_users, self.beams, self.max_new_tokens)


@dataclass
class VisionCacheArguments:
    """Where features of images are kept across runs."""

    _argument_group_name = "image features"

    vision_cache_dir: str | None = field(
        default=None,
        metadata={"help": "Folder that keeps features of images for later runs (frozen tower)."},
    )
    vision_cache_dtype: str = field(
        default="float32", metadata={"help": "What features are kept in: float32, bfloat16 or float16."}
    )

    def __post_init__(self) -> None:
        check_goes_with(self, "vision_cache_dir", "vision_cache_dtype")

    def cache(self) -> Any:
        """A `VisionCache`, or `None` where no folder is named."""
        if not self.vision_cache_dir:
            return None
        from ..catalogues.vision_cache import VisionCache

        return VisionCache(self.vision_cache_dir, dtype=self.vision_cache_dtype)


def check_at_least(arguments: Any, least: int, *names: str) -> None:
    """Refuse numbers of a dataclass that are too small; None is none.

    Raises:
        ValueError: there is one, named as an option.
    """
    for name in names:
        number = getattr(arguments, name)
        if number is not None and number < least:
            raise ValueError(f"`--{name}` must be at least {least}, got {number}.")


def check_goes_with(arguments: Any, owner: str, *names: str) -> None:
    """Refuse options of a dataclass that act only beside another one, where that is not named.

    Raises:
        ValueError: there is one.
    """
    given = given_options(arguments)
    for name in names:
        if name in given and not getattr(arguments, owner):
            raise ValueError(f"`--{name}` goes with `--{owner}`, which is not named; leave it out.")


def given_options(arguments: Any) -> list[str]:
    """Names of a dataclass' fields that differ from their defaults: what the user set."""
    given = []
    for one in fields(arguments):
        default = one.default if one.default_factory is MISSING else one.default_factory()
        if getattr(arguments, one.name) != default:
            given.append(one.name)
    return given
