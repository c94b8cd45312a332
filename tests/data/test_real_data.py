import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
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


def write_hm(folder):
    """`hm-week-mm` in the layout of the competition: a line per purchase in the order of the days, with prices."""
    source = SHARED / "hm-week-mm"
    keys = [(name, "ascending") for name in ("timestamp", "user_id", "position")]
    events = pq.read_table(source / "interactions.parquet").sort_by(keys)
    names = ["t_dat", "customer_id", "article_id", "price", "sales_channel_id"]
    days = pc.strftime(pc.cast(events["timestamp"], pa.timestamp("s")), "%Y-%m-%d")
    rows = [days, events["user_id"], events["item_id"], *(pa.repeat(x, len(events)) for x in (0.0169, 2))]
    pa_csv.write_csv(pa.table(rows, names), folder / "transactions_train.csv")
    items = pq.read_table(source / "items.parquet")
    theirs = {
        "article_id": "item_id", "product_code": "n_ratings", "prod_name": "title", "detail_desc": "description",
        "product_type_name": "product_type", "graphical_appearance_name": "appearance", "colour_group_name": "colour",
        "department_name": "department",
    }  # fmt: skip
    pa_csv.write_csv(pa.table([items[name] for name in theirs.values()], list(theirs)), folder / "articles.csv")
    for item, image in zip(items["item_id"].to_pylist(), items["image"].to_pylist(), strict=True):
        path = folder / "images" / item[:3] / f"{item}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(image["bytes"])


def test_hm_in_its_own_layout_is_the_same_dataset(tmp_path):
    write_hm(tmp_path)
    dataset = load_recsys(tmp_path)
    assert numbers(dataset) == {"users": 26585, "items": 6888, "interactions": 135071}
    assert len(dataset.quarantine) == 0 and dataset.coverage.items_with_image == 6888
    assert dataset.fingerprint == load_recsys(SHARED / "hm-week-mm").fingerprint
