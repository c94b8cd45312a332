"""Options: both spellings alike, mistakes named at once, help that shows a command's own options first."""

import importlib
import subprocess
import sys
import time
from dataclasses import fields

import pytest

from vlm2rec_hf.cli.main import COMMANDS, main
from vlm2rec_hf.cli.parsing import check_options_early, option_of, parse, read_config, with_underscores
from vlm2rec_hf.cli.train import METHODS

COMMAND_LINES = [[name] for name in COMMANDS if name != "train"] + [["train", "--method", name] for name in METHODS]
OWN_PARSERS = ("push", "push-space", "compare")


def parsed_types(monkeypatch, line):
    """The dataclasses that a command line is parsed into, and the parser's own answer to it."""
    seen = {}

    def stop(command, description, types, argv, usage="[options]", defaults=None):
        seen["types"], seen["argv"] = types, argv
        raise SystemExit(0)

    name = line[0].replace("-", "_") if line[0] != "train" else f"train_{line[2]}"
    monkeypatch.setattr(importlib.import_module(f"vlm2rec_hf.cli.{name}"), "parse", stop)
    assert main(line) == 0
    return seen["types"]


def value_for(field):
    """A value on the command line that differs from the field's default, and what it is parsed to."""
    kind = str(field.type)
    if field.default in (True, False) and isinstance(field.default, bool):
        return str(not field.default).lower()
    if "int" in kind and "float" not in kind:
        return "7"
    return "0.5" if "float" in kind else "x"


@pytest.mark.parametrize("line", [one for one in COMMAND_LINES if one[0] not in OWN_PARSERS], ids=" ".join)
def test_every_option_may_be_spelt_with_hyphens(line, monkeypatch, tmp_path):
    """Each option of each command, read under both spellings, by every reader of a command line."""
    count = 0
    for kind in parsed_types(monkeypatch, line):
        for field in fields(kind):
            if not field.init or "_" not in field.name:
                continue
            value = value_for(field)
            spelt = [[f"--{name}", value] for name in (field.name, field.name.replace("_", "-"))]
            spelt += [[f"--{name}={value}"] for name in (field.name, field.name.replace("_", "-"))]
            assert [with_underscores(words)[0].split("=")[0] for words in spelt] == [f"--{field.name}"] * 4
            assert [option_of(words, field.name) for words in spelt] == [value] * 4
            for words in spelt:
                check_options_early(words, (kind,))
            config = tmp_path / "options.yaml"
            config.write_text(f"{field.name.replace('_', '-')}: {value}\n")
            assert set(read_config(["--config", str(config)])) == {field.name}
            count += 1
    assert count > 0


@pytest.mark.parametrize("spelling", ["--max_history_item_tokens", "--max-history-item-tokens"])
def test_the_parser_itself_reads_both(spelling):
    from vlm2rec_hf.cli.arguments import TrainModelArguments

    assert parse("x", "", (TrainModelArguments,), [spelling, "5"])[0].max_history_item_tokens == 5
    assert parse("x", "", (TrainModelArguments,), [f"{spelling}=5"])[0].max_history_item_tokens == 5


@pytest.mark.parametrize(
    ("words", "names"),
    [(["push", "--no-verify", "--report-name", "x", "nowhere", "a/b"], "nowhere"),
     (["compare", "--max-users", "3"], "unrecognized")],
)  # fmt: skip
def test_commands_with_parsers_of_their_own_read_hyphens_too(words, names, capsys):
    assert main(words) == 2
    assert names in capsys.readouterr().err


@pytest.mark.parametrize("line", COMMAND_LINES, ids=" ".join)
def test_a_mistyped_option_is_named_with_the_nearest_one(line, capsys):
    needed = {
        "push": ["folder", "org/name"],
        "push-space": ["org/name", "--model", "org/m", "--dataset", "org/d"],
        "compare": ["report"],
    }
    positional = needed.get(line[0], [])
    assert main([*line, *positional, "--datset", "x"]) == 2
    error = capsys.readouterr().err
    assert "datset" in error
    if line[0] not in (*OWN_PARSERS, "quickstart", "study"):  # these know no dataset
        assert "did you mean `--dataset`?" in error


def test_abbreviations_are_refused_by_every_reader(capsys):
    assert main(["train", "--meth", "pixrec", "--dataset", "x"]) == 2
    assert "no option `--meth`" in capsys.readouterr().err


@pytest.mark.parametrize("config", [["--config", "{}"], ["--config={}"]])
def test_the_config_file_is_found_in_both_forms(config, tmp_path):
    from vlm2rec_hf.cli.arguments import DataArguments

    file = tmp_path / "c.yaml"
    file.write_text("k-core: 3\ndataset: shop\n")
    words = [word.format(file) for word in config]
    (data,) = parse("x", "", (DataArguments,), [*words, "--dataset", "other"])
    assert (data.k_core, data.dataset) == (3, "other")


@pytest.mark.parametrize("method", METHODS)
def test_short_help_shows_own_options_in_groups_and_the_rest_on_demand(method, capsys):
    assert main(["train", "--method", method, "--help"]) == 0
    short = capsys.readouterr().out
    assert main(["train", "--method", method, "--help-all"]) == 0
    whole = capsys.readouterr().out
    for group in ("method:", "data:", "model:", "evaluation:", "training:"):
        assert f"\n{group}\n" in short
    assert "--fsdp" in whole and "--fsdp" not in short and "--max_steps" in short
    assert len(short.splitlines()) < 200 and len(short.splitlines()) * 2 < len(whole.splitlines())
    training = short.split("\ntraining:\n")[1]
    own = {"vlm2rec": "--objective", "pixrec": "--alpha", "seqrec": "--loss", "dmesr": "--alignment_weight"}[method]
    assert training.index(own) < training.index("--max_steps")
    assert "--a-b" in short and "max-steps" not in short


def test_commands_that_do_not_train_offer_nothing_of_training(capsys):
    for command in ("evaluate", "embed", "merge"):
        assert main([command, "--help"]) == 0
        shown = capsys.readouterr().out
        assert "--model_revision" in shown and "--tiny" not in shown and "lora" not in shown


@pytest.mark.parametrize(
    "words", [["--help"], ["trian"], ["evaluate", "--tiny", "x"], ["train", "--datset", "x"]], ids=" ".join
)
def test_help_and_mistakes_are_answered_before_anything_slow_is_imported(words):
    code = (
        "import sys; from vlm2rec_hf.cli.main import main; code = main(sys.argv[1:]);"
        "print([name for name in ('torch', 'transformers', 'trl', 'datasets') if name in sys.modules]); sys.exit(code)"
    )
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True)
    seconds = time.perf_counter() - start
    assert run.returncode == (0 if words == ["--help"] else 2), run.stderr
    assert run.stdout.strip().splitlines()[-1] == "[]"
    assert seconds < 5  # under one where nobody else uses the processor; a busy CI machine gets more
