"""Rows of a few images, for the tests of families whose images are one square."""

import torch

from ..conftest import make_image

IMAGES = [make_image(0), make_image(1, (40, 90)), make_image(2, (200, 30)), make_image(3)]


def histories_of(model, processor, side="right"):
    """Rows of images as the language model gets them."""
    processor.tokenizer.padding_side = side
    batch = processor(histories=[IMAGES[:3], IMAGES[3:]])
    images = model._gather_images(batch["pixel_values"], batch["image_grid_thw"], batch["image_index"], None, None)
    return batch["image_rows"], batch["image_rows_mask"], images


def raw_pixels(processor, images=IMAGES):
    """What the image processor itself makes of images."""
    return processor.image_processor(images=images, return_tensors="pt")["pixel_values"]


def check_that_what_follows_changes_nothing(model, processor, tokens, cut):
    """States before a place stay as they are where the rest of a row is replaced by a word, images included.

    No mask is given: the attention kernel itself has to know that it is causal.

    Args:
        model: the embedder.
        processor: its own.
        tokens: of an image.
        cut: the row, which of its tokens are images' -> the place.
    """
    rows, _, images = histories_of(model, processor)
    row, token = rows[:1], model.config.vlm_config.image_token_id
    mask = torch.ones_like(row)
    whole = model.family.run(model.vlm, row, mask, images.select(torch.arange(3), torch.full((4,), tokens)))
    place = cut(row[0], row[0] == token)
    changed = row.clone()
    changed[:, place:] = 300
    placed = images.tokens[: int((changed == token).sum())]
    other = model.family.run(model.vlm, changed, mask, type(images)(placed, images.grid[:1]))
    assert (whole - other)[:, :place].abs().max() < 1e-5 < (whole - other)[:, place:].abs().max()
