"""Wrong values are refused before anything is read, in the words of the command line, and so is what would not act."""

import pytest

from vlm2rec_hf.cli.config_file import without_option
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.data.dataset import RecDataset

TINY = ["train", "--tiny", "qwen2_vl", "--output_dir", "out"]
HEAD = ["train", "--method", "seqrec", "--output_dir", "out"]
EVALUATE = ["evaluate", "--model", "m", "--output", "out"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([*HEAD, "--cold_items", "1"], "`--cold_items` must be at least 0 and below 1, got 1.0."),
        ([*TINY, "--cold_items", "-0.1"], "`--cold_items` must be at least 0 and below 1, got -0.1."),
        (["prepare", "--output", "out", "--split", "temporal:0.9,0.8"], "`--split` 'temporal:0.9,0.8' must name two"),
        ([*HEAD, "--max_length", "0"], "`--max_length` must be at least 1, got 0."),
        ([*EVALUATE, "--model_dtype", "float23"], "`--model_dtype` must be one of auto, float32, bfloat16, float16"),
        ([*HEAD, "--embedder_revision", "v1"], "`--embedder_revision` goes with `--embedder`, which is not named"),
        ([*TINY, "--hidden_size", "0"], "`--hidden_size` must be at least 1, got 0."),
        ([*TINY, "--attn_implementation", "eager"], "`--attn_implementation` 'eager' goes with `--model`; leave it"),
        ([*TINY, "--model_revision", "v1"], "`--model_revision` 'v1' goes with `--model`; leave it out."),
        ([*TINY[:1], "--model", "m", "--image_size", "28"], "`--image_size` 28 is of a tiny backbone (`--tiny`)"),
        ([*TINY, "--image_encoder_revision", "v1"], "`--image_encoder_revision` 'v1' goes with `--image_encoder`"),
        ([*TINY, "--warm_up_backbone", "5", "--warm_up_batch_size", "1"], "`--warm_up_batch_size` must be at least 2"),
        ([*TINY, "--warm_up_target", "encoder:"], "`--warm_up_target` must be semantic, identity or encoder:MODEL"),
        ([*TINY, "--method", "pixrec", "--lora", "true"], "`--lora` needs weights that lie somewhere"),
        (
            [*HEAD, "--metric_for_best_model", "zzz"],
            "`--metric_for_best_model` 'zzz' is not measured when training is",
        ),
        ([*TINY, "--metric_for_best_model", "ndcg@10"], "`--metric_for_best_model` 'ndcg@10' is not measured when"),
        ([*HEAD, "--lsa_dim", "64"], "`--lsa_dim` goes with `--text_encoder`, which is not named"),
        ([*HEAD, "--encode_batch_size", "0"], "`--encode_batch_size` must be at least 1, got 0."),
        ([*HEAD, "--lsa_dim", "64", "--text_encoder", "m"], "`--lsa_dim` is an option of --text_encoder lsa, and `--"),
        (
            ["encode-descriptions", "--text_encoder", "lsa", "--text_encoder_revision", "v1", "--output", "out"],
            "`--text_encoder_revision` is an option of a SentenceTransformer, and `--text_encoder` is 'lsa'; leave it",
        ),
        ([*EVALUATE, "--vision_cache_dtype", "float16"], "`--vision_cache_dtype` goes with `--vision_cache_dir`,"),
        ([*TINY, "--vision_cache_dtype", "float16"], "`--vision_cache_dtype` 'float16' is how `--vision_cache_dir`"),
    ],
)
def test_values_are_checked_before_the_data_is_read(line, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main([*line, "--dataset", "nowhere"]) == 2
    assert message in capsys.readouterr().err


def test_errors_name_the_options(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"user_id": "a", "item_id": i, "timestamp": i} for i in range(12)]
    RecDataset.from_tables(rows, [{"item_id": i, "title": "t"} for i in range(12)]).leave_one_out().save("data")
    for line, message in (
        (
            ["train", "--tiny", "qwen9", "--output_dir", "out", "--dataset", "data", "--ks", "5"],
            "`--tiny` must be one of",
        ),
        (["quickstart", "--items", "5"], "`--items` must lie between 60 and 100000, got 5."),
        (["compare", "a=nowhere"], "`NAME=FOLDER` must hold a saved report"),
        (
            ["prepare", "--dataset", "data", "--output", "out", "--text_columns", "t"],
            "`--text_columns`: 'data' is a saved",
        ),
    ):
        assert main(line) == 2
        assert message in capsys.readouterr().err


def test_an_option_goes_with_its_value():
    line = ["--dataset", "true", "--resume_from_checkpoint", "true", "--seed", "1"]
    assert without_option(line, "resume_from_checkpoint") == ["--dataset", "true", "--seed", "1"]
    line[2:4] = ["--resume_from_checkpoint=out/checkpoint-5"]
    assert without_option(line, "resume_from_checkpoint") == ["--dataset", "true", "--seed", "1"]
    assert without_option(["--seed", "1", "--resume_from_checkpoint"], "resume_from_checkpoint") == ["--seed", "1"]
