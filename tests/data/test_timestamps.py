"""One rule for times: whatever they come as, their order is that of the moments, and is never guessed."""

import datetime as dt
import gzip
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.data.dataset import RecDataset
from vlm2rec_hf.data.readers import load_recsys, read_recbole
from vlm2rec_hf.data.timestamps import UNITS, cutoff, parse_timestamps

NANOS = st.integers(-(10**18), 4 * 10**18)
ZONES = st.sampled_from(["", "Z", "+00:00", "+02:30", "-0700", "-11", " UTC"])


def parsed(values, **options):
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return parse_timestamps(pa.chunked_array([array]), **options)


def order_of(values, table=list):
    """The order in which a dataset puts events with these times; its items are their places in the input."""
    rows = {"user_id": ["u"] * len(values), "item_id": [str(i) for i in range(len(values))], "timestamp": values}
    if table is list:
        made = [dict(zip(rows, row, strict=True)) for row in zip(*rows.values(), strict=True)]
    else:
        made = table(rows)
    return [int(i) for i in RecDataset.from_tables(made).interactions["item_id"][:]]


def iso(nanos, zone, digits=9):
    offset = 0
    if zone.strip("Z UTC"):
        text = zone.replace(":", "").ljust(5, "0")
        offset = (-1 if text[0] == "-" else 1) * (int(text[1:3]) * 3600 + int(text[3:]) * 60)
    seconds, fraction = divmod(nanos, 10**9)
    moment = dt.datetime(1970, 1, 1) + dt.timedelta(seconds=seconds + offset)
    text = moment.isoformat(sep="T" if nanos % 2 else " ") + f".{fraction:09d}"[: digits + 1]
    return text + zone


