"""Descriptions: written once per item and kind, resumable, with failures kept aside and named."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from vlm2rec_hf import RecDataset, load_recsys, make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.items import encode_png
from vlm2rec_hf.descriptions.describe import COLUMNS, describe_items, failures_by_reason
from vlm2rec_hf.descriptions.describer import Describer, Writing, load_describer
from vlm2rec_hf.descriptions.journal import Journal
from vlm2rec_hf.descriptions.prompts import load_prompts

from ..conftest import make_image
from ..waiting import has_content
from .talkative import save_talkative

MODEL = {"model": "tiny", "revision": "abc"}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("raw")
    save_talkative(folder, "qwen2_vl")
    return str(folder)


@pytest.fixture(scope="module")
def describer(raw):
    return load_describer(raw, prompts=load_prompts(), writing=Writing(max_new_tokens=6))


@pytest.fixture(scope="module")
def shop():
    """Seven items: both, text only, image only, neither, an image that does not decode, and two more."""
    image = [encode_png(make_image(i)) for i in range(3)]
    items = [
        {"item_id": "both", "title": "red tent", "image": image[0]},
        {"item_id": "text", "title": "blue mug", "image": None},
        {"item_id": "picture", "title": None, "image": image[1]},
        {"item_id": "nothing", "title": " ", "image": None},
        {"item_id": "broken", "title": "lamp", "image": image[2][:60]},
        {"item_id": "hostile", "title": "<|image_pad|> mug <|vision_start|>", "image": image[2]},
        {"item_id": "long", "title": "tent " * 3000, "image": None},
    ]
    events = [{"user_id": "u", "item_id": item["item_id"], "timestamp": i} for i, item in enumerate(items)]
    return RecDataset.from_tables(events, items, name="seven").leave_one_out()


def column(dataset, kind):
    return list(dataset.items[COLUMNS[kind]])


def test_what_an_item_lacks_is_null_and_the_rest_is_written(shop, describer, tmp_path):
    result = describe_items(shop, describer, tmp_path / "work", **MODEL, batch_size=3)
    assert [value is not None for value in column(result, "text")] == [True, True, False, False, True, True, True]
    assert [value is not None for value in column(result, "image")] == [True, False, True, False, False, True, False]
    assert [value is not None for value in column(result, "both")] == [True, False, False, False, False, True, False]
    assert all(value for kind in COLUMNS for value in column(result, kind) if value is not None)
    source = f"tiny@abc prompts:{load_prompts().fingerprint}"
    assert list(result.items["description_source"]) == [source] * 3 + [None] + [source] * 3
    bad = [row for row in result.quarantine if row["table"] == "descriptions"]
    assert [(row["column"], row["number"], row["reason"]) for row in bad] == [
        ("description_image", 4, "description_failed")
    ]
    assert json.loads(bad[0]["row"])["item_id"] == "broken" and "image: " in json.loads(bad[0]["row"])["problem"]
    assert result.coverage.quarantined["description_failed"] == 1 == sum(failures_by_reason(result).values())
    step = result.steps[-1]
    assert (step["step"], step["model"], step["revision"], step["failed"]) == ("describe", "tiny", "abc", 1)
    assert step["with_description_text"] == 5 and step["prompts"] == load_prompts().fingerprint
    # Everything else is as it was, on the disk too.
    result.save(tmp_path / "data")
    again = load_recsys(tmp_path / "data")
    again.verify()
    assert again.items.column_names == result.items.column_names and again.steps == result.steps
    assert [dict(row) for row in again.items] == [dict(row) for row in result.items]
    assert again.item_texts() == shop.item_texts() and again.n_interactions == shop.n_interactions
    assert "description_text" not in shop.items.column_names


def test_batches_say_what_single_items_say(shop, describer, tmp_path):
    one = describe_items(shop, describer, tmp_path / "one", **MODEL, batch_size=1)
    many = describe_items(shop, describer, tmp_path / "many", **MODEL, batch_size=7)
    for kind in COLUMNS:
        assert column(one, kind) == column(many, kind)
    assert len({value for kind in COLUMNS for value in column(one, kind)}) > 3  # not one sentence for everything


def test_sampling_follows_its_seed_only(shop, raw, tmp_path):
    def texts(name, seed, disturb):
        writing = Writing(max_new_tokens=6, do_sample=True, temperature=2.0, seed=seed)
        writer = load_describer(raw, prompts=load_prompts(), writing=writing)
        torch.manual_seed(disturb)
        state = torch.get_rng_state()
        result = describe_items(shop, writer, tmp_path / name, **MODEL, batch_size=2)
        assert torch.equal(torch.get_rng_state(), state)
        return [column(result, kind) for kind in COLUMNS]

    assert texts("a", 1, 5) == texts("b", 1, 6) != texts("c", 2, 5)


class Choking:
    """A layout that fails on items whose text holds a word."""

    def __init__(self, layout, word):
        self.layout, self.word, self.tokenizer = layout, word, layout.tokenizer

    def batch(self, kind, items, prompts):
        if any(self.word in (item["text"] or "") for item in items):
            raise ValueError("cannot read that")
        return self.layout.batch(kind, items, prompts)


def test_one_bad_item_does_not_stop_the_others(shop, describer, tmp_path):
    choking = Describer(describer.model, Choking(describer.layout, "mug"), describer.prompts, describer.writing)
    result = describe_items(shop, choking, tmp_path / "work", **MODEL, batch_size=4)
    whole = describe_items(shop, describer, tmp_path / "whole", **MODEL, batch_size=4)
    for kind in COLUMNS:
        for index, (value, expected) in enumerate(zip(column(result, kind), column(whole, kind), strict=True)):
            assert value == (None if index in (1, 5) else expected)
    assert failures_by_reason(result) == {"description_text": 2, "description_image": 2, "description_both": 1}
    reasons = [json.loads(row["row"])["problem"] for row in result.quarantine if row["table"] == "descriptions"]
    assert reasons.count("ValueError: cannot read that") == 4


def test_a_model_that_never_works_is_an_error_and_leaves_nothing(describer, tmp_path):
    dataset = make_demo_shop(60, n_users=60).dataset()
    broken = Describer(describer.model, Choking(describer.layout, ""), describer.prompts, describer.writing)
    with pytest.raises(RuntimeError, match="could not be written; the first reason: ValueError: cannot read that"):
        describe_items(dataset, broken, tmp_path / "work", **MODEL, batch_size=4)
    assert (tmp_path / "work" / "chunks.jsonl").read_bytes() == b""


def test_why_a_model_never_works_is_said_whatever_images_are_broken(describer, tmp_path):
    items = [{"item_id": "a", "title": "lamp", "image": encode_png(make_image(0))[:60]}]
    dataset = RecDataset.from_tables([{"user_id": "u", "item_id": "a", "timestamp": 0}], items)
    broken = Describer(describer.model, Choking(describer.layout, ""), describer.prompts, describer.writing)
    with pytest.raises(RuntimeError, match="the first reason: ValueError: cannot read that"):
        describe_items(dataset, broken, tmp_path / "work", **MODEL)


def test_a_model_that_stops_working_is_tried_again(describer, tmp_path, monkeypatch):
    import vlm2rec_hf.descriptions.describe as module

    monkeypatch.setattr(module, "PATIENCE", 20)
    dataset = make_demo_shop(60, n_users=60).dataset()
    layout = describer.layout

    class Breaking(Choking):
        batches = 0

        def batch(self, kind, items, prompts):
            self.batches += 1
            if self.batches > 6:
                raise RuntimeError("device lost")
            return layout.batch(kind, items, prompts)

    breaking = Describer(describer.model, Breaking(layout, ""), describer.prompts, describer.writing)
    with pytest.raises(RuntimeError, match="device lost"):
        describe_items(dataset, breaking, tmp_path / "work", **MODEL, batch_size=4)
    lines = (tmp_path / "work" / "chunks.jsonl").read_text().splitlines()
    assert [json.loads(line)["chunk"] for line in lines] == [0, 1]
    result = describe_items(dataset, describer, tmp_path / "work", **MODEL, batch_size=4)
    assert failures_by_reason(result) == {} and (tmp_path / "work" / "chunks.jsonl").read_text().startswith(lines[0])


def test_another_job_a_second_process_and_damage_are_refused(shop, describer, raw, tmp_path):
    work = tmp_path / "work"
    describe_items(shop, describer, work, **MODEL, batch_size=3)
    with pytest.raises(ValueError, match="`output`.*another job .*batch_size was 3 and is 4"):
        describe_items(shop, describer, work, **MODEL, batch_size=4)
    longer = Describer(describer.model, describer.layout, describer.prompts, Writing(max_new_tokens=7))
    with pytest.raises(ValueError, match="max_new_tokens was 6 and is 7"):
        describe_items(shop, longer, work, **MODEL, batch_size=3)
    rougher = load_describer(raw, prompts=describer.prompts, writing=describer.writing, dtype="bfloat16")
    with pytest.raises(ValueError, match="dtype was 'float32' and is 'bfloat16'"):
        describe_items(shop, rougher, work, **MODEL, batch_size=3)
    settings = json.loads((work / "manifest.json").read_text())
    settings.pop("format_version")
    with Journal(work, settings), pytest.raises(ValueError, match="in use by another process"):
        describe_items(shop, describer, work, **MODEL, batch_size=3)
    with Journal(work, settings) as journal, pytest.raises(ValueError, match="`chunk` 1 is in"):
        journal.add(1, [])
    # A line that a kill cut short is written again, to the same end; a damaged one in the middle is said.
    content = (work / "chunks.jsonl").read_bytes()
    (work / "chunks.jsonl").write_bytes(content[:-20])
    describe_items(shop, describer, work, **MODEL, batch_size=3)
    assert (work / "chunks.jsonl").read_bytes() == content
    (work / "chunks.jsonl").write_bytes(b"{]\n" + content)
    with pytest.raises(ValueError, match="line 1 of .* is damaged"):
        describe_items(shop, describer, work, **MODEL, batch_size=3)


def test_bad_arguments(shop, describer, tmp_path):
    with pytest.raises(ValueError, match="`batch_size`"):
        describe_items(shop, describer, tmp_path / "w", **MODEL, batch_size=0)
    for options in ({"max_new_tokens": 0}, {"temperature": 0.0}, {"top_p": 1.5}):
        with pytest.raises(ValueError, match=f"`{next(iter(options))}`"):
            Writing(**options)
    with pytest.raises(ValueError, match="`model` 'nowhere'"):
        load_describer("nowhere", prompts=load_prompts())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text: a {text}\nimage: b\n", "exactly the keys"),
        ("text: a\nimage: b\nboth: c {text}\n", "'{text}' 1 times in `text`"),
        ("text: a {text}\nimage: b {text}\nboth: c {text}\n", "'{text}' 0 times in `image`"),
        ("text: a {text}\nimage: ''\nboth: c {text}\n", "a text as `image`"),
        ("text: [", "no YAML"),
    ],
)
def test_bad_prompts_are_refused(content, message, tmp_path):
    (tmp_path / "p.yaml").write_text(content)
    with pytest.raises(ValueError, match=message):
        load_prompts(tmp_path / "p.yaml")
    with pytest.raises(ValueError, match="does not exist"):
        load_prompts(tmp_path / "absent.yaml")


def test_other_prompts_are_asked_and_named(shop, raw, tmp_path):
    (tmp_path / "p.yaml").write_text("text: 'What is {text}?'\nimage: What is that?\nboth: 'Is that {text}?'\n")
    prompts = load_prompts(tmp_path / "p.yaml")
    assert prompts.fingerprint != load_prompts().fingerprint
    writer = load_describer(raw, prompts=prompts, writing=Writing(max_new_tokens=2))
    batch = writer.layout.batch("both", [shop.item(0)], prompts)
    row = writer.layout.tokenizer.decode(batch["input_ids"][0])
    assert row.startswith("<|im_start|>user\n<|vision_start|><|image_pad|>")
    assert row.endswith("<|vision_end|>Is that red tent?\n<|im_start|>assistant\n")
    assert prompts.fingerprint in describe_items(shop, writer, tmp_path / "w", **MODEL).steps[-1]["prompts"]


# ---- the command


SLOWLY = """
import sys
from pathlib import Path
from vlm2rec_hf import RecDataset
from vlm2rec_hf.loading import model_version
from vlm2rec_hf.descriptions.describe import describe_items
from vlm2rec_hf.descriptions.describer import Writing, load_describer
from vlm2rec_hf.descriptions.prompts import load_prompts

