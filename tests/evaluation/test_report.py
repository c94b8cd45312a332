import json
import stat
import tracemalloc

import numpy as np
import polars as pl
import pytest

from vlm2rec_hf.evaluation.metrics import coverage_at_k, ndcg_at_k, novelty_at_k
from vlm2rec_hf.evaluation.protocol import Protocol
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.evaluation.sampled import SampledRanking
from vlm2rec_hf.evaluation.significance import bootstrap_interval

from .report_builders import N_ITEMS, N, draw_ranks, make_report, ranking


def test_numbers_are_means_and_intervals_of_the_ranks():
    report = make_report()
    ranks = draw_ranks(0, 12)
    values = ndcg_at_k(ranks, 10)
    interval = bootstrap_interval(values, n=200)
    assert report.metrics["sft"]["text"]["ndcg@10"] == {
        "mean": values.mean(), "low": interval.low, "high": interval.high, "n": N,
    }  # fmt: skip
    third = np.arange(N) % 3 == 0
    assert report.slice_metrics["sft"]["text"]["third"]["ndcg@10"]["mean"] == pytest.approx(values[third].mean())
    assert report.slice_metrics["sft"]["text"]["third"]["ndcg@10"]["n"] == third.sum()
    assert report.slice_metrics["sft"]["text"]["empty"]["hit@10"] == {"mean": None, "low": None, "high": None, "n": 0}
    top = ranking(ranks, 0).top_items
    result = report.metrics["sft"]["text"]
    assert result["coverage@10"]["mean"] == coverage_at_k(top, N_ITEMS, 10) and result["coverage@10"]["low"] is None
    assert result["novelty@20"]["mean"] == pytest.approx(novelty_at_k(top, np.arange(N_ITEMS), 20).mean())
    assert report.methods == ["sft", "wpcl"] and report.views("sft") == ["text", "image", "both"]
    assert list(report.floors) == ["popularity"]


def test_per_user_rows_and_round_trip(tmp_path):
    report = make_report()
    path = report.save(tmp_path / "new" / "report")
    values = json.loads(path.read_text())
    table = pl.read_parquet(path.parent / values["per_user"]["file"])
    assert table.columns == ["method", "view", "user_id", "item_id", "rank", "slice.third", "slice.empty"]
    assert len(table) == 7 * N
    mine = table.filter((pl.col("method") == "wpcl") & (pl.col("view") == "image"))
    np.testing.assert_array_equal(mine["rank"].to_numpy(), report.ranks("wpcl", "image"))
    assert mine["user_id"].to_list() == [f"u{i}" for i in range(N)]
    assert values["protocol_fingerprint"] == report.protocol.fingerprint

    again = Report.load(path.parent)
    assert again.to_dict() == report.to_dict()
    assert again.per_user().equals(report.per_user())
    assert again.to_markdown() == report.to_markdown()
    again.add("late", ranking(draw_ranks(5, 3)))  # a loaded report can grow, slices included
    assert again.slice_metrics["late"]["both"]["third"]["hit@10"]["n"] == N // 3
    again.save(path.parent)
    assert Report.load(path.parent).methods == ["sft", "wpcl", "late"]


