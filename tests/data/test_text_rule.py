"""One rule for text, whatever container or file it comes in."""

import gzip
import json
import time

import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import load_recsys, read_amazon_2014
from vlm2rec_hf.data.text import joined, sound, without_markup

quick = settings(max_examples=60, deadline=None)
EVENTS = [{"user_id": "u", "item_id": "a", "timestamp": 1}, {"user_id": "u", "item_id": "b", "timestamp": 2}]
HALF = "Mug \ud83d"


def items_of(table):
    return RecDataset.from_tables(EVENTS, table)


# ---- Unicode


@quick
@given(st.text(max_size=8), st.lists(st.integers(0xD800, 0xDFFF), max_size=3), st.text(max_size=8))
def test_only_lone_surrogates_are_replaced(before, halves, after):
    mended = sound(before + "".join(map(chr, halves)) + after)
    mended.encode()
    if not halves:
        assert mended == before + after
    elif all(half >= 0xDC00 for half in halves):
        assert mended == before + "\ufffd" * len(halves) + after
    assert sound("\ud83d\ude00") == "\U0001f600"


def write(path, rows, ending):
    path.mkdir()
    lines = "\n".join(json.dumps(row) for row in rows).encode()
    (path / f"items{ending}").write_bytes(gzip.compress(lines) if ending.endswith(".gz") else lines)
    pd.DataFrame(EVENTS).to_csv(path / "interactions.csv", index=False)
    return load_recsys(path)


def test_half_a_character_costs_no_more_than_itself(tmp_path):
    rows = [
        {"item_id": "a", "title": HALF, "tags": ["x", HALF], "facts": {HALF: [HALF, 1]}},
        {"item_id": "b", "title": "Oak"},
    ]
    frame = pd.DataFrame({name: pd.Series([row.get(name) for row in rows], dtype=object) for name in rows[0]})
    invalid = pa.array([b"Mug \xed\xa0\xbd", b"Oak"]).view(pa.string())
    made = {
        "list": items_of(rows),
        "pandas": items_of(frame),
        "arrow": items_of(pa.table({"item_id": ["a", "b"], "title": invalid})),
        "dictionary": items_of(pa.table({"item_id": ["a", "b"], "title": invalid.dictionary_encode()})),
        "jsonl": write(tmp_path / "plain", rows, ".jsonl"),
        "jsonl.gz": write(tmp_path / "packed", rows, ".jsonl.gz"),
    }
    for kind, dataset in made.items():
        assert dataset.item_texts() == ["Mug \ufffd", "Oak"], kind
    assert made["list"].items["tags"][0] == ["x", "Mug \ufffd"]
    assert made["list"].fingerprint == made["jsonl"].fingerprint == made["jsonl.gz"].fingerprint
    pq.write_table(pa.table({"item_id": ["a", "b"], "title": invalid}), tmp_path / "items.parquet")
    pq.write_table(pa.Table.from_pylist(EVENTS), tmp_path / "interactions.parquet")
    assert load_recsys(tmp_path).item_texts() == ["Mug \ufffd", "Oak"]


def test_half_a_character_in_ids_and_in_reviews(tmp_path):
    events = [{"user_id": "u\ud83d", "item_id": "a\udc00", "timestamp": 1, "note": HALF}]
    dataset = RecDataset.from_tables(events, [{"item_id": "a\udc00", "title": "A"}])
    assert dataset.sequences().user_ids.tolist() == ["u\ufffd"] and dataset.item_ids.tolist() == ["a\ufffd"]
    assert dataset.interactions["note"][:] == ["Mug \ufffd"]
    review = {"reviewerID": "u\ud83d", "asin": "B1", "overall": 5.0, "unixReviewTime": 3, "reviewText": HALF}
    (tmp_path / "X_5.json").write_text(json.dumps(review))
    (tmp_path / "meta_X.json").write_text("{'asin': 'B1', 'title': 'Mug \\ud83d'}")
    dataset = read_amazon_2014(tmp_path)
    assert dataset.item(0)["text"] == "Mug \ufffd." and dataset.sequences().user_ids.tolist() == ["u\ufffd"]


