"""The cache's files: two processes at once, processes killed while writing, damaged files, a full disk."""

import os
import resource
import signal
import time
import warnings

import pytest
import torch

from vlm2rec_hf import VisionCache
from vlm2rec_hf.catalogues import vision_cache
from vlm2rec_hf.catalogues import vision_cache_files as files
from vlm2rec_hf.catalogues.vision_cache_store import FeatureStore, MissingImage
from vlm2rec_hf.modeling.encoding_vlm2rec import image_key
from vlm2rec_hf.modeling.family_vlm2rec import ImageFeatures
from vlm2rec_hf.tiny.backbones import tiny_vlm

from ..conftest import make_image
from ..forks import child, ended, fork

SIZES = {"hidden_size": 16, "vision_hidden_size": 16, "image_size": 28, "layers": 1, "vision_layers": 1, "heads": 2}
RECORD = 2 * 4 * 16 * 4  # bytes of the float32 features that `features_of` makes


@pytest.fixture
def store(tmp_path):
    """`store(dtype)`: of small records, committed by hand."""
    return lambda dtype="float32": FeatureStore(tmp_path / "store", dtype, 1 << 30, 1e9)


def features_of(number, tokens=4, width=16):
    tokens_of = torch.full((tokens, width), float(number))
    return ImageFeatures(tokens_of, torch.tensor([[1, 2, 2 * tokens]]), (tokens_of + 0.5,))


def key_of(number):
    return number.to_bytes(2, "big").ljust(20, b"\0")  # trailing zeros, which NumPy's byte strings drop


def put(store, *numbers):
    for number in numbers:
        store.add(key_of(number), features_of(number))
        store.add_source(key_of(1000 + number), key_of(number))
    store.flush()


def assert_holds(store, numbers):
    for number in numbers:
        grid, result = store.get(key_of(number))
        assert grid == (1, 2, 8) and torch.equal(result.tokens, features_of(number).tokens)
        assert len(result.layers) == 1 and torch.equal(result.layers[0], features_of(number).layers[0])
        assert store.key_of_source(key_of(1000 + number)) == key_of(number)


@pytest.mark.parametrize("dtype", files.DTYPES)
def test_what_is_written_is_read(store, dtype, tmp_path):
    put(store(dtype), 3, 1, 2)
    put(store(dtype), 2, 64)
    again = store(dtype)
    assert_holds(again, [1, 2, 3, 64])
    assert again.get(key_of(1))[1].tokens.dtype == getattr(torch, dtype)
    assert len(again) == 4 and not again.has(key_of(9)) and again.key_of_source(key_of(9)) is None
    assert len(list((tmp_path / "store").iterdir())) == 2
    with pytest.raises(MissingImage, match="does not hold the image"):
        again.get(key_of(9))


def test_nothing_is_written_before_a_commit_is_due(tmp_path, monkeypatch):
    store = FeatureStore(tmp_path, "float32", 3 * RECORD, 1e9)
    for number in range(7):
        store.add(key_of(number), features_of(number))
    assert len(list(tmp_path.iterdir())) == 2 and store.has(key_of(6))
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 2e9)  # what waited before the clock jumped is overdue
    store.add(key_of(7), features_of(7))
    assert len(list(tmp_path.iterdir())) == 3


def test_leaving_in_an_orderly_way_commits_what_waits(store):
    one = store()
    one.add(key_of(5), features_of(5))
    assert not store().has(key_of(5))
    if (child := fork()) == 0:  # a forked process must not write what its parent will
        del one
        os._exit(0)
    os.waitpid(child, 0)
    assert not store().has(key_of(5))
    del one
    assert store().has(key_of(5))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[: len(data) // 2], "its end is missing"),
        (lambda data: data[:10], "only 10 bytes"),
        (lambda data: b"", "only 0 bytes"),
        (lambda data: data[:-40] + bytes([data[-40] ^ 1]) + data[-39:], "checksum of its header"),
        (lambda data: data[: 2 * RECORD + 5] + b"\xff" + data[2 * RECORD + 6 :], "checksum of its index"),
        (lambda data: data[100:], "is not what its header says"),
    ],
)
def test_damage_is_seen_on_opening(store, damage, reason, tmp_path):
    put(store(), 1, 2)
    (path,) = (tmp_path / "store").iterdir()
    put(store(), 3)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(RuntimeWarning, match=reason) as warned:
        again = store()
        assert not again.has(key_of(1)) and not again.has(key_of(2))
    assert str(path) in str(warned[0].message) and "set aside" in str(warned[0].message)
    assert path.with_name(path.name + ".damaged").exists() and not path.exists()
    assert_holds(again, [3])
    put(again, 1, 2)
    assert_holds(store(), [1, 2, 3])


