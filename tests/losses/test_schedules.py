"""The notation of schedules and the values they take."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlm2rec_hf.losses import Schedule

numbers = st.floats(-100, 100, allow_nan=False)
shares = st.floats(0, 1, allow_nan=False)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (5, {0.0: 5, 0.5: 5, 1.0: 5}),
        ("0.05", {0.0: 0.05, 1.0: 0.05}),
        ("linear:0->5@0.2", {0.0: 0, 0.1: 2.5, 0.2: 5, 0.21: 5, 1.0: 5}),
        ("linear:0->0.2@0.1-0.5", {0.0: 0, 0.1: 0, 0.3: 0.1, 0.5: 0.2, 1.0: 0.2}),
        ("linear:1->-1", {0.0: 1, 0.5: 0, 1.0: -1}),
        ("cosine:0->4@0.4", {0.0: 0, 0.1: 2 - math.sqrt(2), 0.2: 2, 0.4: 4, 0.9: 4}),
        (" linear: 1e-3 -> 2.5e+1 @ 1e-1 ", {0.0: 0.001, 0.05: 12.5005, 0.1: 25}),
    ],
)
def test_values(text, values):
    schedule = Schedule.parse(text)
    for progress, value in values.items():
        assert schedule(progress) == pytest.approx(value, abs=1e-12), progress


@settings(max_examples=150, deadline=None, derandomize=True)
@given(numbers, numbers, shares, shares, st.sampled_from(["linear", "cosine"]))
def test_string_round_trip_and_bounds(start, end, one, two, kind):
    begin, stop = sorted((one, two))
    if begin == stop:
        begin, stop = 0.0, 1.0
    schedule = Schedule(start, end, begin, stop, kind)
    assert Schedule.parse(str(schedule)) == schedule
    assert schedule(0.0) == pytest.approx(start) if begin > 0 else schedule(0.0) == start
    assert schedule(1.0) == end
    slack = 1e-9 * (1 + abs(start) + abs(end))
    for progress in (0.0, 0.3, begin, stop, 1.0):
        assert schedule.lowest - slack <= schedule(progress) <= schedule.highest + slack


@pytest.mark.parametrize("value", [0.0, 5.0, 1e-7, -2.5])
def test_constant_round_trip(value):
    schedule = Schedule.parse(value)
    assert schedule.kind == "constant" and Schedule.parse(str(schedule)) == schedule
    assert Schedule.parse(schedule) is schedule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("warmup:0->5@0.2", "`schedule` must be a number or a ramp, got 'warmup:0->5@0.2': write a number"),
        ("linear:0-5@0.2", "must be a number or a ramp"),
        ("linear:0->5@", "must be a number or a ramp"),
        ("linear:0->5@1.5", "out of range: `begin` and `stop`"),
        ("linear:0->5@0.5-0.2", "got 0.5 and 0.2"),
        ("linear:0->5@0", "got 0.0 and 0.0"),
        ("nan", "must be a number or a ramp"),
        (float("inf"), "`start` and `end` must be finite"),
        (True, "must be a number or a ramp, got True"),
        (None, "must be a number or a ramp, got None"),
    ],
)
def test_bad_notation(text, message):
    with pytest.raises(ValueError, match=message):
        Schedule.parse(text)


@pytest.mark.parametrize("progress", [-0.1, 1.01, float("nan")])
def test_progress_outside_training(progress):
    with pytest.raises(ValueError, match=r"`progress` must lie in \[0, 1\]"):
        Schedule.parse("linear:0->1@1")(progress)


def test_bad_fields():
    with pytest.raises(ValueError, match="`kind` must be one of"):
        Schedule(0, 1, kind="step")
    with pytest.raises(ValueError, match="`end` must equal `start`"):
        Schedule(0, 1, kind="constant")