# ---- page source

MARKUP = {
    "<b>Oak</b> &amp;amp; chair": "Oak & chair",
    "&lt;b&gt;Oak&lt;/b&gt; &amp; chair": "Oak & chair",
    "<p>Oak</p><p class='x > y'>chair</p>": "Oak chair",
    "O<b>a</b>k<br/>chair": "Oak chair",
    "<SCRIPT type='a'>if (a < b) {}</SCRIPT >Oak": "Oak",
    "Oak<style>p {color: red}</style> chair<script>never closed": "Oak chair",
    "Oak <!-- a <b> note -->chair": "Oak chair",
    "<![CDATA[Oak]]> &nbsp;chair&#33; &#x1F600;": "Oak chair! \U0001f600",
    "<!DOCTYPE html><html><body>Oak</body></html>": "Oak",
    "<a href='x'>Oak</a": "Oak</a",
    "</span></span>": "",
}
PLAIN = [
    "I <3 you",
    "a < b, c > d",
    "R&D; AT&T",
    "x?a=1&lt=2",
    "Tom & Jerry",
    "two\n lines ",
    "<Untitled>",
    "<",
    "&",
    "1<2>0",
]


def test_page_source_becomes_what_a_browser_shows():
    for source, shown in MARKUP.items():
        assert without_markup(source) == shown, source
    for text in PLAIN:
        assert without_markup(text) == text


pieces = st.sampled_from(
    [*"<>&;/!-\"' ab", "<b", "</p>", "&amp;", "lt;", "&gt", "<script>", "</script>", "<!--", "#60;", "]]>"]
)


@quick
@given(st.lists(pieces, max_size=14).map("".join))
def test_cleaning_twice_changes_nothing(text):
    once = without_markup(text)
    assert without_markup(once) == once


@pytest.mark.parametrize("part", ['<a "', "amp;", "<script>", "<", "<!--", "<b x='", "&lt;", "<b>"])
def test_broken_source_is_read_in_linear_time(part):
    start = time.perf_counter()
    without_markup("&" + part * 20_000 + ">")
    assert time.perf_counter() - start < 5


LEVELS = [{"name": "A &amp; B", "path": ["<i>c</i>", "</span></span>"]}]


def test_tables_are_cleaned_and_what_went_is_counted():
    rows = [
        {
            "item_id": "a",
            "title": "<b>Oak</b> &amp;amp; chair",
            "text": None,
            "tags": ["<i>x</i>", "</span>", "y"],
            "levels": LEVELS,
        },
        {
            "item_id": "b",
            "title": "I <3 you",
            "text": "<script>a()</script><style>b</style>",
            "tags": None,
            "levels": [],
        },
    ]
    tables = (rows, pd.DataFrame(rows), pl.DataFrame(rows), pa.Table.from_pylist(rows))
    for dataset in map(items_of, tables):
        assert dataset.item_texts() == ["Oak & chair", "I <3 you"]
        assert dataset.items["tags"][0] == ["x", "y"]
        assert dataset.items["levels"][0] == [{"name": "A & B", "path": ["c"]}]
        noted = dataset.coverage.noted
        assert (noted["texts_with_markup"], noted["script_and_style_bodies"]) == (7, 2)
    assert "texts_with_markup" not in items_of([{"item_id": "a", "title": "Oak"}]).coverage.noted


