import dataclasses
import json

import pytest

from vlm2rec_hf.evaluation.protocol import Protocol

BASE = Protocol(dataset="abc")
CHANGES = {
    "dataset": "abd",
    "split": "validation",
    "exclude_seen": False,
    "k": (5, 10),
    "targets": "last",
    "min_history": 2,
}


@pytest.mark.parametrize("name", CHANGES)
def test_every_field_that_changes_the_question_changes_the_fingerprint(name):
    other = dataclasses.replace(BASE, **{name: CHANGES[name]})
    assert other.fingerprint != BASE.fingerprint
    assert list(BASE.differences(other)) == [name]


def test_sampling_changes_the_fingerprint_by_kind_number_and_seed():
    prints = {
        BASE.fingerprint,
        Protocol("abc", candidates="sampled", n_negatives=100, seed=0).fingerprint,
        Protocol("abc", candidates="sampled", n_negatives=50, seed=0).fingerprint,
        Protocol("abc", candidates="sampled", n_negatives=100, seed=1).fingerprint,
    }
    assert len(prints) == 4


def test_history_length_is_recorded_but_does_not_change_the_question():
    other = dataclasses.replace(BASE, max_history=200)
    assert other.fingerprint == BASE.fingerprint and BASE.differences(other) == {}
    assert other.to_dict()["max_history"] == 200


def test_every_field_is_either_in_the_fingerprint_tests_or_fixed():
    covered = {*CHANGES, "candidates", "n_negatives", "seed", "max_history", "ties"}
    assert {field.name for field in dataclasses.fields(Protocol)} == covered


def test_json_round_trip_keeps_the_fingerprint():
    again = Protocol.from_dict(json.loads(json.dumps(BASE.to_dict())))
    assert again == BASE and again.fingerprint == BASE.fingerprint
    with pytest.raises(ValueError, match="unknown protocol fields.*colour"):
        Protocol.from_dict({**BASE.to_dict(), "colour": 1})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"dataset": ""}, "`dataset`"),
        ({"split": "dev"}, "`split`"),
        ({"candidates": "some"}, "`candidates`"),
        ({"ties": "optimistic"}, "`ties`"),
        ({"targets": "one"}, "`targets`"),
        ({"k": ()}, "`k`"),
        ({"k": (20, 10)}, "`k`"),
        ({"k": (0,)}, "`k`"),
        ({"n_negatives": 100}, "`n_negatives`"),
        ({"candidates": "sampled", "n_negatives": 100}, "`seed`"),
        ({"candidates": "sampled", "n_negatives": 9, "seed": 0, "exclude_seen": False}, "`exclude_seen`"),
        ({"max_history": 0}, "`max_history`"),
        ({"min_history": -1}, "`min_history`"),
    ],
)
def test_bad_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Protocol(**{"dataset": "abc", **values})
