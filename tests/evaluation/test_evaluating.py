"""`evaluate`: every option acts in its own call, and only there."""

import numpy as np
import pytest

from vlm2rec_hf import PreparedCatalogue, VLM2RecEmbedder, evaluate
from vlm2rec_hf.loading import LoadedModel


def test_use_images_is_of_one_call(tiny_pix, demo_dataset):
    loaded = LoadedModel(*tiny_pix(max_history=3))
    reports = [evaluate(loaded, demo_dataset, max_users=20, use_images=images) for images in (None, False, None)]
    assert [report.methods for report in reports] == [["pixrec"], ["pixrec-text"], ["pixrec"]]
    before, text, after = (report.ranks(report.methods[0], report.views(report.methods[0])[0]) for report in reports)
    np.testing.assert_array_equal(before, after)
    assert (before != text).any() and loaded.processor.images
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), loaded.processor)
    with pytest.raises(ValueError, match="`use_images` is False, and the processor of `catalogue` has True"):
        evaluate(loaded, demo_dataset, max_users=20, use_images=False, catalogue=catalogue)


@pytest.mark.parametrize("method", ["vlm2rec", "pixrec"])
def test_a_longer_history_than_in_training_is_shown(tiny, tiny_pix, demo_dataset, method):
    model, processor = tiny() if method == "vlm2rec" else tiny_pix()
    processor.max_history = 1
    loaded = LoadedModel(model, processor)
    reports = [evaluate(loaded, demo_dataset, max_users=20, max_history=n, report_name="m") for n in (None, 1, 4)]
    short, same, long = (report.ranks("m", "both") for report in reports)
    np.testing.assert_array_equal(short, same)
    assert (long != short).any() and reports[2].protocol.max_history == 4 and processor.max_history == 1
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    with pytest.raises(ValueError, match="`max_history` is 4, and the processor of `catalogue` keeps 1"):
        evaluate(loaded, demo_dataset, max_users=20, max_history=4, catalogue=catalogue)


@pytest.mark.parametrize("method", ["vlm2rec", "pixrec"])
def test_a_history_of_nothing_is_refused(tiny, tiny_pix, demo_dataset, method):
    loaded = LoadedModel(*(tiny() if method == "vlm2rec" else tiny_pix()))
    with pytest.raises(ValueError, match="`max_history` must be at least 1, got 0"):
        evaluate(loaded, demo_dataset, max_users=5, max_history=0)


def test_a_model_made_here_needs_its_processor(tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    model.vlm.save_pretrained(tmp_path / "raw")
    fresh = VLM2RecEmbedder.from_backbone(str(tmp_path / "raw"))
    with pytest.raises(ValueError, match="`processor` is required"):
        evaluate(fresh, demo_dataset)
    assert len(evaluate(fresh, demo_dataset, processor=processor, max_users=5)) == 5
