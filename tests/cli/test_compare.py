"""`vlm2rec compare`."""

import subprocess
import sys

import pytest

from tests.evaluation.report_builders import make_report
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.evaluation.report import Report


@pytest.fixture
def folders(tmp_path):
    make_report(("sft", "wpcl"), seed=2).save(tmp_path / "study")
    make_report(("sasrec",), views=("text",), seed=1).save(tmp_path / "head" / "evaluation")
    return tmp_path


def test_a_table_and_all_pairs(folders, capsys):
    assert main(["compare", str(folders / "study"), str(folders / "head"), "--output", str(folders / "all")]) == 0
    printed = capsys.readouterr().out
    for row in ("| study sft | both |", "| study wpcl | both |", "| head | both |", "| popularity (floor) |"):
        assert printed.count(row) == 1
    assert "| study sft | study wpcl | ndcg@10 |" in printed and "6 in all" in printed  # 3 pairs, hit and ndcg
    assert Report.load(folders / "all").methods == ["study sft", "study wpcl", "head"]


def test_against_a_baseline_by_name(folders, capsys):
    command = ["compare", f"a={folders / 'study'}", f"b={folders / 'head' / 'evaluation'}", "--baseline", "b"]
    assert main([*command, "--metrics", "hit@20"]) == 0
    lines = capsys.readouterr().out.splitlines()
    tests = [line for line in lines if "| b | hit@20 |" in line]
    assert [line.split(" | ")[0] for line in tests] == ["| a sft", "| a wpcl"]
    assert "| method | view | hit@20 |" in lines


def test_within_a_slice(folders, capsys):
    assert main(["compare", str(folders / "study"), "--slice", "third", "--metrics", "ndcg@10"]) == 0
    printed = capsys.readouterr().out
    part = Report.load(folders / "study").within("third")
    mean = {method: part.metrics[method]["both"]["ndcg@10"]["mean"] for method in part.methods}
    assert f"| study sft | both | {mean['sft']:.4f} [" in printed and "40 examples" in printed
    assert f"| study sft | study wpcl | ndcg@10 | {mean['sft'] - mean['wpcl']:+.4f} [" in printed


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--baseline", "c"], "`--baseline` must be one of"),
        (["{}/study"], "names 'study' twice"),
        (["{}/nowhere"], "must hold a saved report"),
        (["--metrics", "hit@7"], "holds 'hit@7'"),
        (["--slice", "fourth"], "`slice` must be one of ['empty', 'third']"),
    ],
)
def test_refusals(folders, capsys, more, message):
    arguments = [word.format(folders) for word in more]
    assert main(["compare", str(folders / "study"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_a_report_is_written_before_it_is_spoken_of(folders, capsys, monkeypatch):
    def full(self, folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "save", full)
    assert main(["compare", str(folders / "study"), "--output", str(folders / "all")]) == 1
    said = capsys.readouterr()
    assert "Report in" not in said.out + said.err and "No space left" in said.err


def test_a_reader_that_leaves_gets_no_message(folders):
    command = [sys.executable, "-m", "vlm2rec_hf.cli.main", "compare", str(folders / "study")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        assert process.stderr.read() == "" and process.wait() == 1