def test_changed_features_are_seen_on_reading_and_the_copy_in_another_segment_is_used(store):
    put(store(), 1, 2)
    path = corrupt(store(), 2)
    with pytest.warns(RuntimeWarning, match="checksum of an image's features"), pytest.raises(MissingImage):
        store().get(key_of(2))
    assert not path.exists()
    put(store(), 1, 2)
    put(store(), 1, 2)
    corrupt(store(), 2)
    one = store()
    with pytest.warns(RuntimeWarning, match="checksum of an image's features"):
        assert one.has(key_of(2), verify=True)
    assert_holds(one, [1, 2])


def corrupt(store, number):
    """Change a byte of an image's features in the segment where the store finds it."""
    segment, row = store._find(key_of(number)) if store.has(key_of(number)) else None
    data = bytearray(segment.path.read_bytes())
    data[int(segment.entries["place"][row]) * 4 + 3] ^= 64
    segment.path.write_bytes(data)
    return segment.path


def test_a_damaged_cache_is_computed_again(tmp_path):
    model, processor = tiny_vlm("qwen2_vl", ["a"], **SIZES)
    items = [make_image(seed) for seed in range(6)]
    stored = VisionCache(tmp_path, segment_bytes=1).fill(model, processor, items)
    expected = [stored.get(index)[1].tokens.clone() for index in range(6)]
    (folder,) = tmp_path.iterdir()
    first, second, *_ = sorted(folder.glob("*.segment"))
    first.write_bytes(first.read_bytes()[:50])
    data = bytearray(second.read_bytes())
    data[5] ^= 255
    second.write_bytes(data)
    with pytest.warns(RuntimeWarning) as warned:
        result = VisionCache(tmp_path).fill(model, processor, items)
    assert {str(path) for path in (first, second)} == {
        str(w.message).split("file ")[1].split(" is")[0] for w in warned
    }
    for index in range(6):
        assert (result.get(index)[1].tokens - expected[index]).abs().max() < 1e-6


def test_a_segment_lost_while_filling_is_computed_again(tmp_path, monkeypatch):
    model, processor = tiny_vlm("qwen2_vl", ["a"], **SIZES)
    items = [make_image(seed) for seed in range(3)]
    VisionCache(tmp_path).fill(model, processor, items[:2])
    (folder,) = tmp_path.iterdir()
    original, lost = FeatureStore.flush, []

    def losing(self):
        if not lost:
            lost.extend(folder.glob("*.segment"))
            lost[0].unlink()
        original(self)

    monkeypatch.setattr(FeatureStore, "flush", losing)
    result = VisionCache(tmp_path, verify=False).fill(model, processor, items)
    assert lost and all(result.get(index)[1] is not None for index in range(3))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Model, processor, images 0..29 and their features from one undisturbed process."""
    model, processor = tiny_vlm("qwen2_vl", ["a"], **SIZES)
    items = [make_image(seed, (30, 30)) for seed in range(30)]
    stored = VisionCache(tmp_path_factory.mktemp("reference")).fill(model, processor, items, batch_size=2)
    return model, processor, items, [stored.get(index)[1].tokens for index in range(30)]


def test_two_processes_fill_one_cache(reference, tmp_path):
    model, processor, items, expected = reference
    ready, go = os.pipe()

    def filling(first):
        def work(write):
            passed, encode = [], vision_cache.run_vision_tower
            vision_cache.run_vision_tower = lambda m, pixels, grids: passed.extend(grids) or encode(m, pixels, grids)
            warnings.simplefilter("error")
            os.read(ready, 1)  # begin together
            VisionCache(tmp_path, segment_bytes=1).fill(model, processor, items[first : first + 20], batch_size=2)
            os.write(write, str(len(passed)).encode())

        return work

    workers = [child(filling(first)) for first in (0, 10)]
    os.write(go, b"..")
    for worker in workers:
        status, written = ended(*worker)
        assert status == 0 and 10 <= int(written) <= 20, written
    (folder,) = tmp_path.iterdir()
    assert {path.suffix for path in folder.iterdir()} == {".segment", ".json"}
    cache = VisionCache(tmp_path)
    assert len(cache.store(model, processor)) == 30
    before = len(list(folder.iterdir()))
    result = cache.fill(model, processor, items)
    assert len(list(folder.iterdir())) == before  # nothing was missing
    assert all((result.get(index)[1].tokens - expected[index]).abs().max() < 1e-6 for index in range(30))


def die_at(moment, number):
    """Have this process killed at the `number`-th time that it comes to a moment of its writing."""
    left = [number]

    def deadly(name, call):
        def wrapped(*args):
            counts = moment.split()[0] == name and (name != "replace" or str(args[1]).endswith(".segment"))
            left[0] -= counts
            if counts and not left[0] and "after" not in moment:
                os.kill(os.getpid(), signal.SIGKILL)
            result = call(*args)
            if counts and not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return wrapped

    files.bytes_of = deadly("write", files.bytes_of)
    os.fsync, os.replace = deadly("fsync", os.fsync), deadly("replace", os.replace)


@pytest.mark.parametrize(
    ("moment", "number", "committed"),
    [("write", 1, 0), ("write", 4, 3), ("fsync", 7, 2), ("fsync after", 7, 2), ("replace", 3, 2),
     ("replace after", 3, 3)],
)  # fmt: skip
def test_sigkill_while_writing_loses_nothing_committed(reference, tmp_path, moment, number, committed):
    """Commits are of one image here; a file's fsync is followed by one of its folder; `about.json` comes first."""
    model, processor, items, expected = reference

    def work(write):
        die_at(moment, number)
        VisionCache(tmp_path, segment_bytes=1).fill(model, processor, items[:8], batch_size=2)

    assert ended(*child(work)) == (-signal.SIGKILL, "")
    assert_sound(reference, tmp_path, committed, leftovers=1)


