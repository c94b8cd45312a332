"""Feature batches of a sentence-transformers column: split by modality, cut into rows, compared by content.

A batch here is what `VLM2RecProcessor` lays out for external fusion: one text row (`input_ids`, `attention_mask`) and
one image row (`image_rows`, `image_rows_mask`) per example, with the images' patches of all rows one after the
other. Which images belong to which row is read off the placeholders in the image rows, never off a count kept
beside them: a history that was cut to its newest items holds fewer images than the message it was made of.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

IMAGE_KEYS = ("image_rows", "image_rows_mask", "pixel_values", "image_grid_thw", "image_index")
_ROW_KEYS = ("input_ids", "attention_mask", "has_text", "has_image")
_GOLDEN, _FIRST, _SECOND = (number - 2**64 for number in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def check_features(name: str, features: dict[str, Any]) -> None:
    """Raise ValueError unless `features` is a batch laid out for external fusion."""
    missing = [key for key in _ROW_KEYS if not isinstance(features.get(key), Tensor)]
    if missing:
        raise ValueError(
            f"`{name}` must be a batch made by a VLM2Rec processor, got keys {sorted(features)} without {missing}; "
            "train a SentenceTransformer that was saved as a VLM2Rec embedder, and pass each column as items or "
            "histories."
        )


def text_part(features: dict[str, Any]) -> dict[str, Any]:
    """The same batch without its images: the model's vectors of it are the text vectors."""
    part = {key: value for key, value in features.items() if key not in IMAGE_KEYS}
    return part | {"has_image": torch.zeros_like(features["has_image"])}


def image_part(features: dict[str, Any]) -> dict[str, Any]:
    """The same batch without its texts: the model's vectors of it are the image vectors.

    The model never runs absent text rows, so one column of them is enough to say how many rows there are.
    """
    part = dict(features)
    part["has_text"] = torch.zeros_like(features["has_text"])
    part["input_ids"] = features["input_ids"][:, :1]
    part["attention_mask"] = torch.ones_like(part["input_ids"])
    return part


def image_ends(features: dict[str, Any], image_token_id: int) -> Tensor:
    """`(n,)` long: how many images (places in rows, repeats counted) stand in the rows up to and including each.

    Raises:
        ValueError: the image rows hold another number of placeholders than the images fill.
    """
    rows = features.get("image_rows")
    if rows is None:
        return features["has_image"].new_zeros(len(features["input_ids"]), dtype=torch.long)
    placeholders = ((rows == image_token_id) & features["image_rows_mask"].bool()).sum(dim=1).cumsum(dim=0)
    patches = _patches_per_place(features).cumsum(dim=0)
    # The vision tower merges a fixed number of patches into one placeholder.
    total, held = int(patches[-1]), int(placeholders[-1])
    merged = total // max(held, 1)
    ends = torch.searchsorted(patches, placeholders * merged, right=True)
    if merged * held != total or bool((patches[(ends - 1).clamp(min=0)] * (ends > 0) != placeholders * merged).any()):
        raise ValueError(
            f"`image_rows` hold {held} image placeholders, which do not fit the {len(patches)} images of {total} "
            "patches in `image_grid_thw`; a row was cut inside an image. Lower `max_history` instead of truncating."
        )
    return ends


def slice_features(features: dict[str, Any], begin: int, end: int, image_token_id: int) -> dict[str, Any]:
    """Rows `begin` to `end` of a batch, with their images only and without columns that are padding in all of them.

    Everything that is neither a row tensor nor about images is passed on as it is.

    Args:
        features: a batch of `n` rows.
        begin: first row.
        end: one past the last row; may exceed `n`.
        image_token_id: the placeholder of an image's patches.
    """
    count = len(features["input_ids"])
    end = min(end, count)
    part = {
        key: value[begin:end] if isinstance(value, Tensor) and value.ndim and len(value) == count else value
        for key, value in features.items()
        if key not in IMAGE_KEYS
    }
    part["input_ids"], part["attention_mask"] = _unpadded(part["input_ids"], part["attention_mask"])
    if "image_rows" not in features:
        return part
    ends = image_ends(features, image_token_id)
    first, last = int(ends[begin - 1]) if begin else 0, int(ends[end - 1])
    if first == last:
        return part
    part["image_rows"], part["image_rows_mask"] = _unpadded(
        features["image_rows"][begin:end], features["image_rows_mask"][begin:end]
    )
    grid = features["image_grid_thw"]
    places = _places(features)[first:last]
    used, part["image_index"] = places.unique(return_inverse=True)
    part["image_grid_thw"] = grid[used]
    keep = torch.zeros(len(grid), dtype=torch.bool, device=grid.device).index_fill_(0, used, True)
    part["pixel_values"] = features["pixel_values"][keep.repeat_interleave(grid.prod(dim=-1))]
    return part


