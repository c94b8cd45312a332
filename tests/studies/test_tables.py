"""Tables, tests and the outlook, from the folders of a finished study alone."""

import json
import shutil

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from vlm2rec_hf.cli.main import main
from vlm2rec_hf.evaluation.metrics import rank_metric
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.evaluation.significance import holm, paired_permutation_test
from vlm2rec_hf.files import sha256
from vlm2rec_hf.studies.outlook import outlook
from vlm2rec_hf.studies.paired_tests import run_tests
from vlm2rec_hf.studies.results import read_results
from vlm2rec_hf.studies.runs import RESULT_FILE, runs_of
from vlm2rec_hf.studies.tables import write_tables

from .small_studies import CONTENT, small_study


def ranks(run, method, view):
    table = pq.read_table(run.folder / "report" / "per_user.parquet")
    return table.filter(pc.and_(pc.equal(table["method"], method), pc.equal(table["view"], view)))["rank"].to_numpy()


@pytest.fixture(scope="module")
def written(studied):
    study = small_study(studied[0] / "shared_by_two")
    path = write_tables(study)
    return study, path.read_text(), json.loads((path.parent / "numbers.json").read_text())


def test_every_view_floor_and_removed_modality_has_its_row(written):
    study, text, numbers = written
    shop = numbers["data"]["shop"]
    assert set(shop["methods"]) == {"sft", "sft without texts", "sft without images", "head"}
    assert list(shop["methods"]["sft"]) == ["text", "image", "both", "scored"]
    assert {"popularity", "transitions", "oracle"} <= set(shop["floors"])
    values = [rank_metric("ndcg@10", ranks(run, "sft", "image")).mean() for run in runs_of(study)[::2]]
    row = shop["methods"]["sft"]["image"]["ndcg@10"]
    assert row == pytest.approx({"mean": np.mean(values), "sd": np.std(values, ddof=1), "n": 2})
    assert f"| sft | image | {shop['methods']['sft']['image']['hit@10']['mean']:.4f} ± " in text
    assert "| sft | texts | both | " in text and "| oracle (best possible) | – |" in text
    # Without texts the sum of both views is the view of the image.
    assert shop["methods"]["sft without texts"]["both"] == shop["methods"]["sft"]["image"]
    assert shop["methods"]["sft without images"]["both"] == shop["methods"]["sft"]["text"]
    assert "no image (" in text


def test_the_tests_average_over_seeds_first_and_holm_covers_all_of_them(written):
    study, text, numbers = written
    rows = numbers["tests"]
    assert [(row["a"], row["b"], row["view_b"]) for row in rows] == [
        ("head", "sft", "both"), ("sft", "transitions", "floor"), ("sft", "transitions", "floor"),
    ]  # fmt: skip
    both_seeds = {
        method: np.mean(
            [rank_metric("ndcg@10", ranks(run, method, "both")) for run in runs_of(study)[place::2]], axis=0
        )
        for place, method in enumerate(("sft", "head"))
    }
    expected = paired_permutation_test(both_seeds["head"], both_seeds["sft"])
    assert rows[0]["p_value"] == expected.p_value and rows[0]["difference"] == pytest.approx(expected.difference)
    assert rows[0]["seeds_a"] == 2 and rows[1]["seeds_b"] == 1 and rows[2]["without"] == "text"
    np.testing.assert_allclose([row["p_holm"] for row in rows], holm([row["p_value"] for row in rows]))
    assert "study's 3 tests" in text


def test_plots_are_images_and_the_folder_is_the_same_each_time(written):
    study, text, _ = written
    folder = study.output / "tables"
    names = {"shop-curves.png", "shop-margins.png", "shop-views-ndcg10.png", "shop-views-hit10.png"}
    assert {path.name for path in folder.glob("*.png")} == names and all(f"({name})" in text for name in names)
    for name in names:
        with Image.open(folder / name) as image:
            assert image.width > 400
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    write_tables(study)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_outlook_says_what_is_done_and_what_its_estimates_rest_on(studied, tmp_path, capsys):
    shutil.copytree(studied[0] / "shared_by_two", tmp_path / "study")
    study = small_study(tmp_path / "study")
    first, head, second, last = runs_of(study)
    (second.folder / RESULT_FILE).unlink()
    (second.folder / "training_log.jsonl").unlink()
    shutil.rmtree(last.folder)
    lines = outlook(study).splitlines()
    assert [line.split(" | ")[0] for line in lines[2:6]] == [f"| shop/{name}" for name in
            ("sft/seed-0", "head/seed-0", "sft/seed-1", "head/seed-1")]  # fmt: skip
    assert "done in" in lines[2] and "1 finished runs of this method" in lines[4]
    assert lines[-1].startswith("2 of 4 runs are done")
    (first.folder / RESULT_FILE).unlink()
    assert "its own 4 steps" in outlook(study) and "4 steps of 1 runs of other methods" in outlook(
        small_study(tmp_path / "study", methods=[CONTENT["methods"][0], "image_only"])
    )
    shutil.rmtree(tmp_path / "study")
    assert "nothing: no run of this kind" in outlook(study)

    changed = small_study(studied[0] / "shared_by_two", training={**CONTENT["training"], "learning_rate": 0.5})
    for use in (outlook, write_tables):
        with pytest.raises(
            ValueError, match="shop/sft/seed-0 was done with another.*learning_rate: 0.01 then, 0.5 now"
        ):
            use(changed)


def test_the_command_shows_the_runs_and_refuses_tables_of_nothing(studied, tmp_path, capsys):
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    assert main(["study", str(path), "--output", str(tmp_path / "empty"), "--tables"]) == 2
    assert "no run in" in capsys.readouterr().err
    output = str(studied[0] / "shared_by_two")
    assert main(["study", str(path), "--output", output, "--dry_run", "--only", "head"]) == 0
    shown = capsys.readouterr().out
    assert "| shop/head/seed-0 | done" in shown and "shop/sft/seed-0" in shown  # what it needs comes along


def test_a_seed_that_chose_the_bare_cosine_is_scored_by_it(studied, tmp_path):
    """And the slices are those of a report whose model was not trained on more than the others."""
    shutil.copytree(studied[0] / "shared_by_two", tmp_path / "study")
    study = small_study(tmp_path / "study", tests=[{"a": "sft", "b": "head", "view": "scored"}])
    first, last = (run.folder / "report" for run in runs_of(study)[::2])
    both = Report.load(last).ranks("sft", "both")
    table = pq.read_table(last / "per_user.parquet")
    pq.write_table(table.filter(pc.not_equal(table["view"], "scored")), last / "per_user.parquet")
    for folder, change in ((first, with_more_training), (last, without_scored)):
        content = json.loads((folder / "report.json").read_text())
        change(content)
        content["per_user"]["sha256"] = sha256(folder / "per_user.parquet")
        (folder / "report.json").write_text(json.dumps(content))
    (one,) = read_results(study)
    assert one.views("sft") == ["text", "image", "both", "scored"]
    np.testing.assert_array_equal(one.ranks("sft", "scored")[1], both)
    assert "trained_on" not in one.first.facts
    (row,) = run_tests(study, [one], n=100)
    assert row.view_a == "scored" and row.mean_a == pytest.approx(one.values("sft", "scored", "ndcg@10").mean())


def without_scored(content):
    for rows in (content["metrics"][name] for name in content["metrics"]):
        rows.pop("scored", None)


def with_more_training(content):
    content["facts"]["trained_on"] = {"validation": True}
