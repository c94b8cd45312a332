"""What can be checked is checked before any work; YAML means what it looks like; errors speak of options."""

import inspect
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from vlm2rec_hf.cli import parsing
from vlm2rec_hf.cli.arguments import DataArguments, EncoderRankingArguments, RankingArguments, TrainModelArguments
from vlm2rec_hf.cli.main import main, message_of
from vlm2rec_hf.cli.parsing import parse
from vlm2rec_hf.cli.wording import in_command_words
from vlm2rec_hf.trainers.vlm2rec_args import VLM2RecTrainingArguments

from ..waiting import PATIENCE_S


@pytest.fixture(scope="module")
def data(demo_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop") / "data"
    demo_dataset.save(folder)
    return str(folder)


TINY = ["--tiny", "qwen2_vl"]
SEQREC = ["--method", "seqrec"]


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [(TINY, ["--eval_split", "tset"], "`--eval_split` must be validation or test"), (TINY, ["--ks", "0"], "`--ks`"),
     (TINY, ["--ks", "10,99999"], "`--ks` goes to 99999"), (SEQREC, ["--ks", "99999"], "`--ks` goes to 99999"),
     (SEQREC, ["--max_users", "-1"], "`--max_users`"), (TINY, ["--eval_batch_size", "0"], "`--eval_batch_size`"),
     (SEQREC, ["--popularity_power", "nan"], "`--popularity_power`"), (TINY, ["--temperature", "nan"], "temperature"),
     (SEQREC, ["--label_smoothing_factor", "0.1"], "`--label_smoothing_factor`"),
     (SEQREC, ["--output_dir", "FILE"], "is a file"), (SEQREC, ["--output_dir", "FILE/x"], "which is a file"),
     (SEQREC, ["--output_dir", "HALF"], "evaluation' is a file")],
)  # fmt: skip
def test_nothing_is_trained_for_a_report_that_cannot_be(method, options, message, data, tmp_path, capsys, monkeypatch):
    from transformers import Trainer

    monkeypatch.setattr(Trainer, "train", lambda *a, **k: pytest.fail("trained"))
    (tmp_path / "file").write_text("mine")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "evaluation").write_text("mine")
    places = {"FILE": str(tmp_path / "file"), "HALF": str(tmp_path / "half"), "FILE/x": str(tmp_path / "file" / "x")}
    options = [places.get(word, word) for word in options]
    output = [] if "--output_dir" in options else ["--output_dir", str(tmp_path / "out")]
    assert main(["train", *method, "--dataset", data, *output, "--use_cpu", "true", *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    "command",
    [["evaluate", "--model", "m", "--output"], ["merge", "--model", "m", "--output"],
     ["describe", "--model", "m", "--output"], ["encode-descriptions", "--text_encoder", "lsa", "--output"],
     ["prepare", "--output"], ["quickstart", "--output"], ["compare", "r", "--output"]],
    ids=lambda command: command[0],
)  # fmt: skip
def test_a_file_in_the_place_of_the_output_is_named_at_once(command, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    dataset = [] if command[0] in ("quickstart", "compare") else ["--dataset", "no/such"]
    for place in ("file", "file/inside"):
        assert main([*command, str(tmp_path / place), *dataset]) == 2
        error = capsys.readouterr().err
        assert "`--output`" in error and "file" in error and "no folder" not in error
    assert (tmp_path / "file").read_text() == "mine"


TYPES = (DataArguments, TrainModelArguments, RankingArguments, VLM2RecTrainingArguments)


def read(tmp_path, text, types=TYPES):
    (tmp_path / "c.yaml").write_text(f"output_dir: {tmp_path}\nuse_cpu: true\nbf16: false\n{text}\n")
    return parse("train", "", types, ["--config", str(tmp_path / "c.yaml")])


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [("ks: 10", "ks", "10"), ("ks: [10, 20]", "ks", "10,20"), ("ks:\n- 5\n- 7", "ks", "5,7"),
     ("k_core: null", "k_core", 0), ("k_core:", "k_core", 0), ("column_mapping: {sku: item_id, user: user_id}",
      "column_mapping", "sku=item_id,user=user_id"), ("lora: yes", "lora", True), ("lora: off", "lora", False),
     ("lora: null", "lora", None), ("max_steps: 3", "max_steps", 3), ("learning_rate: 1e-3", "learning_rate", 1e-3),
     ("learning_rate: 1", "learning_rate", 1.0), ("report_to: [none]", "report_to", []), ("cold_items: 0",
      "cold_items", 0.0), ("model: 7", "model", "7"), ("eval_strategy: steps", "eval_strategy", "steps"),
     ("lr_scheduler_kwargs: {num_cycles: 2}", "lr_scheduler_kwargs", {"num_cycles": 2}),
     ("split: none", "split", "none"), ("resume_from_checkpoint: true", "resume_from_checkpoint", "true"),
     ("seed: '3'", "seed", 3)],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_natural_yaml_means_what_it_looks_like(text, name, value, tmp_path):
    found = next(getattr(one, name) for one in read(tmp_path, text) if hasattr(one, name))
    assert found in (True, "true") if name == "resume_from_checkpoint" else found == value
    assert not isinstance(value, bool) or isinstance(found, bool)


@pytest.mark.parametrize(
    ("text", "message"),
    [("max_steps: 2.5", "`max_steps` must be a whole number, got '2.5'"), ("k_core: many", "`k_core`"),
     ("k_core: [3, 4]", "`k_core`"), ("learning_rate: fast", "`learning_rate` must be a number"),
     ("lora: maybe", "`lora`"), ("ks: [[1]]", "`ks` must be one value or a flat list"), ("eval_strategy: later",
      "`eval_strategy` must be one of"), ("learning_rate: .nan", "`--learning_rate`"),
     ("max_steps: {a: 1}", "`max_steps`")],
)  # fmt: skip
def test_what_an_option_does_not_take_is_named(text, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, text)


def test_every_report_option_is_checked_when_it_is_read():
    for bad in ({"eval_split": "train"}, {"eval_batch_size": 0}, {"ks": "a"}, {"max_users": 0}):
        with pytest.raises(ValueError, match=f"`--{next(iter(bad))}`"):
            EncoderRankingArguments(**bad)


def test_errors_keep_their_lines(tmp_path, capsys):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "x.txt").write_text("")
    assert main(["prepare", "--dataset", str(tmp_path / "raw"), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "\n  movielens: ratings.dat" in error and "`--dataset`" in error and "`--format`" in error
    assert "from_tables" not in error and "path_or_hub_id" not in error and "format=" not in error
    assert message_of(ValueError()) == "ValueError"


def test_advice_is_that_of_the_command_line(data, tmp_path, capsys):
    (tmp_path / "log.csv").write_text("who,item_id,timestamp\nu,a,1\n")
    assert main(["prepare", "--dataset", str(tmp_path / "log.csv"), "--output", str(tmp_path / "out")]) == 2
    assert "`--column_mapping '<your column>=user_id'`" in capsys.readouterr().err
    assert main(["prepare", "--dataset", data, "--output", data]) == 2
    error = capsys.readouterr().err
    assert "`--overwrite`" in error and "`--output`" in error and "True" not in error
    assert main(["train", *SEQREC, "--dataset", data, "--split", "lo", "--output_dir", str(tmp_path / "o")]) == 2
    assert "`--split` must be" in capsys.readouterr().err


def test_python_errors_name_no_options_of_commands():
    """The reverse: the modules that Python users call raise errors about arguments."""
    import vlm2rec_hf.data.dataset
    import vlm2rec_hf.data.readers
    from vlm2rec_hf.catalogues import item_vectors, vector_files
    from vlm2rec_hf.data import appending, ingest, storage, usefulness, validation
    from vlm2rec_hf.data.readers import file_tables, image_pattern
    from vlm2rec_hf.evaluation import evaluating

    for module in (vlm2rec_hf.data.dataset, vlm2rec_hf.data.readers, item_vectors, vector_files, appending, ingest,
                   storage, usefulness, validation, file_tables, image_pattern, evaluating):  # fmt: skip
        assert not re.search(r"`--\w", inspect.getsource(module)), module.__name__


def test_only_arguments_that_are_options_are_respelt():
    text = "`max_history` and `item_id` of `text`, `overwrite=True`, `format='x'`, `--done`"
    assert in_command_words(text, {"max_history", "overwrite", "format", "text"}) == (
        "`--max_history` and `item_id` of `text`, `--overwrite`, `--format x`, `--done`"
    )
    parsing.known_options.add("left_over")
    assert main(["--version"]) == 0 and not parsing.known_options


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("seconds", [0.7, 1.8])
def test_ctrl_c_while_importing_is_a_sentence(seconds, data, tmp_path):
    words = ["evaluate", "--dataset", data, "--model", data, "--output", str(tmp_path / "o")]
    # The clock starts with our code: a busy machine takes its time to start an interpreter.
    code = "import sys; print(flush=True); from vlm2rec_hf.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 1 and error.strip() == "vlm2rec: interrupted; what was saved so far is kept."
