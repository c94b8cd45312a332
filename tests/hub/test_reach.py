"""Without a line to the Hub the client waits long for every file; we ask once, and then use the cache alone."""

import logging

import huggingface_hub.constants as constants
import pytest
import transformers.utils.hub
from huggingface_hub import HfApi

from vlm2rec_hf import load_model, load_processor, load_recsys
from vlm2rec_hf.hub import reach

NOWHERE = "http://127.0.0.1:9"  # the port of `discard`: nobody listens


@pytest.fixture
def no_line(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    # transformers keeps one client for good, made on first use; one made now would keep other tests waiting.
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None, raising=False)
    monkeypatch.setattr(reach, "_answered", set())
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.delenv("TRANSFORMERS_OFFLINE", raising=False)


def test_a_missing_line_costs_no_half_minute_per_file(no_line, caplog, no_waiting):
    for load in (load_model, load_processor):
        with pytest.raises(ValueError, match="no folder 'org/never-seen', and the Hub has no such model or cannot be"):
            load("org/never-seen")
    with pytest.raises(ConnectionError, match="no folder 'org/never-seen'.*no answer"):
        load_recsys("org/never-seen")
    assert no_waiting == []  # the client was never asked to try again
    assert NOWHERE in caplog.text and "cache is used" in caplog.text
    assert constants.HF_HUB_OFFLINE is False  # as it was


def test_what_is_in_the_cache_is_used(hub, no_line, tiny, tmp_path, monkeypatch, no_waiting):
    model, processor = tiny()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
    HfApi().create_repo("org/kept")
    HfApi().upload_folder(repo_id="org/kept", folder_path=tmp_path / "model")
    load_model("org/kept"), load_processor("org/kept")
    monkeypatch.setattr(constants, "ENDPOINT", NOWHERE)
    no_waiting.clear()
    assert load_model("org/kept").config.model_type == "vlm2rec"
    assert load_processor("org/kept").max_history == processor.max_history
    assert no_waiting == []  # the client was never asked to try again


def test_an_endpoint_that_answers_is_asked_once(hub, monkeypatch):
    monkeypatch.setattr(reach, "_answered", set())
    hub.requests.clear()
    for _ in range(3):
        with reach.cache_alone_without_hub():
            assert constants.HF_HUB_OFFLINE is False
    assert len(hub.requests) == 1


def test_folders_are_no_reason_to_ask(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(reach, "_answered", set())
    hub.requests.clear()
    assert reach.asked_once(lambda where: "done")(tmp_path) == "done" and hub.requests == []


def test_an_answer_that_is_wrong_is_an_answer(hub, monkeypatch, caplog):
    monkeypatch.setattr(reach, "_answered", set())
    hub.fail("HEAD", "", 503)
    with caplog.at_level(logging.WARNING), reach.cache_alone_without_hub():
        assert constants.HF_HUB_OFFLINE is False
    assert not caplog.records