def test_category_levels_of_amazon_are_cleaned_one_by_one(tmp_path):
    review = {"reviewerID": "u", "asin": "B1", "overall": 5.0, "unixReviewTime": 3}
    (tmp_path / "X_5.json").write_text(json.dumps(review))
    levels = ["Home &amp; Kitchen", "</span></span>", "Mugs"]
    meta = {"asin": "B1", "title": "Mug", "category": levels, "description": ["<script>x</script>blue"]}
    (tmp_path / "meta_X.json").write_text(json.dumps(meta))
    dataset = read_amazon_2014(tmp_path)
    assert dataset.items["category"][0] == "Home & Kitchen > Mugs"
    assert dataset.item(0)["text"] == "Mug. Category: Home & Kitchen > Mugs. blue."
    assert dataset.coverage.noted["script_and_style_bodies"] == 1


# ---- words, numbers and dates

NULL_WORDS = ["NA", "N/A", "null", "NULL", "NaN", "nan", "None", "#N/A", "-nan", "n/a"]


@pytest.mark.parametrize("ending", [".csv", ".tsv"])
@pytest.mark.parametrize("quote", ["", '"'])
def test_words_that_look_null_are_words(tmp_path, ending, quote):
    tab = "\t" if ending == ".tsv" else ","
    cell = [f"{quote}{word}{quote}" for word in NULL_WORDS]
    events = ["user_id,item_id,timestamp,rating", *(f"{c},{c},{n},{n}" for n, c in enumerate(cell)), "u,,3,NA"]
    items = ["item_id,title,price,brand", *(f"{c},{c},NA,{c}" for c in cell), "z,,3,"]
    for name, lines in (("interactions", events), ("items", items)):
        (tmp_path / f"{name}{ending}").write_text("\n".join(lines).replace(",", tab) + "\n")
    dataset = load_recsys(tmp_path)
    assert sorted(dataset.sequences().user_ids) == sorted(NULL_WORDS)
    assert dataset.item_texts() == [*NULL_WORDS, None]
    assert dataset.items["brand"][:] == [*NULL_WORDS, None]
    assert dataset.items["price"][-1] == 3 and dataset.items["price"][0] is None  # among numbers NA is none
    assert dataset.coverage.quarantined == {"null_item_id": 1}


def test_words_that_look_null_in_dat_files(tmp_path):
    (tmp_path / "ratings.dat").write_text("NA::null::5::1\nNA::7::5::2\n")
    (tmp_path / "movies.dat").write_text("null::NaN::Drama\n7::NULL::Drama\n")
    dataset = load_recsys(tmp_path)
    assert dataset.items["title"][:] == ["NaN", "NULL"] and dataset.sequences().user_ids.tolist() == ["NA"]


@pytest.mark.parametrize("titles", [["300", "1984"], ["1984-05-01", "2001-12-31"], ["007", "1.50"], ["true", "false"]])
def test_text_of_numbers_and_dates_stays_text(tmp_path, titles):
    frame = pd.DataFrame({"item_id": ["a", "b"], "name": titles, "text": [None, None], "code": ["0012", "0130"]})
    frame.to_csv(tmp_path / "items.csv", index=False)
    pd.DataFrame(EVENTS).to_csv(tmp_path / "interactions.csv", index=False)
    dataset = load_recsys(tmp_path, column_mapping={"name": "title"})
    assert dataset.item_texts() == titles and dataset.items["code"][:] == ["0012", "0130"]