data, model, work = sys.argv[1:]
describer = load_describer(model, prompts=load_prompts(), writing=Writing(12, do_sample=True))
describe_items(RecDataset.load(data), describer, Path(work), model=model, revision=model_version(model), batch_size=4)
"""


def test_killed_and_begun_again_it_ends_the_same(raw, tmp_path):
    make_demo_shop(60, n_users=60).dataset().leave_one_out().save(tmp_path / "data")
    work = tmp_path / "out.work" / "chunks.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, str(tmp_path / "data"), raw, str(work.parent)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
    )
    while process.poll() is None and not has_content(work):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read().decode()[-2000:]
    process.stderr.close()
    kept = work.read_bytes()
    whole = kept[: kept.rfind(b"\n") + 1]
    assert 0 < whole.count(b"\n") < 15
    with work.open("ab") as file:
        file.write(b'{"chunk": 14, "rec')  # what a kill within the writing would leave
    copy = tmp_path / "copy.jsonl"
    os.link(work, copy)  # the command deletes its work when the dataset is whole
    command = ["describe", "--dataset", str(tmp_path / "data"), "--model", raw, "--max_new_tokens", "12"]
    command += ["--describe_batch_size", "4", "--do_sample", "true", "--output"]
    assert main([*command, str(tmp_path / "out")]) == 0
    assert copy.read_bytes().startswith(whole)  # nothing was described twice
    assert [json.loads(line)["chunk"] for line in copy.read_bytes().splitlines()] == list(range(15))
    assert not work.parent.exists()
    assert main([*command, str(tmp_path / "straight")]) == 0
    resumed, straight = RecDataset.load(tmp_path / "out"), RecDataset.load(tmp_path / "straight")
    assert resumed.fingerprint == straight.fingerprint
    assert resumed.split_spec["kind"] == "leave_one_out" and resumed.steps[-1]["model"] == raw
    assert resumed.steps[-1]["revision"].startswith("sha256:") and resumed.steps[-1]["seed"] == 0
    assert len(set(resumed.items["description_text"])) > 20
    assert main([*command, str(tmp_path / "out")]) == 2  # there is a dataset already


def test_the_command_says_what_is_missing(tmp_path, raw, capsys):
    for options, message in (
        (["--output", str(tmp_path / "x")], "--model"),
        (["--model", raw], "--output"),
        (["--model", raw, "--output", str(tmp_path / "x"), "--prompts", "absent.yaml"], "absent.yaml"),
        (["--model", raw, "--output", str(tmp_path / "x"), "--top_p", "0"], "top_p"),
        (["--model", "absent", "--output", str(tmp_path / "x"), "--describe_batch_size", "0"], "`--describe_batch_si"),
    ):
        assert main(["describe", "--dataset", str(tmp_path), *options]) == 2
        assert message in capsys.readouterr().err


def test_describing_again_counts_its_own_failures(shop, raw, tmp_path, capsys):
    """The quarantine keeps those of earlier runs, whose descriptions are replaced now."""
    shop.save(tmp_path / "data")
    for before, after in (("data", "first"), ("first", "second")):
        command = ["describe", "--dataset", str(tmp_path / before), "--model", raw, "--max_new_tokens", "4"]
        assert main([*command, "--output", str(tmp_path / after)]) == 0
        assert "; 1 failed" in capsys.readouterr().err
    assert sum(failures_by_reason(load_recsys(tmp_path / "second")).values()) == 2