# ---- order is kept


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(NANOS, ZONES), min_size=1, max_size=8))
def test_iso_texts_keep_every_nanosecond(events):
    moments = [nanos for nanos, _ in events]
    result = parsed([iso(nanos, zone) for nanos, zone in events])
    assert result.ok.all()
    assert [int(v) * (10**9 // UNITS[result.unit]) for v in result.values] == moments


@settings(max_examples=20, deadline=None)
@given(st.lists(NANOS, min_size=1, max_size=8), st.sampled_from(["ns", "us", "ms", "s"]))
def test_typed_moments_keep_every_tick_in_the_longest_unit_that_holds_them(moments, unit):
    ticks = np.array(moments, dtype=np.int64) // (10**9 // UNITS[unit])
    result = parsed(pa.array(ticks, pa.timestamp(unit)))
    step = UNITS[result.unit] // UNITS[unit] if UNITS[result.unit] >= UNITS[unit] else None
    assert np.array_equal(result.values, ticks * step if step else ticks // (UNITS[unit] // UNITS[result.unit]))
    longer = [u for u in ("ms", "us") if UNITS[u] < UNITS[result.unit]]
    assert all(np.any(ticks % (UNITS[unit] // UNITS[u])) for u in longer)


NEAR = [1_700_000_000_123_456_000 + n for n in (3000, 1000, 2000, 0)]  # within one millisecond
SORTED = [3, 1, 2, 0]


@pytest.mark.parametrize(
    "table",
    [
        list,
        pd.DataFrame,
        lambda rows: pd.DataFrame(rows).astype({"timestamp": object}),
        lambda rows: pd.DataFrame(rows).assign(timestamp=pd.to_datetime(rows["timestamp"]).astype("datetime64[us]")),
        lambda rows: pl.DataFrame(rows, schema_overrides={"timestamp": pl.Datetime("us")}),
        lambda rows: pl.DataFrame(rows, schema_overrides={"timestamp": pl.Datetime("ns")}).lazy(),
        lambda rows: pa.table(
            {**rows, "timestamp": pa.array([t.value for t in rows["timestamp"]], pa.timestamp("ns"))}
        ),
        lambda rows: pd.DataFrame({**rows, "timestamp": [t.isoformat() for t in rows["timestamp"]]}),
        lambda rows: pd.DataFrame({**rows, "timestamp": [np.uint64(t.value) for t in rows["timestamp"]]}),
    ],
)
def test_events_within_a_millisecond_keep_their_order(table):
    assert order_of([pd.Timestamp(n) for n in NEAR], table) == SORTED


def test_nanoseconds_of_pandas_survive_rows_of_objects():
    moments = [pd.Timestamp(1_700_000_000_000_000_000 + n, tz="Europe/Berlin") for n in (2, 0, 1)]
    for table in (list, lambda rows: pd.DataFrame(rows).astype({"timestamp": object}), pd.DataFrame):
        assert order_of(moments, table) == [1, 2, 0]


DAY, NOON, ZONED = dt.date(2024, 5, 1), dt.datetime(2024, 5, 1, 12), dt.datetime(2024, 5, 1, 13, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("moments", "order"),
    [
        ([DAY, ZONED, NOON, None], [0, 2, 1]),
        ([NOON, DAY, pd.Timestamp(ZONED), pd.NaT], [1, 0, 2]),
        ([DAY, pd.Timestamp(NOON) + pd.Timedelta(2, "ns"), pd.Timestamp(NOON) + pd.Timedelta(1, "ns")], [0, 2, 1]),
        ([DAY, np.datetime64("2024-05-01T12:00"), np.datetime64("2024-05-01T11:00")], [0, 2, 1]),
        ([DAY, "2024-05-01 12:00", "2024-05-01 11:00"], [0, 2, 1]),
        ([DAY, 5, NOON], [0, 2]),  # a number among dates is no number of days
    ],
)
def test_dates_among_times_are_midnights(moments, order):
    for table in (list, lambda rows: pd.DataFrame(rows).astype({"timestamp": object})):
        assert order_of(moments, table) == order


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".csv.gz", ".jsonl.gz"])
@pytest.mark.parametrize(
    "times",
    [
        ["2024-05-01 10:00:00.1234562", "2024-05-01 10:00:00.1234561"],
        ["1700000000000000001", "1700000000000000000"],
        ["18446744073709551615", "18446744073709551614"],
    ],
)
def test_files_keep_the_order_also_behind_a_byte_order_mark(tmp_path, ending, times):
    names = ["user_id", "item_id", "timestamp"]
    rows = [dict(zip(names, ("u", str(i), t), strict=True)) for i, t in enumerate(times)]
    if "jsonl" in ending:
        numbers = [
            {**row, "timestamp": int(row["timestamp"])} if row["timestamp"].isdecimal() else row for row in rows
        ]
        text = "\n".join(json.dumps(row) for row in numbers)
    else:
        mark = "\t" if "tsv" in ending else ","
        text = "\n".join(mark.join(row) for row in [names, *(row.values() for row in rows)])
    data = b"\xef\xbb\xbf" + text.encode()
    (tmp_path / f"interactions{ending}").write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)
    dataset = load_recsys(tmp_path)
    assert dataset.interactions["item_id"][:] == ["1", "0"] and len(dataset.quarantine) == 0


def test_a_float_column_of_an_atomic_file_keeps_long_times(tmp_path):
    lines = [
        "user_id:token\titem_id:token\ttimestamp:float",
        *(f"u\t{i}\t170000000000000000{9 - i}" for i in range(3)),
    ]
    (tmp_path / "a.inter").write_text("\n".join(lines))
    assert read_recbole(tmp_path).interactions["item_id"][:] == ["2", "1", "0"]


def test_shards_stand_in_the_order_of_their_numbers(tmp_path):
    import pyarrow.parquet as pq

    (tmp_path / "interactions").mkdir()
    for shard in (1, 2, 10):
        table = pa.table({"user_id": ["u"], "item_id": [str(shard)], "timestamp": [0]})
        pq.write_table(table, tmp_path / "interactions" / f"part-{shard}.parquet")
    assert load_recsys(tmp_path).interactions["item_id"][:] == ["1", "2", "10"]


# ---- numbers


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6))
def test_whole_numbers_of_64_bits_stay_what_they_are(numbers):
    for values in (pa.array(numbers, pa.uint64()), pa.array([str(n) for n in numbers])):
        assert parsed(values).values.tolist() == numbers
    assert order_of(numbers) == sorted(range(len(numbers)), key=numbers.__getitem__)


def test_small_uint64_is_the_same_dataset_as_int64():
    rows = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"]}
    made = [
        RecDataset.from_tables(pd.DataFrame({**rows, "timestamp": np.array([3, 1, 2], kind)}))
        for kind in (np.int64, np.uint64)
    ]
    assert made[0].fingerprint == made[1].fingerprint
    huge = RecDataset.from_tables(pd.DataFrame({**rows, "timestamp": np.array([2**64 - 1, 1, 2], np.uint64)}))
    assert huge.temporal_split(test_from=2**63).interactions["split"][:] == [0, 0, 2]


@pytest.mark.parametrize("kind", [str, Decimal])
def test_numbers_that_a_float_cannot_tell_apart_are_refused(kind):
    apart = [kind("1700000000.25"), kind("1700000000.5"), kind("1700000000.5")]
    assert parsed(apart).values.tolist() == [1700000000.25, 1700000000.5, 1700000000.5]
    with pytest.raises(ValueError, match="1700000000.123456789.*cannot tell apart.*shorter unit"):
        parsed([kind("1700000000.123456788"), kind("1700000000.123456789")])


@pytest.mark.parametrize(
    ("kind", "numbers"),
    [
        (np.float32, [1_700_000_000 + n for n in (20, 0, 10)]),
        (np.float64, [1_700_000_000_000_000_000 + n for n in (20, 0, 10)]),
        (np.float16, [2049, 2048]),
    ],
)
def test_floats_too_large_to_be_told_apart_are_refused(kind, numbers):
    with pytest.raises(ValueError, match=f"`timestamp` holds .* in several rows, as {kind.__name__}.*as integers"):
        parsed(pa.array(np.array(numbers, kind)))
    apart = kind(numbers[0]) * kind(1.5), kind(numbers[0])
    assert parsed(pa.array(np.array(apart))).values.tolist() == [*apart]
    assert parsed(pa.array(np.array([7, 7, np.nan, np.inf], kind))).values.tolist() == [7, 7, 0, 0]
    assert parsed([str(number) for number in numbers * 2]).values.tolist() == numbers * 2


# ---- nothing is guessed


def date_text(day, month, first, mark="/"):
    return mark.join(str(n) for n in ((day, month) if first else (month, day))) + f"{mark}2024"


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 28), st.integers(1, 12)), min_size=1, max_size=6),
    st.booleans(),
    st.sampled_from("/.-"),
)
def test_day_and_month_are_read_as_the_column_settles_them_or_not_at_all(dates, first, mark):
    texts = [date_text(day, month, first, mark) for day, month in dates]
    wanted = [int(dt.datetime(2024, m, d, tzinfo=dt.UTC).timestamp() * 1000) for d, m in dates]
    assert parsed(texts, day_first=first).values.tolist() == wanted
    settled = any(day > 12 for day, _ in dates)
    unclear = any(day <= 12 and day != month for day, month in dates)
    if settled or not unclear:
        assert parsed(texts).values.tolist() == wanted
    else:
        with pytest.raises(ValueError, match=r"`timestamp` holds .*\(day first\) or .*\(month first\).*`day_first`"):
            parsed(texts)


