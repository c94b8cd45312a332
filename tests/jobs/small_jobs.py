"""A catalogue of 24 items, five of them odd, a tiny model in memory, and jobs on them."""

import io
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from vlm2rec_hf import RecDataset, tiny_vlm
from vlm2rec_hf.jobs.embed import run_embed_job
from vlm2rec_hf.jobs.job import EmbedJob
from vlm2rec_hf.jobs.run_local import run_here

N_ITEMS = 24
BAD_IMAGE, BAD_ALONE, NOTHING, TEXT_ONLY, ONLY_A_PATH = 3, 5, 7, 9, 11
QUARANTINED = {"image:not_an_image": 2, "image:no_bytes": 1, "neither_text_nor_image": 2}


def png(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (30, 30, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def small_dataset(seed=0):
    items = [{"item_id": f"i{i}", "title": f"red tent {i}", "image": {"bytes": png(seed + i)}} for i in range(N_ITEMS)]
    items[BAD_IMAGE]["image"] = {"bytes": b"no image at all"}
    items[BAD_ALONE] |= {"title": None, "image": {"bytes": b"nor is this"}}
    items[NOTHING] |= {"title": " ", "image": None}
    items[TEXT_ONLY]["image"] = None
    items[ONLY_A_PATH]["image"] = {"bytes": None, "path": "somewhere.png"}
    events = [{"user_id": "u", "item_id": f"i{i}", "timestamp": i} for i in range(N_ITEMS)]
    return RecDataset.from_tables(events, items)


def small_model():
    return tiny_vlm("qwen2_vl", ["red tent"], hidden_size=32, vision_hidden_size=32)


def same(value):
    return value


def small_job(output, dataset, loaded, **options):
    """A job on objects in memory; six shards of four unless said otherwise."""
    options = {"shard_size": 4, "batch_size": 4, **options}
    return EmbedJob(Path(output), partial(same, dataset), partial(same, loaded), "model", "v1", **options)


def run(job, **options):
    return run_embed_job(job, run_here, progress=False, **options)


def table_of(output):
    """The table of a finished job; of a folder its shards in order."""
    output = Path(output)
    return pq.read_table(output) if output.is_file() else pq.read_table(output / "shards")


def leftovers(output):
    """What lies beside an output that is neither it nor its bad rows."""
    kept = {output.name, f"{output.stem}.quarantine.parquet"}
    return sorted(path.name for path in output.parent.iterdir() if path.name not in kept)
