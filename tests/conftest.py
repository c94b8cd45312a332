"""Shared fixtures: tiny models built from config, a small shop, and a loopback Hub, made once per test run."""

import copy
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from . import HF_HOME, HUB

torch.set_num_threads(1)

QWEN = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
FAMILIES = (*QWEN, "smolvlm", "paligemma", "llava", "gemma3", "parts")
CHECKPOINT_FAMILIES = FAMILIES[:-1]  # of which others publish raw checkpoints


@pytest.fixture(scope="session")
def tiny():
    """`tiny(family, fusion=..., **processor_options) -> (model, processor)`: deep copies of models built once."""
    from vlm2rec_hf.tiny.backbones import tiny_vlm

    built = {}

    def make(family="qwen2_vl", fusion="external", **options):
        key = (family, fusion, tuple(sorted(options.items())))
        if key not in built:
            texts = ["red tent", "blue mug", "Alpina lamp 3"]
            built[key] = tiny_vlm(
                family, texts, fusion=fusion, hidden_size=32, vision_hidden_size=32, processor_options=options
            )
        return copy.deepcopy(built[key])

    return make


def needs_image_processor(family):
    """Skip where the library cannot load the family's image processor (5.17 without torchvision, for all but Qwen)."""
    import transformers

    names = {
        "smolvlm": "SmolVLMImageProcessorPil", "idefics3": "Idefics3ImageProcessorPil",
        "paligemma": "SiglipImageProcessorPil", "parts": "SiglipImageProcessorPil",
        "llava": "CLIPImageProcessorPil", "gemma3": "Gemma3ImageProcessorPil",
    }  # fmt: skip
    if family in names and getattr(getattr(transformers, names[family]), "is_dummy", False):
        pytest.skip(f"transformers {transformers.__version__} loads {names[family]} only beside torchvision")


def needs_attention(family, implementation):
    """Skip what a family's language model cannot do: Gemma 2 caps attention scores, which SDPA does not."""
    if (family, implementation) == ("paligemma", "sdpa"):
        pytest.skip("Gemma 2 has no SDPA; test_paligemma.py runs PaliGemma's Gemma with it")


@pytest.fixture(scope="session")
def tiny_pix():
    """`tiny_pix(family, config_options=..., **processor_options) -> (model, processor)`, deep copies as `tiny`."""
    from vlm2rec_hf.tiny.pixrec import tiny_pixrec

    built = {}

    def make(family="qwen2_vl", config_options=None, **options):
        key = (family, tuple(sorted((config_options or {}).items())), tuple(sorted(options.items())))
        if key not in built:
            built[key] = tiny_pixrec(
                family, ["red tent", "blue mug", "Alpina lamp 3"], hidden_size=32, vision_hidden_size=32,
                image_size=28, processor_options=options,
                config_options={"projection_dim": 12, **(config_options or {})},
            )  # fmt: skip
        return copy.deepcopy(built[key])

    return make


def make_image(seed, size=(60, 50)):
    """An image of noise."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 255, (*size[::-1], 3), dtype=np.uint8))


@pytest.fixture(scope="session")
def items():
    """Six items: both modalities, text only, image only; long and short."""
    return [
        {"text": "red tent", "image": make_image(0)},
        "blue mug with a long description of everything that can be said about a mug",
        make_image(1, (40, 90)),
        {"text": "x", "image": make_image(2)},
        {"text": "Alpina lamp 3"},
        {"image": make_image(3, (64, 64))},
    ]


@pytest.fixture(scope="session")
def demo_dataset():
    from vlm2rec_hf.data.demo_shop import make_demo_shop

    return make_demo_shop(80, n_users=120).dataset()


@pytest.fixture
def real_data():
    """`real_data(name)`: a folder of real data, or a skip where it is absent."""

    def find(name):
        folder = Path(__file__).parents[2] / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"real data {name} is not on this machine (looked in {folder})")
        return folder

    return find


@pytest.fixture
def hub(monkeypatch):
    """The loopback Hub, empty, with a token to write to `org/...`; every Hub client of this process talks to it."""
    import datasets
    import huggingface_hub.constants

    HUB.reset()
    for child in Path(HF_HOME).iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", HUB.token)
    yield HUB
    HUB.reset()


@pytest.fixture
def no_waiting(monkeypatch):
    """Clients that retry do so at once; returns the list of the waits (seconds) they asked for."""
    import time

    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    return waits


@pytest.fixture
def hub_environment(hub, tmp_path):
    """Environment variables for a process of its own, with a cache of its own, that talks to the loopback Hub."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "hf-home")}
    return environment | {"HF_ENDPOINT": hub.endpoint, "HF_HUB_DISABLE_XET": "1", "OMP_NUM_THREADS": "1"}
