"""The preflight's estimate holds, and running out of memory halves a pass instead of ending the run."""

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker
from transformers.utils import logging

from vlm2rec_hf.modeling import passes_vlm2rec as encoding_budget_vlm2rec
from vlm2rec_hf.modeling.passes_vlm2rec import free_memory, safe_tokens, token_bytes
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import FAMILIES, make_image, needs_attention
from .test_encoding import Counts, largest_difference, many_items


def peak_bytes(model, run):
    """Most memory that tensors other than the weights hold at one time."""
    tracker = MemTracker()
    tracker.track_external(model)
    with torch.no_grad(), tracker:
        run()
    kinds = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return sum(size for kind, size in kinds.items() if "ACT" in str(kind) or "TEMP" in str(kind) or "OTH" in str(kind))


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_estimate_is_above_the_peak_and_near_it(family, implementation, monkeypatch):
    needs_attention(family, implementation)
    model, processor = tiny_vlm(family, ["tent"], hidden_size=128, vision_hidden_size=128, image_size=448)
    model.set_attn_implementation(implementation)
    text, vision = (token_bytes(sizes, 4) for sizes in model.family.sizes(model.vlm))
    monkeypatch.setattr(encoding_budget_vlm2rec, "LONGEST_ROW", 512)
    if implementation == "eager":
        assert text > 2 * token_bytes(model.family.sizes(model.vlm)[0], 4)
        text, vision = (token_bytes(sizes, 4) for sizes in model.family.sizes(model.vlm))
    ids = torch.randint(0, 200, (8, 512))
    mask = torch.ones_like(ids)
    prepared = processor.prepare_items([make_image(i, (448, 448)) for i in range(4)])
    grid = torch.tensor([item.grid for item in prepared])
    pixels = torch.cat([item.pixel_values for item in prepared])
    for each, tokens, run in (
        (text, ids.numel(), lambda: model._pooled(ids, mask, None)),
        (vision, len(pixels), lambda: model.encode_images(pixels, grid)),
    ):
        peak = peak_bytes(model, run)
        assert peak < each * tokens < 4 * peak


def test_auto_is_bounded_by_memory_and_by_use_and_says_which(tiny, monkeypatch):
    model, _ = tiny()
    tokens, why = safe_tokens(model)
    assert tokens == 4096 and "gains nothing" in why
    each = max(token_bytes(sizes, 4) for sizes in model.family.sizes(model.vlm))
    monkeypatch.setattr(encoding_budget_vlm2rec, "free_memory", lambda device: 200 * each)
    tokens, why = safe_tokens(model)
    assert tokens == 100 and "half of the free memory" in why and f"{each:,} bytes" in why
    assert 2**20 < free_memory(torch.device("cpu")) < 2**50


def test_the_limit_is_logged(tiny, caplog):
    model, processor = tiny()
    logging.set_verbosity_info()
    logging.enable_propagation()
    try:
        with caplog.at_level("INFO"):
            model.encode_items(["tent"], processor)
    finally:
        logging.disable_propagation()
        logging.set_verbosity_warning()
    assert "at most 4096 tokens (more gains nothing" in caplog.text


class Small:
    """A device that holds only so many tokens (and patches) at a time."""

    def __init__(self, model, tokens, patches=10**9):
        self.tokens, self.patches, self.failed = tokens, patches, 0
        model.vlm.language_model.register_forward_pre_hook(self._rows, with_kwargs=True)
        model.vlm.visual.register_forward_pre_hook(self._tower, with_kwargs=True)

    def _check(self, size, limit):
        if size > limit:
            self.failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate too much.")

    def _rows(self, module, args, kwargs):
        self._check(kwargs["inputs_embeds"].shape[:2].numel(), self.tokens)

    def _tower(self, module, args, kwargs):
        self._check(len(args[0] if args else kwargs["hidden_states"]), self.patches)


@pytest.mark.parametrize("options", [{}, {"max_tokens": None}, {"packing": True}])
def test_out_of_memory_halves_the_passes_and_loses_nothing(tiny, options):
    model, processor = tiny()
    items = many_items(24)
    expected = model.encode_items(items, processor)
    counts = Counts(model)
    small = Small(model, tokens=300, patches=100)
    result = model.encode_items(items, processor, **options)
    assert largest_difference(result, expected) < 1e-5
    assert 1 <= small.failed < 10
    assert sum(rows * length <= 300 for rows, length in counts.rows) > 3


def test_a_row_that_never_fits_is_an_error_with_a_remedy(tiny):
    model, processor = tiny()
    Small(model, tokens=5)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        model.encode_items(["a red tent for two people"], processor)
    assert "max_history" in caught.value.__notes__[0]


@pytest.mark.parametrize("wrong", [0, -5, "much", 2.5, True])
def test_limits_are_checked(tiny, wrong):
    model, processor = tiny()
    with pytest.raises(ValueError, match="`max_tokens`"):
        model.encode_items(["tent"], processor, max_tokens=wrong)
