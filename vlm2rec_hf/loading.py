"""Load whatever a folder or Hub repo holds: the right class by `model_type`, and what is known of its training."""

from __future__ import annotations

import inspect
import json
import logging
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .hub.reach import asked_once
from .quiet import quiet_libraries

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .modeling.backbone_vlm2rec import Origin

logger = logging.getLogger(__name__)
_origins: weakref.WeakKeyDictionary[Any, tuple[Origin, int]] = weakref.WeakKeyDictionary()
"""Model -> where its weights came from, and how many there were: an adapter put beside them adds some."""

TRAINING_FILE = "training.json"
METHODS = ("vlm2rec", "pixrec", "seqrec", "dmesr")
"""The methods, by the `model_type` of their models."""
ENCODING_METHODS = ("vlm2rec", "pixrec")
"""Methods whose models encode items and histories; the others are heads, which know a catalogue."""


@dataclass(frozen=True)
class LoadedModel:
    """A model with what belongs to it.

    Attributes:
        model: the model, in evaluation mode.
        processor: lays out its items and histories; `None` for heads, which need none.
        where: folder or Hub id it was loaded from, `None` for a model made in this process.
        revision: its commit, where `where` is a Hub id.
        training: its `training.json`; empty where there is none.
    """

    model: Any
    processor: Any = None
    where: str | None = None
    revision: str | None = None
    training: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model_type(self) -> str:
        """One of `METHODS`."""
        return str(self.model.config.model_type)

    @property
    def max_history(self) -> int:
        """How many items of a history the model was shown in training, else how many its processor keeps."""
        return trained_history(self.training, self.processor.max_history)

    @property
    def version(self) -> str | None:
        """`model_version` of where it was loaded from; `None` for a model made in this process."""
        return None if self.where is None else model_version(self.where, self.revision)


@asked_once
def load_model(where: str | Path, *, revision: str | None = None, **options: Any) -> PreTrainedModel:
    """Load a saved model of any method, in evaluation mode.

    Args:
        where: folder or Hub id of a model or of an adapter.
        revision: tag, branch or commit; `main` by default. All files are read at one commit.
        options: for `from_pretrained` (`dtype`, `attn_implementation`, `token`, ...).

    Returns:
        A `VLM2RecEmbedder`, `PixRecModel`, `SequentialRecommender` or `DMESRModel`, as `config.json` says.

    Raises:
        ValueError: there is no model, or one of another kind; a `revision` of a folder.

    Example:
        ```python
        from vlm2rec_hf import load_model

        model = load_model("org/vlm2rec-demo", revision="v1.0")  # doctest: +SKIP
        ```
    """
    from .modeling.backbone_vlm2rec import Origin

    token = options.get("token")
    where, commit = str(where), _commit(str(where), revision, token)
    model_class = _model_class(where, _required_type(where, commit, token))
    with quiet_libraries():
        model = model_class.from_pretrained(where, revision=commit or "main", **options).eval()
    _origins[model] = Origin(where, commit, model), _weight_count(model)
    return model


@asked_once
def load_processor(where: str | Path, *, revision: str | None = None, token: str | None = None) -> Any:
    """Load the processor saved beside a model; `None` for heads, which have none.

    Args:
        where: folder or Hub id.
        revision: tag, branch or commit.
        token: that may read the repo; by default the one of `hf auth login`.

    Raises:
        ValueError: there is no model, or one of another kind.
    """
    from .modeling import PROCESSORS

    where, commit = str(where), _commit(str(where), revision, token)
    processor_class = PROCESSORS.get(_model_class(where, _required_type(where, commit, token)))
    if processor_class is None:
        return None
    with quiet_libraries():
        return processor_class.from_pretrained(where, revision=commit or "main", token=token)


@asked_once
def load_with_processor(
    model: Any, *, revision: str | None = None, processor: Any = None, **options: Any
) -> LoadedModel:
    """A model with its processor and what `training.json` tells; `evaluate` and `recommender` begin with it.

    Args:
        model: folder or Hub id, a `LoadedModel` (returned as it is), or a model, whose processor is loaded from where
            the model was.
        revision: of a Hub id.
        processor: used instead of the saved one.
        options: for `from_pretrained`.

    Raises:
        ValueError: nothing loadable there, a model of another kind, or a model whose processor is nowhere.
    """
    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, (str, Path)):
        where = str(model)
        token = options.get("token")
        commit = _commit(where, revision, token)
        loaded = load_model(where, revision=commit, **options)
        processor = load_processor(where, revision=commit, token=token) if processor is None else processor
        return LoadedModel(loaded, processor, where, commit, training_facts_or_nothing(where, commit, token))
    if revision is not None or options:
        raise ValueError("`revision` and loading options apply where `model` is a folder or Hub id.")
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    kind = getattr(getattr(inner, "config", None), "model_type", None)
    if kind not in METHODS:
        raise ValueError(f"`model` must be a model of this package, a folder or a Hub id, got {type(model).__name__}.")
    origin = origin_of(inner)
    if kind in ENCODING_METHODS and processor is None:
        place, at = inner.config.name_or_path, getattr(inner.config, "_commit_hash", None)
        if not place or model_type_of(place, at) not in METHODS:
            raise ValueError(
                "`processor` is required: `model` was made in this process, so none is saved beside it. Make one with "
                "`VLM2RecProcessor.from_backbone` or `PixRecProcessor.from_backbone`."
            )
        processor = load_processor(place, revision=at)
    facts = {} if origin is None else training_facts_or_nothing(*origin)
    where_from, at_commit = origin or (None, None)
    return LoadedModel(inner, processor, where_from, at_commit, facts)


