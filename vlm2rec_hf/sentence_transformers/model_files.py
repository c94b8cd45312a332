"""Make a saved embedder loadable by sentence-transformers, and write items and histories as it wants them.

Only the library's own modules are named in the files, so that `SentenceTransformer(folder)` needs no flag where this
package is imported (and `trust_remote_code=True` where it is not). Its `Transformer` calls the processor's
`apply_chat_template` for every batch and takes `VLM2RecOutput.embeddings`: no pooling and no normalisation follow,
which would break `encode(both) == encode(text) + encode(image)`. With `scored=True` it takes the text and the image
vector side by side, and a `Dense` layer makes of them what the embedder's score options compare.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from ..evaluation.score_options import ScoreOptions
from ..files import json_bytes, whole_file, whole_folder
from ..modeling.configuration_vlm2rec import VLM2RecConfig
from ..modeling.items_vlm2rec import HISTORY_ROLE, as_item, check_list
from ..modeling.processing_vlm2rec import VLM2RecProcessor

SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
# The oldest version that reads these files; a newer number would make older ones warn while loading.
OLDEST_VERSION = "6.0.0"
FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
SCORE_LAYER = "1_Dense"
VIEWS = "view_embeddings"  # of `VLM2RecOutput`


def as_documents(items: Sequence[Any]) -> list[dict[str, Any]]:
    """Items typed for `SentenceTransformer.encode_document` (and `encode`).

    sentence-transformers looks into a bare string whether it names an image (and asks the file system). In what this
    function returns a text is called a text, so nothing is guessed.

    Args:
        items: see `vlm2rec_hf.modeling.processing_vlm2rec.as_item` for what an item may be.

    Returns:
        One dict per item with `text` (str) and/or `image` (PIL.Image.Image).

    Raises:
        ValueError: an item without text and image, or with an image as features.
        TypeError: something that is no item, or a lone item in place of the list.
    """
    typed = [*map(as_item, check_list("items", items))]
    if any(item.get("image_features") is not None for item in typed):
        raise ValueError(
            "`items` holds `image_features`, which sentence-transformers hands to no model; encode such items with "
            "`VLM2RecEmbedder.encode_items` and `encode_histories`, or pass their texts alone."
        )
    return [{name: value for name, value in item.items() if value is not None} for item in typed]


def as_queries(histories: Sequence[Sequence[Any]], *, max_history: int | None = None) -> list[list[dict[str, Any]]]:
    """User histories as conversations for `SentenceTransformer.encode_query`: one message per item, oldest first.

    Args:
        histories: lists of items, oldest first.
        max_history: keep this many most recent items; by default all are handed on and the processor keeps its own
            `max_history`.

    Returns:
        One conversation (list of messages) per history.

    Raises:
        ValueError: an empty history, an item without text and image, or `max_history` below 1.
        TypeError: something that is no history.
    """
    histories = check_list("histories", histories)
    if max_history is not None and max_history < 1:
        raise ValueError(f"`max_history` must be at least 1, got {max_history}.")
    queries = []
    for history in histories:
        history = check_list("histories[i]", history)
        if not len(history):
            raise ValueError("`histories` must not hold an empty history: it has no embedding; leave that user out.")
        recent = list(history)[-max_history:] if max_history is not None else history
        messages = [[{"type": name, name: value} for name, value in item.items()] for item in as_documents(recent)]
        queries.append([{"role": HISTORY_ROLE, "content": content} for content in messages])
    return queries


def write_sentence_transformer_files(
    folder: str | Path,
    processor: VLM2RecProcessor,
    config: VLM2RecConfig,
    *,
    similarity: str = "cosine",
    truncate_dim: int | None = None,
    scored: bool = False,
) -> list[Path]:
    """Write what `SentenceTransformer(folder)` reads into a folder with a saved model (or adapter) and its processor.

    Args:
        folder: holds `config.json` or `adapter_config.json`, and `processor_config.json`.
        processor: the saved processor; its instructions become the prompts `query` and `document`.
        config: the embedder's (of an adapter: its base model's).
        similarity: what `SentenceTransformer.similarity` computes; the embedder is trained for `"cosine"`.
        truncate_dim: keep only this many leading numbers of a vector; `None` keeps all.
        scored: make vectors whose cosine is the content part `c` of the score by `config.score_options`
            (`ScoreOptions`), `2 d` wide without cross terms, instead of those of the view `both`. Add
            `ScoreOptions.prior(counts)` to the cosines where the options have a popularity prior.

    Returns:
        The files written: `sentence_bert_config.json`, `config_sentence_transformers.json` and `modules.json`, and
        with `scored` the folder `1_Dense` where the options are more than a prior. Each is written whole,
        `modules.json` (which makes the folder a sentence-transformers model) last.

    Raises:
        ValueError: a folder without model or processor, an adapter whose base is no saved embedder, or options that
            do not fit.
    """
    folder = Path(folder)
    _check(folder, processor, config, similarity, truncate_dim)
    layer = scored and _needs_layer(config, similarity, truncate_dim)
    contents = sentence_transformer_contents(
        processor, similarity=similarity, truncate_dim=truncate_dim, score_layer=layer
    )
    if layer:
        with whole_folder(folder / SCORE_LAYER) as partial:
            for name, content in score_layer_files(ScoreOptions.of(config), config.hidden_size).items():
                (partial / name).write_bytes(content)
    for name, content in contents.items():
        _write(folder / name, content)
    return [folder / name for name in ((SCORE_LAYER,) if layer else ()) + FILES]


def sentence_transformer_contents(
    processor: VLM2RecProcessor,
    *,
    similarity: str = "cosine",
    truncate_dim: int | None = None,
    score_layer: bool = False,
) -> dict[str, Any]:
    """What `write_sentence_transformer_files` writes, by file name, `modules.json` last; unchecked."""
    output = VIEWS if score_layer else "embeddings"
    route: dict[str, Any] = {"method": "forward", "method_output_name": output}
    transformer = {
        "transformer_task": "feature-extraction",
        "modality_config": {"text": route, "image": route, "message": {**route, "format": "structured"}},
        "module_output_name": "sentence_embedding",
        # Rows have a layout of their own: nothing to restore after cutting, nothing to pack without padding.
        "processing_kwargs": {"chat_template": {"restore_suffix": False}},
        "unpad_inputs": False,
    }
    sentence_transformer: dict[str, Any] = {
        "__version__": {"sentence_transformers": OLDEST_VERSION},
        "model_type": "SentenceTransformer",
        "prompts": processor.prompts,
        "default_prompt_name": None,
        "similarity_fn_name": similarity,
    }
    if truncate_dim is not None:
        sentence_transformer["truncate_dim"] = truncate_dim
    places = {"": "transformer.Transformer"} | ({SCORE_LAYER: "dense.Dense"} if score_layer else {})
    modules = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.base.modules.{name}"}
        for number, (path, name) in enumerate(places.items())
    ]
    return {FILES[1]: transformer, FILES[2]: sentence_transformer, FILES[0]: modules}


def _check(
    folder: Path, processor: VLM2RecProcessor, config: VLM2RecConfig, similarity: str, truncate_dim: int | None
) -> None:
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise ValueError(f"`folder` {str(folder)!r} holds no model; call `model.save_pretrained(folder)` first.")
    if not suits_sentence_transformers(folder):
        raise ValueError(
            f"`folder` {str(folder)!r} holds an adapter for a base of model type {_class_of_base(folder)!r}, for "
            "which sentence-transformers would load another model; merge the adapter into its base and save that, "
            "train it on a saved VLM2RecEmbedder, or publish it (`vlm2rec push`), which makes it loadable."
        )
    if not (folder / "processor_config.json").is_file():
        raise ValueError(
            f"`folder` {str(folder)!r} holds no processor; call `processor.save_pretrained(folder)` first."
        )
    if processor.fusion != config.fusion:
        raise ValueError(
            f"`processor` is made for fusion {processor.fusion!r}, the model for {config.fusion!r}; use the processor "
            "the model was trained with."
        )
    if similarity not in SIMILARITIES:
        raise ValueError(f"`similarity` must be one of {SIMILARITIES}, got {similarity!r}.")
    if truncate_dim is not None and not 1 <= truncate_dim <= config.hidden_size:
        raise ValueError(f"`truncate_dim` must lie in 1..{config.hidden_size}, got {truncate_dim}.")


def _needs_layer(config: VLM2RecConfig, similarity: str, truncate_dim: int | None) -> bool:
    """Whether scores take a layer of their own, after checking that the other options go with scores."""
    if config.score_options is None:
        raise ValueError(
            "`scored` is True, but `config.score_options` is None; choose options first (`choose_score_options`; "
            "training with validation does), or leave `scored` out."
        )
    if similarity != "cosine":
        raise ValueError(f"`similarity` must be 'cosine' with `scored`: scores are cosines; got {similarity!r}.")
    needed = ScoreOptions.of(config).needs_parts
    if needed and truncate_dim is not None:
        raise ValueError(
            f"`truncate_dim` {truncate_dim} would cut vectors that hold a text and an image side by side, or their "
            "weighted sum; leave it out with `scored`."
        )
    return needed


def score_layer_files(options: ScoreOptions, width: int) -> dict[str, bytes]:
    """The library's `Dense` layer, as it saves it, from the vectors of the two views to what the options compare.

    Args:
        options: of the embedder.
        width: of a text or an image vector.

    Returns:
        File name inside the layer's folder -> content.
    """
    from safetensors.numpy import save

    weights = options.view_map(width)
    config = {
        "in_features": weights.shape[1],
        "out_features": weights.shape[0],
        "bias": False,
        "activation_function": "torch.nn.modules.linear.Identity",
        "module_input_name": "sentence_embedding",
        "module_output_name": "sentence_embedding",
    }
    return {"config.json": json_bytes(config), "model.safetensors": save({"linear.weight": weights})}


def suits_sentence_transformers(folder: str | Path) -> bool:
    """Whether sentence-transformers would find the right model class in a folder.

    It takes the class of an adapter from the base that `adapter_config.json` names, which must be a saved embedder. A
    base that is not on this machine is assumed to be one.
    """
    return _class_of_base(Path(folder)) in (None, VLM2RecConfig.model_type)


def _class_of_base(folder: Path) -> str | None:
    """Model type of an adapter's base; `None` if it is unknown or does not matter."""
    path = folder / "adapter_config.json"
    if not path.is_file() or any(folder.glob("model*.safetensors")):
        return None
    base = json.loads(path.read_text(encoding="utf-8")).get("base_model_name_or_path")
    if not base:
        return "unnamed"
    try:
        return str(AutoConfig.from_pretrained(base, local_files_only=True).model_type)
    except OSError:
        return None


def _write(path: Path, content: Any) -> None:
    with whole_file(path) as partial:
        partial.write_bytes(json_bytes(content))
