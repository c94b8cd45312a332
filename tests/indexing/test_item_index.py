"""Questions to an index, exact and over LanceDB, and changes that other openers see."""

import threading

import numpy as np
import pyarrow as pa
import pytest

from vlm2rec_hf.indexing import item_index
from vlm2rec_hf.indexing.conditions import parse_condition
from vlm2rec_hf.indexing.item_index import ItemIndex
from vlm2rec_hf.indexing.rows import OWN, rows_table, schema_of
from vlm2rec_hf.indexing.scoring import Query

from ..forks import in_a_process
from .small_index import Source, facts, metadata, put, small, vector, vectors

IDS = [f"it'em{i}" for i in range(80)]
STORES = ("exact", "lance")
WEIGHTS = ({"both": 1.0}, {"text": 1.0, "image": 0.5}, {"image": 1.0})


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One index per store; tests that change one take one of their own."""
    made = {store: tmp_path_factory.mktemp(store) / "index" for store in STORES}
    for store, folder in made.items():
        small(folder, IDS, store)
    return made


def question(weights, names=("u1", "u2")):
    total = sum(weight * vectors(names)[view].astype(np.float64) for view, weight in weights.items())
    unit = total / np.linalg.norm(total, axis=1, keepdims=True)
    return unit, Query({view: (weight * unit).astype(np.float32) for view, weight in weights.items()}, weights)


def by_hand(unit, weights, ids):
    summed = sum(weight * vectors(ids)[view].astype(np.float64) for view, weight in weights.items())
    return unit @ (summed / np.linalg.norm(summed, axis=1, keepdims=True)).T


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("weights", WEIGHTS, ids=str)
def test_scores_are_cosines_of_weighted_sums(store, weights, folders):
    index = ItemIndex.open(folders[store])
    unit, query = question(weights)
    wanted = by_hand(unit, weights, IDS)
    for row, hits in enumerate(index.search(query, 7)):
        order = np.argsort(-wanted[row])[:7]
        assert hits.item_ids == [IDS[i] for i in order]
        assert hits.scores == pytest.approx(wanted[row][order], abs=1e-6)


CONDITIONS = {
    "less": ({"price": {"<": 10}}, lambda r: r["price"] is not None and r["price"] < 10),
    "between": ({"price": {">=": 5, "<=": 15}}, lambda r: r["price"] is not None and 5 <= r["price"] <= 15),
    "any of": ({"stock": [1, 3]}, lambda r: r["stock"] in (1, 3)),
    "not in": ({"stock": {"not in": [1, 3]}}, lambda r: r["stock"] not in (1, 3)),
    "two columns": ({"sale": True, "stock": {"!=": 0}}, lambda r: r["sale"] and r["stock"] != 0),
    "missing": ({"price": None}, lambda r: r["price"] is None),
    "unequal leaves out missing": ({"price": {"!=": 3}}, lambda r: r["price"] is not None and r["price"] != 3),
    "quotes": ({"title": "t it'em7"}, lambda r: r["title"] == "t it'em7"),
    "id": ({"item_id": ["it'em1", "none"]}, lambda r: r["item_id"] == "it'em1"),
    "or": ({"$or": [{"stock": 1}, {"price": {">": 20}}]},
           lambda r: r["stock"] == 1 or (r["price"] is not None and r["price"] > 20)),
    "not": ({"$not": {"price": {">": 5}}}, lambda r: r["price"] is None or r["price"] <= 5),
    "injection": ({"title": "x' OR '1'='1"}, lambda r: False),
    "nothing": ({"stock": []}, lambda r: False),
    "whole floats": ({"stock": {"in": [1.0, 3], "!=": 3.0, "<": 3.0}}, lambda r: r["stock"] == 1),
    "fractions are in nothing": ({"stock": [1.5, 3.99]}, lambda r: False),
    "fractions among others": ({"stock": [1.5, 3]}, lambda r: r["stock"] == 3),
    "fractions left out": ({"stock": {"not in": [1.5, 3.0]}}, lambda r: r["stock"] != 3),
    "equal to a fraction": ({"$or": [{"stock": 1.5}, {"stock": 2}]}, lambda r: r["stock"] == 2),
    "unequal to a fraction": ({"stock": {"!=": 1.5}}, lambda r: True),
    "between fractions": ({"stock": {">": 0.5, "<": 3.5}}, lambda r: 1 <= r["stock"] <= 3),
    "fractions as bounds": ({"stock": {">=": 0.5, "<=": 3.5}}, lambda r: 1 <= r["stock"] <= 3),
    "negative fractions": ({"stock": {">": -0.5, "<": 0.5}}, lambda r: r["stock"] == 0),
    "the least integer": ({"stock": {">": -(2**63), "<=": 2**63 - 1, "not in": [-(2.0**63)]}}, lambda r: True),
    "all": ({}, lambda r: True),
}  # fmt: skip


@pytest.mark.parametrize("store", STORES)
def test_conditions(store, folders):
    index = ItemIndex.open(folders[store])
    rows = [dict(zip(metadata(IDS), values, strict=True)) for values in zip(*metadata(IDS).values(), strict=True)]
    _, query = question(WEIGHTS[0])
    for name, (condition, holds) in CONDITIONS.items():
        wanted = {row["item_id"] for row in rows if holds(row)}
        for asked in (query, None):
            found = index.search(asked, 100, filter=condition, n_questions=2)
            assert [set(hits.item_ids) for hits in found] == [wanted] * 2, name


@pytest.mark.parametrize(
    "condition",
    [
        {"colour": "red"}, {"price": "cheap"}, {"price": {"<": None}}, {"price": {"between": [1, 2]}}, "price < 3",
        {"stock": {"in": 3}}, {"price": float("nan")}, {"sale": 1}, {"title": {"<": 3}}, {"$or": []},
        {"stock": [2**70]}, {"title": "a\x00"}, {"_source": 1}, {"stock": True},
        {"price": {"<": 10**310}}, {"price": [1, -(10**310)]}, {"stock": 10**310}, {"stock": {"<": 2.0**63}},
    ],
    ids=lambda condition: str(condition)[:40],
)  # fmt: skip
def test_conditions_that_cannot_be_read_are_refused(condition):
    with pytest.raises(ValueError, match="`filter`"):
        parse_condition(condition, {"item_id": "string", **facts().columns})
    deep = {}
    for _ in range(20):
        deep = {"$not": deep}
    with pytest.raises(ValueError, match="nests deeper"):
        parse_condition(deep, {})


@pytest.mark.parametrize("store", STORES)
def test_candidates_exclusions_and_the_most_popular(store, folders):
    index = ItemIndex.open(folders[store])
    unit, query = question(WEIGHTS[0])
    best = index.search(query, 3)
    left = index.search(query, 3, exclude=[best[0].item_ids, []])
    assert not set(left[0].item_ids) & set(best[0].item_ids) and left[1] == best[1]
    chosen = index.search(query, 3, candidates=[IDS[:2], IDS[5:6]])
    assert [set(hits.item_ids) for hits in chosen] == [set(IDS[:2]), {IDS[5]}]
    for asked in (query, None):
        named_twice = index.search(asked, 3, candidates=[[*IDS[:2], *IDS[:2]]] * 2, n_questions=2)
        assert [sorted(hits.item_ids) for hits in named_twice] == [IDS[:2]] * 2
    counts = dict(zip(IDS, metadata(IDS)["_popularity"], strict=True))
    popular = index.search(None, 5)[0]
    assert popular.scores == sorted(counts.values(), reverse=True)[:5]
    assert [counts[item] for item in popular.item_ids] == popular.scores


def test_equal_vectors_tie_by_order_and_zero_vectors_score_zero():
    same = vector("x")
    ids = [f"i{i}" for i in range(70)]
    matrices = {view: np.repeat(row[None], 70, axis=0) for view, row in same.items()}
    for matrix in matrices.values():
        matrix[69] = 0
    index = ItemIndex.in_memory(rows_table(facts(), metadata(ids), matrices), facts())
    _, query = question(WEIGHTS[0])
    hits = index.search(query, 5)[0]
    assert hits.item_ids == ids[:5] and len(set(hits.scores)) == 1
    last = index.search(query, 70)[0]
    assert dict(zip(last.item_ids, last.scores, strict=True))["i69"] == 0


@pytest.mark.parametrize("store", STORES)
def test_changes_are_seen_by_other_openers_and_outlive_folding(store, tmp_path):
    writer = small(tmp_path / "index", IDS[:20], store)
    reader = ItemIndex.open(tmp_path / "index")
    assert not reader.refresh()
    put(writer, "new", IDS[3])
    assert writer.delete([IDS[4], "unknown"]) == 1
    assert "new" not in reader and reader.refresh() and not reader.refresh()
    wanted = {*IDS[:20], "new"} - {IDS[4]}
    _, query = question(WEIGHTS[0], ("new",))
    for _ in range(2):
        for index in (writer, reader, ItemIndex.open(tmp_path / "index")):
            assert set(index.item_ids()) == wanted and len(index) == 20
            assert (index.search(query, 1)[0].item_ids, index.deleted) == (["new"], frozenset([IDS[4]]))
            assert index.search(query, 1)[0].scores == pytest.approx([1.0], abs=1e-6)
            assert [row["title"] for row in index.metadata([IDS[3], "new"])] == [f"t {IDS[3]}", "t new"]
            assert (index.vectors([IDS[3]])["both"] == vectors([IDS[3]])["both"]).all()
        writer.fold()
        assert not list((tmp_path / "index" / "v000001" / "edits").iterdir())
        reader.refresh()
    put(writer, IDS[4])
    assert reader.refresh() and IDS[4] in reader and reader.deleted == frozenset()


def test_others_wait_while_one_reads_and_writes(tmp_path):
    ours = small(tmp_path / "index", IDS[:3])
    theirs = ItemIndex.open(tmp_path / "index")
    put(theirs, "first")
    with ours.changing():
        assert "first" in ours
        waiting = threading.Thread(target=theirs.delete, args=(["first", "second"],))
        waiting.start()
        put(ours, "second")
        waiting.join(0.2)
        assert waiting.is_alive() and {"first", "second"} <= set(ours.item_ids())
    waiting.join(20)
    assert not waiting.is_alive() and ours.refresh() and set(ours.item_ids()) == set(IDS[:3])


@pytest.mark.parametrize("store", STORES)
def test_images_of_changes_are_held_once_and_folded_by_their_bytes(store, tmp_path, monkeypatch):
    index = small(tmp_path / "index", IDS[:3], store)
    reader = ItemIndex.open(tmp_path / "index")
    size, before = 200_000, pa.total_allocated_bytes()
    images = {item: np.random.default_rng(i).bytes(size) for i, item in enumerate(["n0", "n1", "n2", IDS[0]])}

    def put_image(item):
        columns = metadata([item]) | {"_source": [OWN], "_image": [images[item]]}
        index.upsert(columns, vectors([item]), fingerprint="one")
        assert reader.refresh()

    for item in ("n0", "n1", "n2", IDS[0], "n1"):
        put_image(item)
    index.delete(["n2"])
    assert reader.refresh()
    assert pa.total_allocated_bytes() - before < 2 * 3.3 * size  # of three items, in the writer and in the reader
    for one in (index, reader):
        found = one.rows(["n1", IDS[1], "n2", IDS[0]])
        assert (found["item_id"].to_pylist(), found.schema) == (["n1", IDS[1], IDS[0]], schema_of(facts(store)))
        assert found["_image"].to_pylist() == [images["n1"], None, images[IDS[0]]]
        assert one.rows(["n0", "n1"], ["_image", "stock"]).column_names == ["item_id", "_image", "stock"]
    monkeypatch.setattr(item_index, "FOLD_AFTER_BYTES", 5.5 * size)
    edits = tmp_path / "index" / "v000001" / "edits"
    put_image("n0")
    del found
    assert not list(edits.iterdir()) and pa.total_allocated_bytes() - before < size
    put_image("n1")
    assert len(list(edits.iterdir())) == 1
    for one in (index, reader, ItemIndex.open(tmp_path / "index")):
        assert set(one.item_ids()) == {*IDS[:3], "n0", "n1"}
        assert one.rows(["n0", "n1", IDS[0]], ["_image"])["_image"].to_pylist() == [
            images[item] for item in ("n0", "n1", IDS[0])
        ]


def test_changes_far_scattered_are_the_same(tmp_path):
    many = [f"m{i}" for i in range(900)]
    index = small(tmp_path / "index", many)
    put(index, *many[::-1])
    put(index, *many[::2])
    index.delete(many[1::4])
    for one in (index, ItemIndex.open(tmp_path / "index")):
        left = [item for item in many if item not in many[1::4]]
        assert set(one.item_ids()) == set(left) and len(one) == len(left)
        assert (one.vectors(left)["text"] == vectors(left)["text"]).all()
        one.fold()


def test_a_rebuild_keeps_changes_and_older_readers_serve_on(tmp_path):
    folder = tmp_path / "index"
    old = small(folder, IDS[:10])
    put(old, "new")
    old.delete([IDS[0]])

    class Slow(Source):
        """Something changes while it works."""

        def tables(self, earlier):
            yield from super().tables(earlier)
            put(old, "late")
            old.delete([IDS[1]])

    from vlm2rec_hf.indexing.rebuilding import write_index

    same = write_index(folder, lambda: Slow(IDS[:12]))
    wanted = {*IDS[2:12], "new", "late"}
    assert set(same.item_ids()) == wanted and same.version == "v000002"
    assert old.refresh() and old.version == "v000002" and not old.superseded
    other = small(folder, IDS[:12], fingerprint="two")
    assert set(other.item_ids()) == wanted
    assert (other.vectors(["late"])["text"] == vectors(["late"], "two")["text"]).all()
    assert not old.refresh() and old.superseded and set(old.item_ids()) == wanted
    with pytest.raises(ValueError, match="switched to another model"):
        put(old, "more")
    with pytest.raises(ValueError, match="another version of the model"):
        other.upsert(metadata(["x"]), vectors(["x"]), fingerprint="one")
    small(folder, IDS[:12], fingerprint="two")
    assert sorted(path.name for path in folder.glob("v*")) == ["v000002", "v000003", "v000004"]
    small(folder, IDS[:12], fingerprint="two")
    assert sorted(path.name for path in folder.glob("v*")) == ["v000003", "v000004", "v000005"]
    assert old.search(None, 3)[0].item_ids and not old.refresh()


def test_two_builders_and_bad_rows_are_refused(tmp_path, monkeypatch):
    from vlm2rec_hf.indexing import versions

    index = small(tmp_path / "index", IDS[:5])
    monkeypatch.setattr(versions, "FOLD_WAITS", 1)
    with versions.IndexFolder(tmp_path / "index").building():
        with pytest.raises(ValueError, match="being built by another process"):
            small(tmp_path / "index", IDS[:5])
        put(index, "n")
        index.fold()  # not now: the builder counts on the changes' files
        assert len(list((tmp_path / "index" / "v000001" / "edits").iterdir())) == 1
    for columns, match in (
        ({"item_id": ["a", "a"]}, "twice"),
        ({"item_id": [""]}, "empty"),
        ({"item_id": ["a"], "colour": ["red"]}, "'colour', which is no column"),
        ({"item_id": ["a"], "price": ["cheap"]}, "'price' takes values of type double"),
    ):
        with pytest.raises(ValueError, match=match):
            index.upsert(columns, vectors(columns["item_id"]), fingerprint="one")
    with pytest.raises(ValueError, match="must be finite"):
        broken = {view: matrix * np.nan for view, matrix in vectors(["a"]).items()}
        index.upsert({"item_id": ["a"]}, broken, fingerprint="one")
    with pytest.raises(ValueError, match="holds no index"):
        ItemIndex.open(tmp_path / "nothing")
    with pytest.raises(ValueError, match="does not hold, such as 'zz'"):
        index.vectors(["zz"])


def test_killed_before_every_50th_file_operation_nothing_acknowledged_is_lost(tmp_path):
    assert in_a_process("tests.indexing.kill_everywhere", tmp_path, "exact", 50, 1)["operations"] > 4


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("store", "step", "rounds"), [("exact", 1, 40), ("lance", 5, 20)])
def test_killed_anywhere_nothing_acknowledged_is_lost(store, step, rounds, tmp_path):
    done = in_a_process("tests.indexing.kill_everywhere", tmp_path, store, step, rounds)
    assert done["operations"] > 40 and done["random_kills"] > rounds / 4