def test_sigkill_at_any_time_loses_nothing_committed(reference, tmp_path):
    """Killed from outside, each time a little later; every new process goes on where the last one was stopped."""
    model, processor, items, _ = reference
    committed = 0
    for delay in (0.02, 0.04, 0.06, 0.08, 0.1, 0.12):
        pid, read = child(
            lambda write: VisionCache(tmp_path, segment_bytes=1).fill(model, processor, items, batch_size=1)
        )
        time.sleep(delay)
        os.kill(pid, signal.SIGKILL)
        assert ended(pid, read)[0] in (0, -signal.SIGKILL)
        now = len(VisionCache(tmp_path).store(model, processor))
        assert now >= committed
        committed = now
    assert_sound(reference, tmp_path, None)


def assert_sound(reference, folder, committed, leftovers=None):
    """What was committed is there and right, leftovers go, and the rest can be filled in."""
    model, processor, items, expected = reference
    (part,) = folder.iterdir()
    if committed is not None:
        assert len(list(part.glob("*.segment"))) == committed
        assert len(list(part.glob(".writing-*"))) == leftovers
    cache = VisionCache(folder)
    store = cache.store(model, processor)
    assert committed is None or len(store) == committed
    assert not list(part.glob(".writing-*")) and not list(part.glob("*.damaged"))
    for index, item in enumerate(items):
        key = image_key(item)
        assert committed is None or store.has(key, verify=True) == (index < committed)
        if store.has(key):
            assert (store.get(key)[1].tokens - expected[index]).abs().max() < 1e-6
    result = cache.fill(model, processor, items)
    assert all((result.get(index)[1].tokens - expected[index]).abs().max() < 1e-6 for index in range(len(items)))


def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    """A real limit on file sizes, in a process of its own, stands for the full disk."""
    folder = tmp_path / "store"

    def work(write):
        store = FeatureStore(folder, "float32", 1 << 30, 1e9)
        put(store, 1)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3 * RECORD, limits[1]))
        with pytest.raises(OSError, match="File too large: the vision cache in `folder` .* run again to go on"):
            put(store, *range(2, 8))
        assert [path.suffix for path in folder.iterdir()] == [".segment"]
        for number in range(1, 8):
            assert store.has(key_of(number))
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        store.flush()

    assert ended(*child(work)) == (0, "")
    assert_holds(FeatureStore(folder, "float32", 1, 1.0), range(1, 8))
