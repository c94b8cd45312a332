"""What notebooks and terminals show of our objects: short, readable, and never anybody else's HTML."""

from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from vlm2rec_hf import RecDataset, make_demo_shop
from vlm2rec_hf.data.html_tables import LONGEST_CELL, html_table
from vlm2rec_hf.descriptions.encoded_items import EncodedItems
from vlm2rec_hf.evaluation import Protocol, Ranking, Report
from vlm2rec_hf.evaluation.sampled import SampledRanking
from vlm2rec_hf.modeling.catalogue_seqrec import Recommendation
from vlm2rec_hf.modeling.encoding_vlm2rec import Encoding

from .evaluation.report_builders import ranking

HOSTILE = "<script>alert('x')</script> & \"tent\"\x1b[31m\n| a | b |"


class Cells(HTMLParser):
    """Tags of a document, and its text by cell."""

    def __init__(self, document):
        super().__init__()
        self.tags, self.cells = set(), []
        self.feed(document)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        assert not attributes
        if tag in ("td", "th", "caption"):
            self.cells.append("")

    def handle_data(self, data):
        if self.cells:
            self.cells[-1] += data.strip("\n")


def shop(title="red tent"):
    rows = [
        {"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": item} for user in range(3) for item in range(4)
    ]
    items = [{"item_id": f"i{item}", "title": title} for item in range(4)]
    return RecDataset.from_tables(rows, items, name="shop").leave_one_out()


def make_report(name="ours"):
    report = Report(Protocol("d" * 32, k=(2, 5)), user_ids=list("abcd"), item_ids=list("wxyz"))
    report.add(name, ranking([1, 2, 3, 4]))
    report.add_floor("popularity", ranking([5, 5, 5, 5]))
    return report


def test_data_in_one_line():
    dataset = shop()
    assert repr(dataset.sequences()) == "Sequences(users=3, items=4, interactions=12)"
    assert repr(dataset.examples("train")) == "Examples(3 histories with targets of 3 users, items=4, max_history=10)"


def test_rankings_in_one_line():
    ranks = np.array([1, 3, 9])
    top = np.zeros((3, 20), np.int64)
    expected = "Ranking(3 examples, median rank 3, top 20, candidates='full', exclude_seen=True)"
    assert repr(Ranking(ranks, top, top.astype(float), ranks, True)) == expected
    nobody = np.zeros(0, np.int64)
    assert "median rank nan" in repr(Ranking(nobody, top[:0], top[:0].astype(float), nobody, True))
    assert repr(SampledRanking(ranks, top, 7)) == "SampledRanking(3 examples against 20 negatives each, seed=7)"


def test_vectors_in_one_line():
    rows, present = torch.zeros(3, 8), torch.tensor([True, True, False])
    assert repr(Encoding(rows, rows, rows, present, ~present)) == "Encoding(3 x 8, 2 with text, 1 with image)"
    encoded = EncodedItems(
        ["a", "b"],
        torch.zeros(2, 3, 8),
        torch.ones(2, 3),
        torch.zeros(2, 5, 6),
        torch.ones(2, 5),
        {"model": "org/bert"},
    )
    assert repr(encoded) == (
        "EncodedItems(2 items, descriptions of 8 dimensions, texts of up to 5 tokens x 6 dimensions, model='org/bert')"
    )


def test_recommendations_in_one_line():
    some = Recommendation(["a", "b", "c", "d"], [0.51234, 0.4, 0.3, 0.2], [None] * 4, "model")
    assert repr(some) == "Recommendation(4 items by 'model': 'a' 0.5123, 'b' 0.4, 'c' 0.3, ...)"
    none = Recommendation([], [], [], "popularity", n_unknown=2)
    assert repr(none) == "Recommendation(0 items by 'popularity', 2 unknown ids left out: none)"


def test_reports_in_one_line():
    report = make_report()
    assert repr(report) == "Report(4 examples, methods=['ours'], floors=['popularity'], test split, full ranking)"
    report.slices["cold"] = np.array([True, False, False, True])
    assert repr(report.within("cold")).startswith("Report(2 examples, ") and "slice 'cold'" in repr(
        report.within("cold")
    )


def test_a_notebook_shows_a_report_as_its_table():
    cells = Cells(make_report()._repr_html_()).cells
    assert cells[0] == "4 examples, test split, full ranking"
    header, ours, floor = cells[1:9], cells[9:17], cells[17:25]
    assert header == ["method", "view", "hit@2", "ndcg@2", "mrr@2", "hit@5", "ndcg@5", "mrr@5"]
    assert ours[:2] == ["ours", "both"] and ours[2].startswith("0.5000 [")
    assert floor[:3] == ["popularity (floor)", "-", "0.0000"] and len(cells) == 25


def test_a_notebook_shows_items_and_histories():
    dataset = shop()
    cells = Cells(dataset._repr_html_()).cells
    assert (
        "items=4" in cells[0] and cells[1:4] == ["item_id", "text", "image"] and cells[4:7] == ["i0", "red tent", "no"]
    )
    cells = Cells(dataset.examples("test")._repr_html_()).cells
    assert cells[1:4] == ["user", "history", "target"] and cells[4:7] == ["u0", "i0, i1, i2", "i3"]
    with_images = make_demo_shop(60, n_users=8).dataset()
    assert Cells(with_images._repr_html_()).cells[6] in ("yes", "no") and not with_images.image_problems


def test_a_notebook_shows_recommendations():
    cells = Cells(Recommendation(["a", "b"], [0.5, 0.25], ["Tent", None], "model")._repr_html_()).cells
    assert cells == [
        "2 items by model",
        "",
        "item_id",
        "title",
        "score",
        "1",
        "a",
        "Tent",
        "0.5",
        "2",
        "b",
        "",
        "0.25",
    ]


@pytest.mark.parametrize(
    "shown",
    [
        lambda: RecDataset.from_tables(  # in an id: markup in texts is cleaned when they come in
            [{"user_id": "u", "item_id": f"{n}{HOSTILE}", "timestamp": n} for n in range(4)], name=HOSTILE
        ),
        lambda: make_report(HOSTILE),
        lambda: Recommendation([HOSTILE], [1.0], [HOSTILE], HOSTILE),
        lambda: (
            RecDataset.from_tables(
                [{"user_id": HOSTILE, "item_id": f"{n}{HOSTILE}", "timestamp": n} for n in range(4)], name=HOSTILE
            )
            .leave_one_out()
            .examples("test")
        ),
    ],
    ids=["dataset", "report", "recommendation", "examples"],
)
def test_hostile_names_stay_text(shown):
    document = shown()._repr_html_()
    page = Cells(document)
    assert page.tags == {"table", "caption", "tr", "th", "td"}
    assert any("<script>alert('x')</script> & \"tent\"" in cell for cell in page.cells)
    assert "\x1b" not in repr(shown()) and "\n" not in repr(shown())


def test_long_and_unprintable_cells_are_cut_and_cleaned():
    page = Cells(html_table("two", ("a", "b"), [("x" * 1000, "y\ud800\x00z"), (None, 3)]))
    assert page.cells == ["two", "a", "b", "x" * (LONGEST_CELL - 1) + "…", "y z", "", "3"]
