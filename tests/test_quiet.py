"""Ordinary loads and saves write nothing to standard error, and other people's settings stay as they are."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

from vlm2rec_hf import quiet
from vlm2rec_hf.quiet import quiet_libraries

ROOT = Path(__file__).parents[1]
SAVE_AND_LOAD = """
import sys
from vlm2rec_hf import VLM2RecEmbedder, VLM2RecProcessor
from vlm2rec_hf.quiet import quiet_libraries, quiet_process
from vlm2rec_hf.tiny.backbones import tiny_vlm

model, processor = tiny_vlm("qwen2_vl", ["red tent"])

def save_and_load():
    model.save_pretrained(sys.argv[1])
    processor.save_pretrained(sys.argv[1])
    VLM2RecEmbedder.from_pretrained(sys.argv[1])
    VLM2RecProcessor.from_pretrained(sys.argv[1])

HOW
"""


def said(folder, how):
    """What saving and loading a small model writes to standard error."""
    environment = {name: value for name, value in os.environ.items() if name != "TRANSFORMERS_VERBOSITY"}
    run = subprocess.run(
        [sys.executable, "-c", SAVE_AND_LOAD.replace("HOW", how), str(folder)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return run.stderr


@pytest.mark.parametrize(
    "how", ["quiet_process(); save_and_load()", "with quiet_libraries(): save_and_load()"], ids=["process", "block"]
)
def test_a_save_and_a_load_write_nothing_to_standard_error(tmp_path, how):
    assert said(tmp_path, how) == ""


def test_the_library_alone_silences_nobody(tmp_path):
    loud = said(tmp_path, "with quiet_libraries(): pass\nsave_and_load()")
    assert "Writing model shards" in loud and "Loading weights" in loud


def test_a_bar_appears_where_it_takes_long(monkeypatch, capsys):
    def draw():
        for _ in transformers_logging.tqdm(range(3), desc="Loading weights", mininterval=0):
            pass

    with quiet_libraries():
        draw()
        assert capsys.readouterr().err == ""
    monkeypatch.setattr(quiet, "BAR_AFTER_SECONDS", 0)
    with quiet_libraries():
        draw()
    assert "Loading weights: 100%" in capsys.readouterr().err


def test_only_the_warning_about_torchvision_is_dropped(monkeypatch):
    class Kept(logging.Handler):
        messages = []

        def emit(self, record):
            self.messages.append(record.getMessage())

    logger, kept = logging.getLogger("transformers.utils.import_utils"), Kept()
    monkeypatch.setattr(logger, "filters", [])  # a command that ran in this process keeps it quiet for good
    monkeypatch.setattr(logger, "level", logging.WARNING)
    logger.addHandler(kept)
    try:
        with quiet_libraries():
            logger.warning("`AnImageProcessor` requires torchvision (not installed); falling back")
            logger.warning("some weights are new")
        logger.warning("`AnImageProcessor` requires torchvision (not installed); outside")
    finally:
        logger.removeHandler(kept)
    assert [message.split()[-1] for message in kept.messages] == ["new", "outside"]


def test_a_hook_of_the_user_is_still_called_and_comes_back():
    calls = []

    def of_the_user(factory, args, kwargs):
        calls.append(kwargs)
        return factory(*args, **kwargs)

    before = transformers_logging.set_tqdm_hook(of_the_user)
    try:
        with pytest.raises(RuntimeError, match="stop"), quiet_libraries():
            list(transformers_logging.tqdm(range(2)))
            raise RuntimeError("stop")
        assert calls == [{"delay": quiet.BAR_AFTER_SECONDS}]
    finally:
        assert transformers_logging.set_tqdm_hook(before) is of_the_user
