"""A history state as one safetensors file with JSON in its header: whole or absent, and never for other weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..files import whole_file
from ..modeling.family_vlm2rec import ImageFeatures
from ..modeling.items_vlm2rec import PreparedItem
from ..modeling.processing_vlm2rec import VLM2RecProcessor
from .history_checks import architecture_fingerprint, parameters_fingerprint, settings_fingerprint

STATE_FILE = "history_state.safetensors"
STATE_FORMAT = "vlm2rec-history-2"
Start = Callable[[Any, VLM2RecProcessor, list[Any], list[str]], Any]


def save_history(state: Any, path: Any) -> Path:
    """Write a state to one file, which appears whole or not at all.

    Args:
        state: a `HistoryState`; clicks that wait for their `embedding` are saved as waiting.
        path: a file ending in `.safetensors`, or a folder, in which it becomes `history_state.safetensors`.

    Returns:
        The file's path.
    """
    state._check_weights()
    target = _file(path)
    tensors: dict[str, Tensor] = {}
    images: dict[int, int] = {}
    users = []
    for user, history in zip(state.users, state._histories, strict=True):
        items = []
        for _, item in history.window:
            # By where they lie: a cache on disk maps the same features anew each time it is asked for them.
            place = None if item.features is None else item.features.tokens.data_ptr()
            if place is not None and place not in images:
                index = images[place] = len(images)
                for layer, part in enumerate((item.features.tokens, *item.features.layers)):
                    tensors[f"image.{index}.{layer}"] = part.cpu().contiguous()
            image = None if place is None else images[place]
            items.append({"text": item.text, "grid": item.grid and list(item.grid), "picture": image})
        rows = {view: row.done for view, row in history.rows.items()}
        users.append({"user": user, "items": items, "rows": rows})
    for view, bank in state._banks.items():
        tensors[f"vectors.{view}"] = state._vectors[view]
        for index, (keys, values) in enumerate(bank.packed(_lengths(state, view))):
            tensors[f"keys.{view}.{index}"], tensors[f"values.{view}.{index}"] = keys, values
    head = {
        "format": STATE_FORMAT,
        "weights": parameters_fingerprint(state.model),
        "architecture": architecture_fingerprint(state.model),
        "settings": settings_fingerprint(state.processor),
        "views": list(state.views),
        "users": users,
    }
    with whole_file(target) as partial:
        save_file(tensors, partial, metadata={"history": json.dumps(head)})
    return target


def load_history(start: Start, model: Any, path: Any, processor: VLM2RecProcessor) -> Any:
    """Read what `save_history` wrote; the state is on the model's device and gives the same embeddings as before.

    Args:
        start: makes an empty state of a model, a processor, users and views.
        model: a `VLM2RecEmbedder` with the weights (and active adapters, and dtype) that the state was made with.
        path: the file, or the folder it lies in.
        processor: with the settings that the state was made with.

    Raises:
        FileNotFoundError: no such file.
        ValueError: a damaged file or another kind of file, other weights, another architecture or other settings.
    """
    source = _file(path)
    if not source.is_file():
        raise FileNotFoundError(f"`path` {str(source)!r} holds no history state; write one with `state.save(path)`.")
    try:
        with safe_open(source, "pt") as file:
            head = json.loads((file.metadata() or {}).get("history", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, json.JSONDecodeError) as error:
        raise ValueError(f"`path` {str(source)!r} is damaged ({error}); start the history anew.") from error
    if not isinstance(head, dict) or head.get("format") != STATE_FORMAT:
        raise ValueError(f"`path` {str(source)!r} is no history state in the format {STATE_FORMAT!r}.")
    _check_belongs(source, head, model, processor)
    try:
        return _restored(start, head, tensors, model, processor)
    except (KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ValueError(f"`path` {str(source)!r} contradicts itself ({error!r}); start the history anew.") from error


def _check_belongs(source: Path, head: dict[str, Any], model: Any, processor: Any) -> None:
    """Refuse a state of another model or processor, naming what differs."""
    for what, own in (
        ("architecture", architecture_fingerprint(model)),
        ("settings", settings_fingerprint(processor)),
    ):
        differ = sorted(name for name in {*head[what], *own} if head[what].get(name) != own.get(name))
        if differ:
            name = "model's configuration" if what == "architecture" else "`processor`"
            raise ValueError(
                f"`path` {str(source)!r} was written with other settings of the {name}: {', '.join(differ)} (there "
                f"{head[what].get(differ[0])!r}, here {own.get(differ[0])!r}). Load it with those, or start anew."
            )
    if head["weights"] != parameters_fingerprint(model):
        raise ValueError(
            f"`path` {str(source)!r} was written with other weights (or dtype, or active adapters) than this model's; "
            "load it with those, or start the history anew."
        )


def _restored(
    start: Start, head: dict[str, Any], tensors: dict[str, Tensor], model: Any, processor: VLM2RecProcessor
) -> Any:
    state = start(model, processor, [user["user"] for user in head["users"]], head["views"])
    features: dict[int, ImageFeatures] = {}
    for history, user in zip(state._histories, head["users"], strict=True):
        for item in user["items"]:
            history.window.append((history.appended, _item(item, tensors, features, model.device)))
            history.appended += 1
        for view, layout in state._layouts.items():
            row = history.rows[view]
            layout.extend(row, history.window)
            row.keep(user["rows"][view])
    for view, bank in state._banks.items():
        state._vectors[view] = tensors[f"vectors.{view}"]
        count = sum(name.startswith(f"keys.{view}.") for name in tensors)
        packed = [(tensors[f"keys.{view}.{i}"], tensors[f"values.{view}.{i}"]) for i in range(count)]
        bank.unpack(packed, _lengths(state, view), model.device)
    return state


def _item(
    saved: dict[str, Any], tensors: dict[str, Tensor], features: dict[int, ImageFeatures], device: torch.device
) -> PreparedItem:
    grid, index = saved["grid"], saved["picture"]
    if index is not None and index not in features:
        layers: list[Tensor] = []
        while f"image.{index}.{len(layers)}" in tensors:
            layers.append(tensors[f"image.{index}.{len(layers)}"])
        features[index] = ImageFeatures(layers[0], torch.tensor([grid]), tuple(layers[1:])).to(device)
    return PreparedItem(saved["text"], grid and tuple(grid), features=features.get(index))


def _lengths(state: Any, view: str) -> list[int]:
    return [history.rows[view].length for history in state._histories]


def _file(path: Any) -> Path:
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / STATE_FILE
