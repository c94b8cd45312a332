"""Several reports as one."""

import numpy as np
import pytest

from vlm2rec_hf.evaluation import compare_methods, join_reports
from vlm2rec_hf.evaluation.protocol import Protocol
from vlm2rec_hf.evaluation.report import Report

from .report_builders import N, draw_ranks, make_report, ranking


@pytest.fixture
def three():
    shuffled = np.random.default_rng(0).permutation(N)
    return {
        "head": make_report(("sasrec",), views=("text",), seed=1, protocol=Protocol("abc", max_history=50)),
        "two": make_report(("sft", "wpcl"), seed=2, order=shuffled),
        "alone": make_report(("pixrec",), views=("text",), seed=3),
    }


def test_numbers_stay_and_ranks_are_matched_by_example(three):
    joined = join_reports(three)
    assert joined.methods == ["head", "two sft", "two wpcl", "alone"]
    assert joined.facts["views"] == {"head": "text", "two sft": "both", "two wpcl": "both", "alone": "text"}
    assert joined.protocol.max_history is None and joined.protocol.fingerprint == Protocol("abc").fingerprint
    straight = make_report(("sft", "wpcl"), seed=2)
    assert np.array_equal(joined.ranks("two wpcl"), straight.ranks("wpcl"))
    assert joined.metrics["two wpcl"]["both"] == three["two"].metrics["wpcl"]["both"]
    assert joined.slice_metrics["head"]["both"]["third"] == three["head"].slice_metrics["sasrec"]["text"]["third"]
    assert joined.floors == three["head"].floors and joined.ranks("popularity", "floor").shape == (N,)
    assert len(compare_methods(joined, metrics=["ndcg@10"], n=200)) == 6
    assert "| two wpcl | both |" in joined.to_markdown(["hit@10"])


def test_a_joined_report_is_a_report_on_disk(three, tmp_path):
    joined = join_reports(three)
    joined.save(tmp_path)
    again = Report.load(tmp_path)
    assert again.to_dict() == joined.to_dict()
    assert np.array_equal(again.ranks("alone"), joined.ranks("alone"))


def test_another_view(three):
    assert join_reports({"two": three["two"]}, view="image").facts["views"] == {
        "two sft": "image",
        "two wpcl": "image",
    }
    with pytest.raises(ValueError, match=r"`view` must be one of \['text', 'image', 'both'\].*'sft'.*'two'"):
        join_reports(three, view="sound")


def test_what_does_not_belong_together_is_refused(three):
    with pytest.raises(ValueError, match="`reports` is empty"):
        join_reports({})
    with pytest.raises(ValueError, match="`head` and `other` answer different questions.*dataset"):
        join_reports({**three, "other": make_report(("a",), protocol=Protocol("abd"))})
    elsewhere = make_report(("a",))
    elsewhere.item_ids = np.array(["other", *elsewhere.item_ids[1:]])
    with pytest.raises(ValueError, match="`head` and `elsewhere` hold different examples"):
        join_reports({**three, "elsewhere": elsewhere})
    sliced = make_report(("a",))
    sliced.slices["third"] = ~sliced.slices["third"]
    with pytest.raises(ValueError, match="'head' and 'sliced' mean different examples by slice 'third'"):
        join_reports({**three, "sliced": sliced})
    floored = Report(Protocol("abc"), user_ids=sliced.user_ids, item_ids=sliced.item_ids)
    floored.add("a", ranking(draw_ranks(1, 5)))
    floored.add_floor("popularity", ranking(draw_ranks(98, 30)))
    with pytest.raises(ValueError, match="'head' and 'floored' rank differently by the floor 'popularity'"):
        join_reports({**three, "floored": floored})
    with pytest.raises(ValueError, match="`method` 'two sft'.*already"):
        join_reports({"two": make_report(("sft", "wpcl")), "two sft": make_report(("x",))})


def test_models_trained_on_different_parts_keep_their_own_floors_and_share_no_popularity(three):
    other = make_report(("a",))
    other.facts["trained_on"] = "train and some of validation"
    other.slices["third"] = ~other.slices["third"]
    other._ranks["popularity", "floor"] = draw_ranks(98, 30)
    joined = join_reports({"alone": three["alone"], "other": other, "again": other})
    assert joined.facts["slices_left_out"] == ["third"] and set(joined.slices) == {"empty"}
    assert list(joined.floors) == ["popularity", "popularity, trained as other"]
    assert np.array_equal(joined.ranks("popularity, trained as other", "floor"), draw_ranks(98, 30))
    other.facts["trained_on"] = "train"
    with pytest.raises(ValueError, match="'other' and 'again' rank differently by the floor 'popularity'"):
        again = make_report(("a",))
        again.facts["trained_on"], again.slices = "train", other.slices
        join_reports({"alone": three["alone"], "other": other, "again": again})