def test_the_message_names_both_readings_and_the_option():
    rows = [{"user_id": "u", "item_id": i, "timestamp": t} for i, t in enumerate(("03/04/2024", "05/04/2024 9:30 PM"))]
    with pytest.raises(ValueError, match=r"'03/04/2024', which is 3 April 2024 .* 4 March 2024 .*no other row"):
        RecDataset.from_tables(rows)
    assert RecDataset.from_tables(rows, day_first=True).interactions["timestamp"][1] == 1_712_352_600_000
    contradiction = ["13/01/2024", "01/13/2024", "02/03/2024"]
    with pytest.raises(ValueError, match="in both ways"):
        parsed(contradiction)
    assert parsed(contradiction, day_first=True).ok.tolist() == [True, False, True]


@pytest.mark.parametrize("text", ["2024-02-30", "2024-13-01", "2024-05-01 24:00:00", "2024-05-01T10:61", "32/01/2024",
                                  "1/1/24", "2024-05-01 13:00 PM", "2024-05-01T10:00:00.1234567891"])  # fmt: skip
def test_what_is_no_moment_is_set_aside(text):
    assert parsed(["2024-05-01", text]).ok.tolist() == [True, False]


def test_a_column_without_any_time_is_refused_with_its_words():
    with pytest.raises(ValueError, match=r"`timestamp` holds nothing that can be read as a time, such as \['soon'\]"):
        parsed(["soon", None, ""])


def test_a_unit_for_dates_is_refused():
    rows = [{"user_id": "u", "item_id": "a", "timestamp": dt.datetime(2024, 5, 1)}]
    for value in (rows[0]["timestamp"], rows[0]["timestamp"].date(), "2024-05-01"):
        with pytest.raises(ValueError, match="`timestamp_unit` 'ms' says how to read numbers.*leave it out"):
            RecDataset.from_tables([{**rows[0], "timestamp": value}], timestamp_unit="ms")


@settings(max_examples=30, deadline=None)
@given(NANOS, st.sampled_from(["s", "ms", "us", "ns"]))
def test_a_cut_is_the_first_tick_not_before_it(nanos, unit):
    step = 10**9 // UNITS[unit]
    for value in (iso(nanos, "Z"), np.datetime64(nanos, "ns"), pd.Timestamp(nanos)):
        assert (cutoff(value, unit, "test_from") - 1) * step < nanos <= cutoff(value, unit, "test_from") * step
