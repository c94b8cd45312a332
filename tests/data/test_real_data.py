import json
import time
from pathlib import Path

import numpy as np
import pytest

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import load_recsys

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
FOLDERS = ["ml1m-mm", "sweetrs-mm", "amazon-beauty-2014-5core", "amazon-sports-2014-5core", "amazon-toys-2014-5core"]

pytestmark = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")


def numbers(dataset):
    return {"users": dataset.n_users, "items": dataset.n_items, "interactions": dataset.n_interactions}


@pytest.mark.parametrize("name", FOLDERS)
def test_counts_are_those_of_the_data(name):
    stats = json.loads((SHARED / name / "stats.json").read_text())
    start = time.perf_counter()
    dataset = load_recsys(SHARED / name)
    core = dataset.k_core(5)
    seconds = time.perf_counter() - start
    # ml1m takes about a second on one core; the limit only catches a loop over rows.
    assert seconds < 20
    assert numbers(dataset) == {key: stats[key] for key in ("users", "items", "interactions")}
    assert numbers(core) == stats["core5"]
    assert len(dataset.quarantine) == 0
    assert dataset.coverage.noted["ties_by_row_order"] == 0
    # The stored order of the files is the order of `position`.
    assert np.all(dataset.interactions.data["position"].to_numpy()[dataset.sequences().offsets[:-1]] == 0)
    split = core.leave_one_out()
    assert len(split.examples("test")) == core.n_users


def test_ml1m_images_and_round_trip(tmp_path):
    dataset = load_recsys(SHARED / "ml1m-mm").k_core(5).leave_one_out()
    assert dataset.coverage.items_with_image == 3253
    assert dataset.item(0)["image"].mode == "RGB"
    assert dataset.item(0)["text"].startswith("Toy Story (1995)")
    dataset.save(tmp_path / "d")
    start = time.perf_counter()
    loaded = RecDataset.load(tmp_path / "d")
    assert time.perf_counter() - start < 5
    assert loaded.item(0)["text"] == dataset.item(0)["text"]
    loaded.verify()


def test_sweetrs_images_decode():
    dataset = load_recsys(SHARED / "sweetrs-mm")
    checked = dataset.check_images()
    assert checked.item_has_image.sum() + len(checked.quarantine) == 47
    assert checked.item_has_image.sum() >= 45
