"""Histories on disk: the same after loading, whole or absent, refused where they do not belong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from vlm2rec_hf import HistoryState, PreparedCatalogue, VisionCache
from vlm2rec_hf.columns import VIEWS

from ..conftest import FAMILIES
from ..waiting import PATIENCE_S, has_content

ROOT = Path(__file__).resolve().parents[2]


def started(model, processor, items, views=None):
    state = HistoryState(model, processor, users=["ann", 7], views=views)
    state.extend([items[:3], items[3:5]])
    state.embedding()
    state.append([items[5], None])  # waits for its embedding
    return state


@pytest.mark.parametrize("fusion", ["external", "internal"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_round_trip_changes_nothing(tiny, items, family, fusion, tmp_path):
    model, processor = tiny(family, fusion, max_history=4)
    state = started(model, processor, items, VIEWS)
    assert state.save(tmp_path) == tmp_path / "history_state.safetensors"
    assert [path.name for path in tmp_path.iterdir()] == ["history_state.safetensors"]
    again = HistoryState.load(tmp_path, model, processor)
    assert again.users == ["ann", 7] and again.lengths == state.lengths and again.views == state.views
    again.save(tmp_path / "twice" / "state.safetensors")
    first, second = load_file(tmp_path / "history_state.safetensors"), load_file(tmp_path / "twice/state.safetensors")
    assert set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)
    for _ in range(3):  # and it goes on alike, through the sliding window
        for view in VIEWS:
            assert torch.equal(again.embedding().view(view), state.embedding().view(view))
        for one in (state, again):
            one.append([items[0], items[1]])


def test_what_was_run_is_not_run_again(tiny, items, tmp_path, monkeypatch):
    model, processor = tiny()
    state = started(model, processor, items)
    expected = state.embedding()
    state.save(tmp_path)
    again = HistoryState.load(tmp_path, model, processor)
    monkeypatch.setattr(model.family, "run", None)
    assert torch.equal(again.embedding().both, expected.both)


def test_an_empty_state_is_saved_too(tiny, items, tmp_path):
    model, processor = tiny()
    HistoryState(model, processor, users=range(2)).save(tmp_path)
    again = HistoryState.load(tmp_path, model, processor)
    again.append([None, items[0]])
    assert again.embedding().both[1].any() and again.users == [0, 1]


def test_a_state_whose_users_all_went_is_saved_too(tiny, items, tmp_path):
    model, processor = tiny()
    state = started(model, processor, items)
    state.drop(state.users)
    again = HistoryState.load(state.save(tmp_path), model, processor)
    assert again.users == [] and len(again.embedding()) == 0
    again.add(["new"])
    again.append(items[0])
    assert torch.allclose(again.embedding().both, model.encode_histories([items[:1]], processor).both, atol=1e-5)


def test_an_image_that_a_cache_maps_twice_is_saved_once(tiny, items, tmp_path):
    model, processor = tiny("qwen3_vl")
    catalogue = PreparedCatalogue(items, processor).cache_features(model, VisionCache(tmp_path / "cache"))
    state = HistoryState(model, processor, users=["ann", "bob"])
    state.extend([[catalogue[0], catalogue[2]], [catalogue[3], catalogue[0]]])
    expected = state.embedding()
    path = state.save(tmp_path / "state")
    with safe_open(path, "pt") as file:
        images = {name.split(".")[1] for name in file.keys() if name.startswith("image.")}  # noqa: SIM118 - not a dict
    assert len(images) == 3
    assert torch.equal(HistoryState.load(path, model, processor).embedding().both, expected.both)


def test_another_model_or_processor_is_refused(tiny, items, tmp_path):
    model, processor = tiny(max_history=4)
    started(model, processor, items).save(tmp_path)
    with pytest.raises(ValueError, match=r"settings of the `processor`: max_history \(there 4, here 5\)"):
        HistoryState.load(tmp_path, model, tiny(max_history=5)[1])
    again = tiny(max_history=4)[1]
    again.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28}
    with pytest.raises(ValueError, match="image_processor"):
        HistoryState.load(tmp_path, model, again)
    again = tiny(max_history=4)[1]
    again.tokenizer.add_tokens(["tent2"])
    with pytest.raises(ValueError, match="tokenizer"):
        HistoryState.load(tmp_path, model, again)
    other, its_processor = tiny(fusion="internal", max_history=4)
    with pytest.raises(ValueError, match="model's configuration: fusion"):
        HistoryState.load(tmp_path, other, its_processor)
    weight = model.vlm.language_model.layers[1].mlp.up_proj.weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight[3, 5] += 1e-6
    with pytest.raises(ValueError, match="with other weights"):
        HistoryState.load(tmp_path, model, processor)
    with torch.no_grad():
        weight.copy_(kept)
        weight[0], weight[1] = kept[1], kept[0]  # the same numbers in other places
    with pytest.raises(ValueError, match="with other weights"):
        HistoryState.load(tmp_path, model, processor)
    with torch.no_grad():
        weight.copy_(kept)
    assert HistoryState.load(tmp_path, model, processor).lengths == [4, 2]
    model.to(torch.bfloat16)
    with pytest.raises(ValueError, match="dtype"):
        HistoryState.load(tmp_path, model, processor)


def test_an_adapter_is_part_of_the_weights(tiny, items, tmp_path):
    from peft import get_peft_model

    from vlm2rec_hf import default_lora_config

    model, processor = tiny()
    wrapped = get_peft_model(model, default_lora_config(4))
    started(model, processor, items).save(tmp_path)
    assert HistoryState.load(tmp_path, model, processor).lengths == [4, 2]
    with wrapped.disable_adapter(), pytest.raises(ValueError, match="active adapters"):
        HistoryState.load(tmp_path, model, processor)


def test_what_is_no_whole_state_is_refused(tiny, items, tmp_path):
    model, processor = tiny()
    with pytest.raises(FileNotFoundError, match="holds no history state"):
        HistoryState.load(tmp_path, model, processor)
    file = started(model, processor, items).save(tmp_path)
    content = file.read_bytes()
    for size in (0, 100, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:size])
        with pytest.raises(ValueError, match="is damaged"):
            HistoryState.load(tmp_path, model, processor)
    save_file({"a": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match="is no history state"):
        HistoryState.load(tmp_path, model, processor)
    file.write_bytes(content)
    with safe_open(file, "pt") as opened:
        head = json.loads(opened.metadata()["history"])
    tensors = load_file(file)
    head["users"][0]["rows"]["text"] -= 1
    save_file(tensors, file, metadata={"history": json.dumps(head)})
    with pytest.raises(ValueError, match="contradicts itself"):
        HistoryState.load(tmp_path, model, processor)


WRITER = """
import sys
import torch
from vlm2rec_hf import HistoryState, PreparedCatalogue, VisionCache
from vlm2rec_hf import tiny_vlm
torch.set_num_threads(1)
model, processor = tiny_vlm(processor_options={"max_history": 40})
state = HistoryState(model, processor, users=range(16))
state.extend([[f"item {i}" for i in range(40)]] * 16)
state.embedding()
state.save(sys.argv[1])
print("written", flush=True)
while True:
    state.save(sys.argv[1])
"""


def test_a_kill_while_saving_leaves_a_whole_state(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout.readline() == b"written\n"
        try:
            deadline = time.monotonic() + PATIENCE_S
            # Until in the midst of a write.
            while not any(map(has_content, tmp_path.glob(".writing-*/new/*"))):
                assert time.monotonic() < deadline
        finally:
            process.send_signal(signal.SIGKILL)
    from vlm2rec_hf import tiny_vlm

    model, processor = tiny_vlm(processor_options={"max_history": 40})
    again = HistoryState.load(tmp_path, model, processor)
    assert again.lengths == [40] * 16 and again.embedding([0]).text.any()