def test_saving_again_replaces_the_report_and_nothing_else(tmp_path):
    (tmp_path / "plot.png").write_bytes(b"keep me")
    make_report(seed=0).save(tmp_path)
    make_report(seed=1).save(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["per_user.parquet", "plot.png", "report.json"]
    np.testing.assert_array_equal(Report.load(tmp_path).ranks("sft"), make_report(seed=1).ranks("sft"))
    assert (tmp_path / "plot.png").read_bytes() == b"keep me"
    assert stat.S_IMODE((tmp_path / "report.json").stat().st_mode) == 0o644


def test_a_failing_save_leaves_the_old_report_readable(tmp_path, monkeypatch):
    make_report(seed=0).save(tmp_path)
    import vlm2rec_hf.evaluation.report as module

    real = module.os.replace

    def fail_on_json(source, target):
        if str(target).endswith("report.json"):
            raise OSError("disk full")
        real(source, target)

    monkeypatch.setattr(module.os, "replace", fail_on_json)
    with pytest.raises(OSError, match="disk full"):
        make_report(seed=1).save(tmp_path)
    monkeypatch.undo()
    np.testing.assert_array_equal(Report.load(tmp_path).ranks("sft"), make_report(seed=0).ranks("sft"))
    assert not list(tmp_path.glob(".writing*"))


def test_a_save_killed_between_its_renames_leaves_the_old_report_readable(tmp_path, monkeypatch):
    make_report(seed=0).save(tmp_path)
    import vlm2rec_hf.evaluation.report as module

    class Killed(BaseException):
        pass

    real = module.os.replace

    def die_at_json(source, target):
        if str(target).endswith("report.json"):
            raise Killed
        real(source, target)

    monkeypatch.setattr(module.os, "replace", die_at_json)
    for _ in range(2):  # twice in a row: the second must not take the first one's remains for good rows
        with pytest.raises(Killed):
            make_report(seed=1).save(tmp_path)
    monkeypatch.undo()
    np.testing.assert_array_equal(Report.load(tmp_path).ranks("sft"), make_report(seed=0).ranks("sft"))
    make_report(seed=1).save(tmp_path)
    np.testing.assert_array_equal(Report.load(tmp_path).ranks("sft"), make_report(seed=1).ranks("sft"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["per_user.parquet", "report.json"]


def test_damage_is_noticed(tmp_path):
    with pytest.raises(ValueError, match="saved report"):
        Report.load(tmp_path)
    path = make_report().save(tmp_path)
    rows = next(tmp_path.glob("*.parquet"))
    rows.write_bytes(rows.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="damaged"):
        Report.load(tmp_path)
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        Report.load(tmp_path)


def test_sampled_and_full_never_mix():
    sampled = SampledRanking(draw_ranks(0, 5), np.zeros((N, 100), dtype=int), seed=0)
    with pytest.raises(ValueError, match="do not mix"):
        make_report().add("other", sampled)
    protocol = Protocol("abc", candidates="sampled", n_negatives=100, seed=0)
    report = Report(protocol, user_ids=np.arange(N), item_ids=np.arange(N), n_resamples=50)
    with pytest.raises(ValueError, match="do not mix"):
        report.add("other", ranking(draw_ranks(0, 5)))
    report.add("ok", sampled, train_counts=np.ones(N_ITEMS))
    assert "coverage@10" not in report.metrics["ok"]["both"]  # sampled ranking has no lists of the catalogue
    with pytest.raises(ValueError, match="seed=1"):
        report.add("other", SampledRanking(draw_ranks(0, 5), np.zeros((N, 100), dtype=int), seed=1))
    with pytest.raises(ValueError, match="n_negatives=50"):
        report.add("other", SampledRanking(draw_ranks(0, 5), np.zeros((N, 50), dtype=int), seed=0))


def test_markdown_is_a_table_of_all_methods_and_floors():
    report = make_report()
    lines = report.to_markdown(["ndcg@10", "coverage@10"]).splitlines()
    assert lines[0] == "| method | view | ndcg@10 | coverage@10 |" and lines[1] == "|---|---|---:|---:|"
    result = report.metrics["sft"]["text"]["ndcg@10"]
    cell = f"{result['mean']:.4f} [{result['low']:.4f}, {result['high']:.4f}]"
    assert lines[2].startswith(f"| sft | text | {cell} | ")
    assert lines[8].startswith("| popularity (floor) | - |")
    assert "seen items excluded" in lines[-1] and report.protocol.fingerprint in lines[-1]
    assert "hit@20" in report.to_markdown()
    with pytest.raises(ValueError, match="map@10"):
        report.to_markdown(["map@10"])


def test_a_slice_is_a_report_of_its_examples(tmp_path):
    whole = make_report(("sft", "wpcl"))
    part = whole.within("third")
    assert len(part) == N // 3 and part.user_ids.tolist() == whole.user_ids[::3].tolist()
    for method in ("sft", "wpcl"):
        for view in ("text", "image", "both"):
            assert np.array_equal(part.ranks(method, view), whole.ranks(method, view)[::3])
            assert part.metrics[method][view] == whole.slice_metrics[method][view]["third"]
    hits = (whole.ranks("popularity", "floor")[::3] <= 10).mean()
    assert part.floors["popularity"]["hit@10"]["mean"] == pytest.approx(hits)
    assert "40 examples of the test split, slice third, full ranking" in part.to_markdown(["hit@10"])
    assert "slice" not in whole.to_markdown(["hit@10"]) and part.protocol == whole.protocol
    part.save(tmp_path)
    assert Report.load(tmp_path).to_dict() == part.to_dict()
    with pytest.raises(ValueError, match=r"`slice` must be one of \['empty', 'third'\], got 'fourth'"):
        whole.within("fourth")
    with pytest.raises(ValueError, match="`slice` 'empty' has no examples"):
        whole.within("empty")


def test_users_with_several_examples_get_wider_intervals():
    ranks = np.repeat([1, 30], N // 2)
    apart = Report(Protocol("abc"), user_ids=np.arange(N), item_ids=np.arange(N))
    grouped = Report(Protocol("abc"), user_ids=np.arange(N) // 20, item_ids=np.arange(N))
    widths = []
    for report in (apart, grouped):
        report.add("m", ranking(ranks))
        result = report.metrics["m"]["both"]["hit@10"]
        assert result["mean"] == 0.5
        widths.append(result["high"] - result["low"])
    assert widths[1] > 2 * widths[0]


def test_bad_arguments_are_refused(tmp_path):
    report = make_report()
    with pytest.raises(ValueError, match="in the report already"):
        report.add("sft", ranking(draw_ranks(0, 5)))
    with pytest.raises(ValueError, match="120 examples, got 3"):
        report.add("x", ranking([1, 2, 3]))
    with pytest.raises(ValueError, match="exclude_seen=False"):
        report.add("x", ranking(draw_ranks(0, 5), exclude_seen=False))
    with pytest.raises(ValueError, match="`add_floor`"):
        report.add("x", ranking(draw_ranks(0, 5)), view="floor")
    with pytest.raises(ValueError, match="5 items per user"):
        report.add("x", ranking(draw_ranks(0, 5), k=5), train_counts=np.ones(N_ITEMS))
    assert report.methods == ["sft", "wpcl"]  # nothing half added
    with pytest.raises(ValueError, match="must be one of"):
        report.ranks("x")
    with pytest.raises(ValueError, match="`method`"):
        report.views("x")
    with pytest.raises(ValueError, match="one length"):
        Report(Protocol("abc"), user_ids=[1, 2], item_ids=[1])
    with pytest.raises(ValueError, match="slices"):
        Report(Protocol("abc"), user_ids=[1], item_ids=[1], slices={"a": np.array([1])})
    with pytest.raises(ValueError, match="empty"):
        Report(Protocol("abc"), user_ids=[1], item_ids=[1]).save(tmp_path)
    report.facts["bad"] = float("nan")
    with pytest.raises(ValueError, match="`facts`"):
        report.save(tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_ids_of_any_length_stay_apart_and_cost_their_own_length(tmp_path):
    users = ["a", "a\0", "b" * 20_000, *(f"u{n}" for n in range(2000))]
    tracemalloc.start()
    for ids in (users, np.array(users, dtype=object), tuple(users)):
        report = Report(Protocol("abc"), user_ids=ids, item_ids=range(len(users)), n_resamples=10)
        assert report._users is None  # as many users as examples
    report.add("m", ranking(np.ones(len(users))))
    report.save(tmp_path)
    again = Report.load(tmp_path)
    assert tracemalloc.get_traced_memory()[1] < 60e6  # a fixed-width array: 160 MB
    tracemalloc.stop()
    assert again.user_ids.tolist() == users and again.item_ids[-1] == str(len(users) - 1)
