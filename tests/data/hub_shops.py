"""Small shops to push: images, gaps, an image known by name only, a row for the quarantine."""

import io

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vlm2rec_hf.data.dataset import RecDataset


def png(seed, size=(6, 4)):
    rng = np.random.default_rng(seed)
    buffer = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def events(n=60):
    rows = [
        {"user_id": f"ü{i % 7}", "item_id": f"i{(i * i) % 5}", "timestamp": i // 3, "rating": i / 7 if i % 4 else None}
        for i in range(n)
    ]
    return [*rows, {"user_id": "ü1", "item_id": "nowhere", "timestamp": 1, "rating": 0.0}]


def items():
    return [
        {"item_id": "i0", "title": "both", "image": {"bytes": png(0), "path": "lamp.png"}, "tags": ["a", "b"]},
        {"item_id": "i1", "title": "text only", "image": None, "tags": []},
        {"item_id": "i2", "title": None, "image": {"bytes": png(2), "path": None}, "tags": None},
        {"item_id": "i3", "title": "named only", "image": {"bytes": None, "path": "/etc/hostname"}, "tags": ["c"]},
        {"item_id": "i4", "title": "", "image": {"bytes": png(4), "path": None}, "tags": ["d"]},
    ]


def make(catalogue=None, name="toy", **options):
    table = pa.Table.from_pylist(catalogue or items())
    return RecDataset.from_tables(events(), table, name=name, timestamp_unit="s", **options)


def with_other_image(parquet):
    """The bytes of an item shard with the first image replaced."""
    table = pq.read_table(pa.BufferReader(parquet))
    cells = table["image"].to_pylist()
    cells[0]["bytes"] = png(99)
    column = pa.array(cells, table.schema.field("image").type)
    sink = pa.BufferOutputStream()
    pq.write_table(table.set_column(table.column_names.index("image"), "image", column), sink)
    return sink.getvalue().to_pybytes()
