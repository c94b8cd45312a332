"""Without a launcher a process keeps to one GPU, whatever the method."""

import pytest
from transformers import TrainingArguments

from vlm2rec_hf import (
    DMESRTrainingArguments,
    PixRecTrainingArguments,
    SeqRecTrainingArguments,
    VLM2RecTrainingArguments,
)


@pytest.mark.parametrize(
    "kind", [VLM2RecTrainingArguments, PixRecTrainingArguments, SeqRecTrainingArguments, DMESRTrainingArguments]
)
def test_two_gpus_in_one_process_are_not_split_over(kind, monkeypatch, tmp_path, caplog):
    def n_gpu(args):
        return 1 if vars(args).get("_n_gpu") == 1 else 2

    monkeypatch.setattr(TrainingArguments, "n_gpu", property(n_gpu))
    with caplog.at_level("WARNING"):
        args = kind(str(tmp_path))
    assert args.n_gpu == 1
    assert "one of 2 GPUs" in caplog.text and "accelerate launch" in caplog.text