def origin_of(model: Any) -> tuple[str, str | None] | None:
    """Folder or Hub id, and commit, of a model that `load_model` loaded.

    `None` once its weights have changed, as `Origin` finds out, or an adapter was put beside them.
    """
    origin, count = _origins.get(model, (None, 0))
    unchanged = origin is not None and count == _weight_count(model) and origin.is_origin_of(model)
    return origin.where if origin is not None and unchanged else None


@asked_once
def load_or_build(
    where: str,
    method: str,
    *,
    revision: str | None = None,
    backbone_options: Mapping[str, Any] | None = None,
    processor_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> LoadedModel:
    """A saved model of a method to train further, or a new one around a raw vision-language backbone.

    Args:
        where: folder or Hub id of a model, an adapter or a raw backbone.
        method: `"vlm2rec"` or `"pixrec"`.
        revision: tag, branch or commit.
        backbone_options: of a new model, such as `fusion` or `projection_dim`.
        processor_options: of a new model's processor, such as `fusion`.
        options: for `from_pretrained` (`dtype`, `attn_implementation`).

    Raises:
        ValueError: an unknown method, nothing loadable there, or a model of another method.
    """
    if method not in ENCODING_METHODS:
        raise ValueError(f"`method` must be one of {ENCODING_METHODS}, got {method!r}.")
    commit = _commit(where, revision)
    kind = _required_type(where, commit)
    if kind == method:
        return load_with_processor(where, revision=commit, **options)
    if kind in METHODS:
        raise ValueError(f"`where` {where!r} is a {kind} model, and `method` is {method!r}; name a {method} model.")
    from .modeling import PROCESSORS

    model_class = _model_class(where, method)
    at = {} if commit is None else {"revision": commit}
    model = model_class.from_backbone(where, **(backbone_options or {}), **at, **options)
    processor = PROCESSORS[model_class].from_backbone(where, revision=commit, **(processor_options or {}))
    return LoadedModel(model, processor, where, commit)


@asked_once
def load_parts(
    language_model: str,
    *,
    image_encoder: str | None = None,
    image_encoder_revision: str | None = None,
    feature_size: int | None = None,
    tokens_per_image: int = 4,
    revision: str | None = None,
    fusion: str = "external",
    seed: int = 0,
    **options: Any,
) -> LoadedModel:
    """A new embedder and its processor from a language model and images as features.

    Args:
        language_model: Hub id or folder; this and the others as in `VLM2RecEmbedder.from_parts`.
        image_encoder: likewise.
        image_encoder_revision: likewise.
        feature_size: likewise.
        tokens_per_image: likewise.
        revision: of the language model.
        fusion: likewise.
        seed: of the projector.
        options: for `from_pretrained` (`dtype`, `attn_implementation`).

    Raises:
        ValueError: a part that is not there or does not fit.
    """
    from .modeling.modeling_vlm2rec import VLM2RecEmbedder
    from .modeling.processing_vlm2rec import VLM2RecProcessor

    commit = _commit(language_model, revision)
    parts: dict[str, Any] = {
        "language_model": language_model,
        "image_encoder": image_encoder,
        "feature_size": feature_size,
        "tokens_per_image": tokens_per_image,
        "image_encoder_revision": None if image_encoder is None else _commit(image_encoder, image_encoder_revision),
        "fusion": fusion,
    }
    at: dict[str, Any] = {} if commit is None else {"revision": commit}
    model = VLM2RecEmbedder.from_parts(**parts, seed=seed, **at, **options)
    return LoadedModel(model, VLM2RecProcessor.from_parts(**parts, **at), language_model, commit)


def processor_option_names() -> list[str]:
    """What may be set on an embedder's processor: options of `VLM2RecProcessor`, and the image sizes of Qwen-VL."""
    from .modeling.processing_vlm2rec import VLM2RecProcessor

    given = ("image_processor", "tokenizer", "backbone_type", "chat_template")
    options = [name for name in inspect.signature(VLM2RecProcessor).parameters if name not in given]
    return [*options, "max_pixels", "min_pixels"]


@asked_once
def model_type_of(where: str | Path, revision: str | None = None, token: str | None = None) -> str | None:
    """`model_type` in the `config.json` of a folder or Hub repo; `None` where there is no readable one."""
    from transformers import PreTrainedConfig

    if Path(where).exists() and not (Path(where) / "config.json").is_file():
        return None
    try:
        config, _ = PreTrainedConfig.get_config_dict(str(where), revision=revision or "main", token=token)
    except OSError:
        return None
    return config.get("model_type")


@asked_once
def model_version(where: str | Path, revision: str | None = None) -> str:
    """Which weights a model has: the commit of a Hub id, or `sha256:...` of the weight files of a folder.

    A branch or a folder's name would say something else tomorrow.
    """
    commit = _commit(str(where), revision)
    return f"sha256:{weight_files_fingerprint(Path(where))}" if Path(where).is_dir() else commit or ""


def weight_files_fingerprint(folder: Path) -> str:
    """SHA-256 over the weight files of a model folder: names and contents, in hex."""
    import hashlib

    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        digest.update(path.name.encode())
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


@asked_once
def read_training_facts(
    where: str | Path, revision: str | None = None, token: str | None = None
) -> dict[str, Any] | None:
    """The `training.json` of a model; `None` where there is no such file.

    Raises:
        ValueError: the file is damaged, or the Hub refuses it.
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import HfApi

    from .hub.files import file_if_there

    path: Path | None = Path(where) / TRAINING_FILE
    if not Path(where).exists():
        path = file_if_there(HfApi(token=token), str(where), TRAINING_FILE, kind="model", revision=revision)
    if path is None or not path.is_file():
        return None
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{TRAINING_FILE} of {str(where)!r} is no JSON ({error}).") from error
    return facts if isinstance(facts, dict) else None


def training_facts_or_nothing(where: str | Path, revision: str | None, token: str | None = None) -> dict[str, Any]:
    """The `training.json` of a model; empty where there is none or it cannot be read, which is logged."""
    from .hub.tokens import redact

    try:
        return read_training_facts(where, revision, token) or {}
    except (ValueError, ConnectionError) as error:
        said = f"Cannot tell which data, histories and item columns {where} was trained on: {error}"
        logger.warning(redact(said, token))
        return {}


def trained_history(facts: Mapping[str, Any], kept: int) -> int:
    """How many items of a history a model was shown in training: a trainer may show fewer than its processor keeps.

    Args:
        facts: the model's `training.json`.
        kept: `max_history` of its processor.
    """
    shown = (facts.get("arguments") or {}).get("max_history")
    return min(kept, shown or kept)


def _weight_count(model: Any) -> int:
    return sum(1 for _ in model.parameters())


def refuse_options(kind: str | None, owners: Sequence[str], whose: str, **options: Any) -> None:
    """Refuse options that the kind of model at hand does not have.

    Args:
        kind: `model_type` of the model.
        owners: the kinds that have the options.
        whose: these in words, such as `"PixRec models"`.
        options: name -> value, `None` where the user set none.

    Raises:
        ValueError: one of them is set.
    """
    for name, value in options.items():
        if value is not None and kind not in owners:
            raise ValueError(f"`{name}` is an option of {whose}, and `model` is a {kind} model; leave it out.")


def _commit(where: str, revision: str | None, token: str | None = None) -> str | None:
    """The commit of a Hub id; `None` for a folder.

    Raises:
        ValueError: the Hub has no such model, or a version of a folder is asked for.
    """
    from .modeling.hub_loading import hub_commit

    if Path(where).exists():
        if revision not in (None, "main"):
            raise ValueError(
                f"`where` {where!r} is a folder, which has no revisions and would be loaded whatever it holds; leave "
                f"{revision!r} out, or run this where no folder has that name."
            )
        return None
    try:
        return hub_commit(where, revision=revision or "main", token=token) or revision
    except OSError as error:
        raise ValueError(f"{_no_model(where)} It says: {str(error).splitlines()[0]}") from error


def _no_model(where: str) -> str:
    return f"`where`: there is no folder {where!r}, and the Hub has no such model or cannot be reached."


def _required_type(where: str, revision: str | None, token: str | None = None) -> str:
    """The `model_type` of a model.

    Raises:
        ValueError: there is no such place, or no `config.json` in it.
    """
    kind = model_type_of(where, revision, token)
    if kind is None and not Path(where).exists():
        raise ValueError(_no_model(where))
    if kind is None:
        raise ValueError(f"`where` {where!r} holds no config.json: it is no saved model.")
    return kind


def _model_class(where: str, model_type: str) -> Any:
    from .modeling import MODELS

    for model_class in MODELS:
        if model_class.config_class.model_type == model_type:
            return model_class
    raise ValueError(
        f"`where` {where!r} is a {model_type} model, not one of {', '.join(METHODS)}; make an embedder of a raw "
        "backbone with `VLM2RecEmbedder.from_backbone`, or train one with `vlm2rec train`."
    )