def test_titles_of_any_scalar_are_text():
    day = pd.Timestamp("1984-05-01").date()
    for titles, texts in (
        ([300, 1984], ["300", "1984"]),
        ([300.0, None], ["300", None]),
        ([day, None], ["1984-05-01", None]),
    ):
        rows = [{"item_id": i, "title": title} for i, title in zip("ab", titles, strict=True)]
        for table in (rows, pd.DataFrame(rows), pa.Table.from_pylist(rows)):
            assert items_of(table).item_texts() == texts
    mixed = items_of([{"item_id": "a", "title": 300}, {"item_id": "b", "title": ["Oak", "chair"]}])
    assert mixed.item_texts() == ["300", '["Oak", "chair"]']
    listed = items_of([{"item_id": "a", "title": ["Oak", "chair"]}, {"item_id": "b", "title": []}])
    assert listed.item_texts() == ["Oak, chair", None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@quick
@given(st.lists(json_values, min_size=2, max_size=4))
def test_a_column_that_nobody_needs_stops_no_load(values):
    events = [{"user_id": "u", "item_id": "a", "timestamp": n, "extra": v} for n, v in enumerate(values)]
    items = [{"item_id": "a" * (n + 1), "title": "t", "extra": v} for n, v in enumerate(values)]
    dataset = RecDataset.from_tables(events, items)
    assert dataset.n_interactions == dataset.n_items == len(values)


# ---- what is an item's text

COLUMNS = [
    {"item_id": "a", "title": "Oak chair", "colour": "brown", "description": "Sturdy!", "size": 3.0},
    {"item_id": "b", "title": "", "colour": None, "description": "<p>Blue</p>", "size": None},
]


def test_text_columns_are_joined_in_their_order(tmp_path):
    dataset = RecDataset.from_tables(EVENTS, COLUMNS, text_columns=["description", "title", "size", "colour"])
    assert dataset.item_texts() == ["Sturdy! Oak chair. 3. brown", "Blue"]
    assert dataset.steps == [{"step": "text_columns", "columns": ["description", "title", "size", "colour"]}]
    assert "text of an item: `text`, else `title` (not read: `colour`, `description`)" in dataset.describe()
    assert dataset.items["title"][0] == "Oak chair"
    pd.DataFrame(COLUMNS).to_csv(tmp_path / "items.csv", index=False)
    pd.DataFrame(EVENTS).to_csv(tmp_path / "interactions.csv", index=False)
    mapping = {"colour": "shade"}
    for names in (["description", "colour"], ["description", "shade"]):
        read = load_recsys(tmp_path, text_columns=names, column_mapping=mapping)
        assert read.item_texts() == ["Sturdy! brown", "Blue"]
    assert joined(["a.", None, " ", "b"]) == "a. b" and joined([None, ""]) is None


def test_unusable_text_columns_are_refused():
    for columns in (["title", "wat"], ["title", "title"], [], "title", ["item_id"]):
        with pytest.raises(ValueError, match="`text_columns` must be a list of different columns.*'title', 'colour'"):
            RecDataset.from_tables(EVENTS, COLUMNS, text_columns=columns)
    with pytest.raises(ValueError, match="`text_columns`.*there are none"):
        RecDataset.from_tables(EVENTS, text_columns=["title"])


def test_which_columns_are_read_is_said(caplog):
    dataset = items_of(COLUMNS)
    assert "Only the column `title` is read" in caplog.text and "`text_columns`" in caplog.text
    assert "text of an item: `title` (not read: `colour`, `description`)" in dataset.describe()
    caplog.clear()
    RecDataset.from_tables(EVENTS, COLUMNS, text_columns=["title"])
    assert not caplog.text


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_repos_of_others_are_read_by_the_same_rule(tmp_path, ending):
    configs = "\n".join(f"- config_name: {n}\n  data_files: {n}.{ending}" for n in ("interactions", "items"))
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n{configs}\n---\n")
    if ending == "csv":
        (tmp_path / "interactions.csv").write_text("user_id,item_id,timestamp\nNA,007,1\nnull,10.0,2\n")
        (tmp_path / "items.csv").write_text("item_id,title\n007,NA\n10,1984\n")
    else:
        events = [
            {"user_id": u, "item_id": i, "timestamp": 1, "x": x} for u, i, x in [("NA", "007", 1), ("null", 10, [])]
        ]
        items = [{"item_id": "007", "title": "NA", "x": {"a": 1}}, {"item_id": 10, "title": 1984, "x": "b"}]
        for name, rows in (("interactions", events), ("items", items)):
            (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    dataset = load_recsys(tmp_path)
    assert dataset.sequences().user_ids.tolist() == ["NA", "null"]
    assert dataset.item_ids.tolist() == ["007", "10"] and dataset.item_texts() == ["NA", "1984"]