def content_keys(features: dict[str, Any], image_token_id: int) -> Tensor:
    """`(n,)` long: rows with the same tokens and the same images have the same key, on every device and process.

    The keys are 64-bit hashes in integer arithmetic that wraps around: exact and independent of the order of
    summation, so nothing has to be copied to the CPU and no tolerance has to be chosen (our choice). Different
    content meets in one key with a chance of about `2**-64` per pair.
    """
    text = _token_keys(features["input_ids"], features["attention_mask"])
    keys = _mixed(torch.where(features["has_text"].bool(), text, 0) + 1)
    if "image_rows" not in features:
        return keys
    ends = image_ends(features, image_token_id)
    images = _image_keys(features["pixel_values"], features["image_grid_thw"])[_places(features)]
    place = torch.arange(len(images), device=images.device)
    row = torch.searchsorted(ends, place, right=True)
    within = place - torch.cat([ends.new_zeros(1), ends])[row]
    # A row without an image keeps the key it would have in a batch without any.
    return keys + torch.zeros_like(keys).index_add_(0, row, _mixed(images * _weights(within)))


def _places(features: dict[str, Any]) -> Tensor:
    """Which image stands in each place."""
    grid, index = features["image_grid_thw"], features.get("image_index")
    return torch.arange(len(grid), device=grid.device) if index is None else index


def _patches_per_place(features: dict[str, Any]) -> Tensor:
    return features["image_grid_thw"].prod(dim=-1)[_places(features)]


def _unpadded(rows: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Drop the columns that are padding in every row (on either side)."""
    columns = mask.bool().any(dim=0)
    return rows[:, columns], mask[:, columns]


def _mixed(keys: Tensor) -> Tensor:
    """Spread every bit over the whole word (the finaliser of SplitMix64, with arithmetic shifts)."""
    keys = (keys ^ (keys >> 30)) * _FIRST
    keys = (keys ^ (keys >> 27)) * _SECOND
    return keys ^ (keys >> 31)


def _weights(positions: Tensor) -> Tensor:
    """An odd number for every position."""
    return _mixed((positions + 1) * _GOLDEN) | 1


def _token_keys(rows: Tensor, mask: Tensor) -> Tensor:
    """Keys of token rows, whichever side is padded."""
    mask = mask.long()
    return (_mixed(rows + 1) * _weights((mask.cumsum(dim=1) - 1).clamp(min=0)) * mask).sum(dim=1)


def _image_keys(pixels: Tensor, grid: Tensor) -> Tensor:
    """Keys of the distinct images, from the bits of their patches."""
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[pixels.element_size()]
    columns = _weights(torch.arange(pixels.shape[1], device=pixels.device))
    # In pieces, because the bits as 64-bit numbers take twice the memory of the pixels.
    pieces = pixels.detach().contiguous().view(bits).split(4096)
    patches = _mixed(torch.cat([(_mixed(piece.long()) * columns).sum(dim=1) for piece in pieces]))
    lengths = grid.prod(dim=-1)
    image = torch.arange(len(grid), device=grid.device).repeat_interleave(lengths)
    within = torch.arange(len(patches), device=grid.device) - (lengths.cumsum(dim=0) - lengths)[image]
    keys = torch.zeros_like(lengths).index_add_(0, image, patches * _weights(within))
    return _mixed(keys + (grid * _weights(torch.arange(3, device=grid.device))).sum(dim=1))
