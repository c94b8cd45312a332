"""Lists are read by place: what numbers its rows by labels, or has no length, gives what the list gives."""

import collections
import types

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from vlm2rec_hf import PreparedCatalogue, SeqRecConfig, SequentialRecommender
from vlm2rec_hf.modeling.items_vlm2rec import check_list
from vlm2rec_hf.sentence_transformers import as_documents, as_queries

TEXTS = ["red tent", "blue mug", "Alpina lamp 3"]
FORMS = {
    "series": lambda values: pd.Series(values, index=range(len(values))[::-1]),
    "named": lambda values: pd.Series(values, index=list("abcdefgh"[: len(values)])),
    "generator": lambda values: (value for value in values),
    "values": lambda values: dict(enumerate(values)).values(),
    "keys": lambda values: dict.fromkeys(values).keys(),
    "array": lambda values: np.array(values, dtype=object),
    "tuple": tuple,
    "deque": collections.deque,
    "index": pd.Index,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read_in_its_order(tiny, form):
    _, processor = tiny()
    make = FORMS[form]
    read = check_list("items", make(TEXTS))
    assert [read[i] for i in range(len(read))] == TEXTS
    assert [tuple(item.text) for item in PreparedCatalogue(make(TEXTS), processor)] == [
        tuple(processor.tokenize_texts([text])[0]) for text in TEXTS
    ]
    assert as_documents(make(TEXTS)) == as_documents(TEXTS)
    if form != "keys":
        histories = [TEXTS[:2], TEXTS[2:]]
        nested = make([make(history) for history in histories]) if form not in ("array", "index") else histories
        assert as_queries(nested) == as_queries(histories)


@pytest.mark.parametrize(
    "value",
    [
        set(TEXTS), frozenset(TEXTS), "text", b"text", {"text": "a"}, types.MappingProxyType({"text": "a"}), 5,
        pd.DataFrame({"text": TEXTS}), np.array("text"), None, torch.tensor(3),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_what_has_no_order_is_named(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        check_list("items", value)


def test_elements_of_another_kind_are_named(tiny):
    _, processor = tiny()
    with pytest.raises(TypeError, match="StringScalar"):
        processor(items=pa.array(TEXTS))


@pytest.mark.parametrize("form", FORMS)
def test_recommend_reads_histories_by_place(form):
    head = SequentialRecommender(SeqRecConfig(n_items=3, hidden_size=8, max_length=5))
    head.set_catalogue(["a", "b", "c"], torch.tensor([3, 2, 1]))
    histories = [["a", "b"], ["c"]]
    outer = FORMS[form] if form not in ("array", "index", "keys") else list
    given = outer([FORMS[form](history) for history in histories])
    expected = [one.scores for one in head.recommend(histories, k=2)]
    assert [one.scores for one in head.recommend(given, k=2)] == expected


def test_lazy_sequences_stay_lazy():
    class Lazy:
        def __len__(self):
            return 3

        def __getitem__(self, index):
            raise AssertionError("read")

    lazy = Lazy()
    assert check_list("items", lazy) is lazy


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["vlm2rec", "pixrec"])
def test_vectors_come_back_in_the_order_of_the_list(tiny, tiny_pix, form, kind):
    model, processor = tiny() if kind == "vlm2rec" else tiny_pix()
    make, histories = FORMS[form], [TEXTS[:2], TEXTS[2:], TEXTS]

    def both(encoding):
        return encoding.both if kind == "vlm2rec" else encoding

    expected = both(model.encode_items(TEXTS, processor))
    assert (both(model.encode_items(make(TEXTS), processor)) - expected).abs().max() < 1e-6
    users = both(model.encode_histories(histories, processor))
    outer = make if form not in ("array", "index", "keys") else list
    for inner in (list, make):
        nested = outer([inner(history) for history in histories])
        assert (both(model.encode_histories(nested, processor)) - users).abs().max() < 1e-6
    nested = outer([make(history) for history in histories])
    batch, wanted = (processor(histories=given)["input_ids"] for given in (nested, histories))
    assert torch.equal(batch, wanted)
    batch, wanted = (processor(items=given)["input_ids"] for given in (make(TEXTS), TEXTS))
    assert torch.equal(batch, wanted)
