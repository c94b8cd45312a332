"""Recommending from an index, for every kind of model: what a shop asks for, and why an item is there."""

import io
import itertools

import numpy as np
import pytest
import torch

from vlm2rec_hf import (
    ItemIndex,
    RecDataset,
    SeqRecConfig,
    SequentialRecommender,
    build_index,
    embed,
    make_demo_shop,
    recommender,
    tiny_vlm,
)
from vlm2rec_hf.loading import load_with_processor
from vlm2rec_hf.recommending.index_building import _EncoderWork, _HeadWork
from vlm2rec_hf.recommending.list_rules import best_of_groups, diversified
from vlm2rec_hf.recommending.shop_lists import ListOptions
from vlm2rec_hf.recommending.together import Question, answer_together

from ..conftest import make_image


@pytest.fixture(scope="module")
def shop():
    made = make_demo_shop(60, n_users=30, missing_images=0.3).dataset()
    rows = []
    for i in range(made.n_items):
        item = made.item(i)
        text = None if i % 9 == 0 and item["image"] else item["text"]
        rows.append({"item_id": made.item_ids[i], "text": text, "image": item["image"], "price": float(i),
                     "model": f"m{i // 3}" if i % 5 else None, "stock": i % 4})  # fmt: skip
    log = made.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    return RecDataset.from_tables(log, rows, name="shop").leave_one_out()


@pytest.fixture(scope="module")
def histories(shop):
    sequences = shop.sequences()
    users = range(6)
    return [
        sequences.item_ids[sequences.items[sequences.offsets[u] : sequences.offsets[u + 1]]].tolist() for u in users
    ]


@pytest.fixture(scope="module")
def made(shop, tiny, tmp_path_factory):
    """An embedder with its index on disk, encoded once; `(model, processor, folder)`."""
    model, processor = tiny("qwen2_vl", max_history=4)
    folder = tmp_path_factory.mktemp("shop") / "index"
    build_index(model.eval(), shop, folder, processor=processor)
    return model, processor, folder


@pytest.fixture
def ready(made, shop, tmp_path):
    """A recommender over a copy of the index."""
    import shutil

    model, processor, folder = made
    shutil.copytree(folder, tmp_path / "index")
    return recommender(model, shop, processor=processor, index=tmp_path / "index")


def head_of(shop, **options):
    torch.manual_seed(0)
    head = SequentialRecommender(SeqRecConfig(n_items=shop.n_items, encoder="sasrec", hidden_size=16, **options))
    head.set_catalogue(list(shop.item_ids), torch.arange(shop.n_items))
    return head.eval()


def same_lists(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.item_ids == other.item_ids
        assert one.scores == pytest.approx(other.scores, abs=1e-6, rel=1e-5)


def test_an_index_gives_the_lists_of_the_plain_recommender(shop, histories, ready, made):
    plain = recommender(made[0], shop, processor=made[1])
    same_lists(ready.recommend(histories, k=10), plain.recommend(histories, k=10))
    for view in ("text", "image"):
        pure = recommender(made[0], shop, processor=made[1], view=view, vectors=embed_of(ready))
        same_lists(ready.recommend(histories, 5, view_weights={view: 2.0}), pure.recommend(histories, 5))
    same_lists(ready.recommend(histories, 5, view_weights={"text": 2, "image": 2}), plain.recommend(histories, 5))
    candidates = [str(item) for item in shop.item_ids[:9]]
    same_lists(
        ready.recommend(histories, 4, candidates=candidates), plain.recommend(histories, 4, candidates=candidates)
    )
    user = str(shop.sequences().user_ids[0])
    same_lists(ready.recommend(users=[user], k=4), plain.recommend(users=[user], k=4))
    assert ready.recommend([[]], k=3)[0].source == plain.recommend([[]], k=3)[0].source == "popularity"


def embed_of(ready):
    from vlm2rec_hf import ItemVectors

    ids = ready.index.item_ids()
    return ItemVectors(ids, {view: torch.from_numpy(np.array(m)) for view, m in ready.index.vectors(ids).items()})


@pytest.mark.parametrize("weights", [None, {"text": 1, "image": 0.5}, {"image": 1}], ids=str)
def test_explanations_add_up_and_left_out_items_are_left_out(weights, histories, ready):
    found = ready.recommend(histories, 4, explain=True, view_weights=weights)
    for history, best in zip(histories, found, strict=True):
        for score, reason in zip(best.scores, best.reasons, strict=True):
            assert len(reason.shares) == (1 if weights == {"image": 1} else 4)
            assert sum(reason.shares.values()) == pytest.approx(score, abs=1e-6)
            assert reason.score == pytest.approx(score, abs=1e-6)
            assert {pull.place for pull in reason.pulls} == set(range(max(0, len(history) - 4), len(history)))
    history, best = histories[0][-4:], found[0]
    strongest = best.reasons[0].pulls[0]
    window = [item for place, item in enumerate(histories[0]) if place >= len(histories[0]) - 4]
    window.pop(strongest.place - (len(histories[0]) - 4))
    again = ready.recommend([window], 1, candidates=best.item_ids[:1], exclude_seen=False, view_weights=weights)[0]
    assert strongest.without == pytest.approx(again.scores[0], abs=1e-5)
    assert strongest.pull == pytest.approx(best.scores[0] - again.scores[0], abs=1e-5)
    alone = ready.explain(history, best.item_ids[0], view_weights=weights)
    assert alone.score == pytest.approx(best.scores[0], abs=1e-5) and alone.reason in alone.to_dict()["reason"]


def test_filters_groups_candidates_per_user_and_diversity(shop, histories, ready):
    options = {"filter": {"price": {"<": 40}, "stock": [1, 2]}, "group_by": "model"}
    everything = ready.recommend(histories, 60, filter=options["filter"])
    for all_of_them, best in zip(everything, ready.recommend(histories, 5, **options), strict=True):
        groups = [item["model"] for item in all_of_them.metadata]
        wanted = [all_of_them.item_ids[i] for i in best_of_groups(groups)][:5]
        assert best.item_ids == wanted and all(item["price"] < 40 for item in best.metadata)
    per_user = [[str(shop.item_ids[i]), str(shop.item_ids[i + 1])] for i in range(len(histories))]
    for ids, best in zip(
        per_user, ready.recommend(histories, 5, candidates=per_user, exclude_seen=False), strict=True
    ):
        assert set(best.item_ids) == set(ids)
    plain, diverse = (ready.recommend(histories[:1], 6, diversity=number)[0] for number in (0.0, 0.7))
    unit = {
        item: row / np.linalg.norm(row)
        for item, row in zip(ready.index.item_ids(), ready.index.vectors(ready.index.item_ids())["both"], strict=True)
    }

    def likeness(best):
        return np.mean([unit[a] @ unit[b] for a, b in itertools.combinations(best.item_ids, 2)])

    assert diverse.item_ids[0] == plain.item_ids[0] and likeness(diverse) < likeness(plain)


def test_diversity_by_hand():
    vectors = np.array([[1.0, 0], [1, 0.01], [0, 1]])
    assert diversified([1.0, 0.99, 0.5], vectors, 3, 0.0) == [0, 1, 2]
    assert diversified([1.0, 0.99, 0.5], vectors, 2, 0.5) == [0, 2]  # 0.49 - 0.5 < 0 - 0
    assert diversified([], vectors[:0], 3, 0.5) == []
    assert best_of_groups(["a", "b", "a", None, None]) == [0, 1, 3, 4]


def test_new_items_are_recommended_read_changed_and_deleted(shop, histories, ready, made):
    image = make_image(5)
    data = io.BytesIO()
    image.save(data, "PNG")
    assert ready.upsert([{"item_id": "new", "text": "red tent", "image": data.getvalue(), "price": 3.0}]) == 1
    other = recommender(made[0], shop, processor=made[1], index=ready.index.path)
    (row,) = other.index.metadata(["new"])
    assert row == {"item_id": "new", "price": 3.0, "model": None, "stock": None, "text": "red tent"}
    expected = made[0].encode_items([{"text": "red tent", "image": image}], made[1])
    assert other.index.vectors(["new"])["both"] == pytest.approx(expected.both.numpy(), abs=1e-5)
    fresh = [*histories[0][:2], {"text": "red tent", "image": image}]
    same_lists(
        other.recommend([[*histories[0][:2], "new"]], 5, exclude_seen=False),
        ready.recommend([fresh], 5, exclude_seen=False),
    )
    assert ready.similar([{"text": "red tent", "image": image}], 1)[0].item_ids == ["new"]
    assert "new" not in ready.similar(["new"], 60)[0].item_ids
    assert ready.upsert([{"item_id": "new", "price": 9.0}, {"item_id": str(shop.item_ids[1]), "stock": 77}]) == 0
    found = other.recommend(histories[:1], 60, filter={"price": 9.0}, exclude_seen=False)[0]
    assert set(found.item_ids) == {"new", str(shop.item_ids[9])}
    assert other.index.metadata([str(shop.item_ids[1])])[0]["stock"] == 77
    again = build_index(made[0], shop, ready.index.path, processor=made[1])
    assert again.metadata(["new"])[0]["price"] == 9.0 and again.metadata([str(shop.item_ids[1])])[0]["stock"] == 77
    assert again.vectors(["new"])["both"] == pytest.approx(expected.both.numpy(), abs=1e-5)
    assert ready.delete(["new"]) == 1 and "new" not in other.recommend(histories[:1], 60)[0].item_ids
    with pytest.raises(ValueError, match="'new'"):
        other.recommend([["new"]])
    assert other.recommend([["new", histories[0][0]]], on_unknown="skip")[0].n_unknown == 1


def test_without_a_named_index_changes_act_in_every_list_too(shop, histories, ready, made):
    plain = recommender(made[0], shop, processor=made[1], vectors=embed_of(ready))
    head = recommender(head_of(shop), shop)
    for ours in (plain, head):
        first, second = ours.recommend(histories[:1], 2)[0].item_ids
        assert ours.similar([first], 1) and type(ours.recommend(histories[:1], 2)[0]).__name__ == "Recommendation"
        assert ours.delete([first]) == 1 and len(ours.index) == shop.n_items - 1
        assert ours.recommend(histories[:1], 1)[0].item_ids == [second]
        assert first not in ours.recommend([[]], shop.n_items)[0].item_ids and "59 items" in repr(ours)
    for ours in (plain, ready):
        ours.upsert([{"item_id": "new", "text": "red tent", "price": 3.0}])
    assert "new" in plain.recommend(histories[:1], shop.n_items)[0].item_ids
    among = ["new", *map(str, shop.item_ids[30:34])]
    same_lists(*(one.recommend([["new"]], 5, candidates=among, exclude_seen=False) for one in (plain, ready)))


def test_what_a_change_does_not_name_stays_as_other_processes_left_it(shop, ready, made):
    other = recommender(made[0], shop, processor=made[1], index=ready.index.path)
    item, second = str(shop.item_ids[3]), str(shop.item_ids[4])
    ready.upsert([{"item_id": item, "price": 99.0, "text": "green lamp"}, {"item_id": "new", "text": "red mug"}])
    assert other.upsert([{"item_id": item, "stock": 7}, {"item_id": "new", "stock": 1}]) == 0
    encode = other.side.item_views

    def slowly(*args):
        """Others write while this one encodes."""
        ready.upsert([{"item_id": item, "price": 98.0}, {"item_id": second, "price": 5.0}])
        ready.delete(["new"])
        return encode(*args)

    other.side.item_views = slowly
    assert other.upsert([{"item_id": item, "text": "blue lamp"}, {"item_id": second, "stock": 3}]) == 1
    with pytest.raises(ValueError, match="'new' needs a text or an image"):
        other.upsert([{"item_id": "new", "stock": 2}])
    ready.upsert([{"item_id": item, "stock": 8}])
    rows = {row["item_id"]: row for row in ready.index.metadata([item, second, "new"])}
    assert {name: rows[item][name] for name in ("price", "stock", "text")} == {
        "price": 98.0, "stock": 8, "text": "blue lamp",
    }  # fmt: skip
    assert (rows[second]["price"], rows[second]["stock"]) == (5.0, 3) and "new" not in rows
    wanted = made[0].encode_items([{"text": "blue lamp"}], made[1]).both.numpy()
    assert ready.index.vectors([item])["both"] == pytest.approx(wanted, abs=1e-5)


def test_a_column_that_is_new_comes_from_the_dataset_for_changed_items_too(shop, ready, made, monkeypatch):
    edited, own, late, untouched = map(str, shop.item_ids[1:5])
    vectors = embed_of(ready)
    ready.upsert([{"item_id": edited, "price": 99.0}, {"item_id": own, "text": "red mug"}])
    ready.upsert([{"item_id": "new", "text": "red tent"}])
    rows = [{**shop.item(i), "item_id": item, "price": 1.0, "brand": f"b{i}"} for i, item in enumerate(shop.item_ids)]
    log = shop.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    newer = RecDataset.from_tables(log, rows, name="shop").leave_one_out()
    tables = _EncoderWork.tables

    def slowly(*args):
        yield from tables(*args)
        ready.upsert([{"item_id": late, "price": 98.0}])

    monkeypatch.setattr(_EncoderWork, "tables", slowly)
    index = build_index(made[0], newer, ready.index.path, processor=made[1], vectors=vectors)
    found = {row["item_id"]: (row["brand"], row["price"]) for row in index.metadata(index.item_ids())}
    places = {str(item): i for i, item in enumerate(newer.item_ids)}
    assert found[edited] == (f"b{places[edited]}", 99.0) and found[late] == (f"b{places[late]}", 98.0)
    assert found[untouched] == (f"b{places[untouched]}", 1.0) and found["new"] == (None, None)
    assert found[own][0] == f"b{places[own]}"
    head = head_of(shop)
    earlier = recommender(head).index.rows([edited, own])
    again = _HeadWork(load_with_processor(head), newer, None, "exact").again(earlier)
    assert again["brand"].to_pylist() == [f"b{places[edited]}", f"b{places[own]}"]


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([{"text": "no id"}], "with an `item_id`"),
        ([{"item_id": "a"}], "'a' needs a text or an image"),
        ([{"item_id": "a", "text": "x", "colour": "red"}], "'colour', which is no column"),
        ([{"item_id": "a", "image": b"no image"}], "image of 'a' cannot be read"),
        ([{"item_id": "a", "image": "/etc/passwd"}], "image of 'a' cannot be read"),
        ([{"item_id": "a", "text": "x"}, {"item_id": "a", "text": "y"}], "'a' twice"),
        ([{"item_id": "a", "text": "x", "price": "cheap"}], "'price' takes values"),
        ([{"item_id": "a\ud800", "text": "x"}], "half a character"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_items_that_cannot_go_in_are_named(rows, match, ready):
    before = len(ready.index)
    with pytest.raises(ValueError, match=match):
        ready.upsert(rows)
    assert len(ready.index) == before


def test_half_a_character_is_kept_as_it_is_encoded_and_nothing_is_put_in_for_nothing(ready):
    assert ready.upsert([]) == 0
    ready.upsert([{"item_id": "half", "text": "red \ud83d tent", "model": "\ud83d"}])
    (known,) = ready.index.metadata(["half"])
    assert known["text"] == "red \ufffd tent" and known["model"] == "\ufffd"
    again = ready.side.item_views([{"text": known["text"], "image": None}])["text"]
    assert np.allclose(ready.index.vectors(["half"])["text"], again, atol=1e-6)


def test_what_does_not_fit_is_refused(shop, histories, ready, made, tiny, tmp_path):
    for options, match in (
        ({"group_by": "colour"}, "`group_by`"), ({"diversity": 2}, "`diversity`"), ({"k": 0}, "`k`"),
        ({"view_weights": {"text": -1}}, "`view_weights`"), ({"view_weights": {"sound": 1}}, "`view_weights`"),
        ({"filter": {"colour": "red"}}, "`filter`"), ({"candidates": ["zz"]}, "`candidates`"),
        ({"candidates": [["a"]]}, "one list per history"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=match):
            ready.recommend(histories[:2], **{"k": 3, **options})
    with pytest.raises(ValueError, match="exactly one of `histories` and `users`"):
        ready.recommend()
    assert ready.similar([]) == ready.recommend([]) == []
    with pytest.raises(ValueError, match="`group_by` is 'colour'"):
        ready.similar(histories[0][:1], group_by="colour")
    textless = str(shop.item_ids[shop.item_texts().index(None)])
    with pytest.raises(ValueError, match="`items` holds one that does not have a text or an image"):
        ready.similar([textless], view_weights={"text": 1})
    with pytest.raises(ValueError, match="`item_ids` must be a list of ids, got the text"):
        ready.delete(textless)
    other, processor = tiny("qwen2_vl", max_history=4)
    other.vlm.get_input_embeddings().weight.data += 0.1
    with pytest.raises(ValueError, match="`index` holds vectors of version"):
        recommender(other, shop, processor=processor, index=ready.index.path)
    made[1].item_instruction, before = "Another one:", made[1].item_instruction
    try:
        with pytest.raises(ValueError, match="laid out otherwise"):
            recommender(made[0], shop, processor=made[1], index=ready.index.path)
    finally:
        made[1].item_instruction = before
    only = build_index(made[0], shop, tmp_path / "both", processor=made[1], views=["both"], vectors=embed_of(ready))
    one_view = recommender(made[0], shop, processor=made[1], index=only)
    same_lists(one_view.recommend(histories, 5), ready.recommend(histories, 5))
    assert list(one_view.explain(histories[0], str(shop.item_ids[0])).shares) == ["both"]
    with pytest.raises(ValueError, match="holds the views"):
        one_view.recommend(histories, view_weights={"text": 1, "image": 0.5})


def test_ids_only_heads_recommend_from_their_catalogue(shop, histories, ready, tmp_path):
    head = head_of(shop)
    plain = recommender(head)
    for index in (ready.index.path, build_index(head, shop, tmp_path / "own")):
        ours = recommender(head, shop, index=index)
        same_lists(ours.recommend(histories, 6), plain.recommend(histories, 6))
        found = ours.recommend(histories, 6, filter={"price": {"<": 30}}, explain=True)
        for one in found:
            assert all(item["price"] < 30 for item in one.metadata)
            for score, reason in zip(one.scores, one.reasons, strict=True):
                assert sum(reason.shares.values()) == pytest.approx(score, abs=1e-5)
    assert plain.similar(histories[0][:1], 3)[0].item_ids and plain.recommend([[]], 2)[0].source == "popularity"
    ready.upsert([{"item_id": "new", "text": "red tent"}])
    ours = recommender(head, shop, index=ready.index.path)
    assert "new" not in ours.recommend(histories, 100)[0].item_ids
    with pytest.raises(ValueError, match="embedder"):
        ours.upsert([{"item_id": "x", "text": "x"}])
    with pytest.raises(ValueError, match="new item"):
        ours.recommend([[{"text": "red tent"}]])


def test_content_heads_take_new_items_of_their_embedders_index(shop, histories, ready, made):
    vectors = embed(made[0], shop, processor=made[1])
    head = head_of(shop, item_representation="content", content_dims={"both": vectors.views["both"].shape[1]})
    head.set_content({"both": vectors.views["both"]}, embedder_revision=ready.index.facts.revision)
    ours = recommender(head, shop, index=ready.index.path)
    same_lists(ours.recommend(histories, 6), recommender(head).recommend(histories, 6))
    ready.upsert([{"item_id": "new", "text": "red tent", "image": make_image(1)}])
    ready.delete([histories[1][0]])
    found = ours.recommend([["new", histories[0][0]], histories[0]], 100)
    assert "new" in found[1].item_ids and histories[1][0] not in found[1].item_ids
    by_hand = head_of(shop, item_representation="content", content_dims={"both": vectors.views["both"].shape[1]})
    by_hand.load_state_dict(head.state_dict())
    by_hand.add_items({"both": torch.from_numpy(np.array(ready.index.vectors(["new"])["both"]))}, ["new"])
    wanted = by_hand.recommend([["new", histories[0][0]]], 100)[0]
    scores = dict(zip(wanted.item_ids, wanted.scores, strict=True))
    assert found[0].scores == pytest.approx([scores[item] for item in found[0].item_ids], abs=1e-5)
    assert len(head.catalogue) == shop.n_items  # the caller's head stays as it was
    head.config.embedder_revision = "another"
    with pytest.raises(ValueError, match="embedder_revision"):
        recommender(head, shop, index=ready.index.path)


@pytest.mark.parametrize("on_disk", [False, True])
def test_heads_see_changes_of_an_index_object_that_they_share(on_disk, shop, histories, ready, made):
    embedder = ready if on_disk else recommender(made[0], shop, processor=made[1], vectors=embed_of(ready))
    head = head_of(shop, item_representation="content", content_dims={"both": embedder.index.facts.views["both"]})
    content = {"both": torch.from_numpy(np.array(embedder.index.vectors(list(shop.item_ids))["both"]))}
    head.set_content(content, embedder_revision=embedder.index.facts.revision)
    ours = recommender(head, shop, index=embedder.index)
    assert ours.recommend(histories[:1], 100, exclude_seen=False)[0].item_ids
    embedder.upsert([{"item_id": "new", "text": "red tent"}])
    embedder.delete([histories[1][0]])
    (found,) = ours.recommend(histories[:1], 100, exclude_seen=False)
    assert "new" in found.item_ids and histories[1][0] not in found.item_ids


def test_a_head_lists_items_that_the_dataset_does_not_hold(shop, histories, tmp_path):
    head = head_of(shop)
    head.catalogue.titles[:] = [f"title {item}" for item in head.catalogue.ids]
    log = shop.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    kept = set(head.catalogue.ids[:40])
    rows = [{"item_id": item, "title": "of the dataset", "price": 1.0} for item in sorted(kept)]
    part = RecDataset.from_tables(log[log.item_id.isin(kept)], rows).leave_one_out()
    ours = recommender(head, part)
    plain = ours.recommend(histories[:2], 60)
    for index in (None, build_index(head, part, tmp_path / "own")):
        lists = recommender(head, part, index=index).recommend(histories[:2], 60, explain=True)
        same_lists(lists, plain)
        titles = {item["item_id"]: (item["title"], item["price"]) for one in lists for item in one.metadata}
        assert len(titles) > 40
        for item, said in titles.items():
            assert said == (("of the dataset", 1.0) if item in kept else (f"title {item}", None))


def test_new_items_given_as_features_are_told_apart():
    rng = np.random.default_rng(0)
    model, processor = tiny_vlm("parts", ["mug"], feature_size=8, hidden_size=32)
    rows = [{"item_id": f"i{i}", "text": "mug", "image_features": rng.normal(size=(4, 8)).tolist()} for i in range(9)]
    log = [{"user_id": f"u{i % 3}", "item_id": f"i{i}", "timestamp": i} for i in range(9)]
    ours = recommender(model, RecDataset.from_tables(log, rows), processor=processor)
    new = [{"text": "mug", "image_features": 4 * rng.normal(size=(4, 8)).astype(np.float32)} for _ in range(2)]
    for similar, ask in ((True, ours.similar), (False, lambda rows: ours.recommend([[row] for row in rows]))):
        alone = ask(new)
        assert alone[0].scores != pytest.approx(alone[1].scores, abs=1e-4)
        questions = [Question([one], ListOptions(k=10), similar=similar) for one in new]
        same_lists(answer_together(ours, questions), alone)
    vectors = model.encode_items(new[:1], processor).both[0].numpy()
    items = ours.index.vectors(ours.index.item_ids())["both"]
    cosines = items @ vectors / np.linalg.norm(items, axis=1) / np.linalg.norm(vectors)
    assert ours.similar(new[:1], 9)[0].scores == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert ours.similar([{"image_features": new[0]["image_features"]}], 3)[0].item_ids  # features alone


def test_pixrec_recommends_from_an_index(shop, histories, tiny_pix, tmp_path):
    model, processor = tiny_pix(max_history=4)
    index = build_index(model.eval(), shop, tmp_path / "index", processor=processor)
    ours = recommender(model, shop, processor=processor, index=index)
    same_lists(ours.recommend(histories, 5), recommender(model, shop, processor=processor).recommend(histories, 5))
    ours.upsert([{"item_id": "new", "text": "red tent", "image": make_image(1), "price": 3.0}])
    best = ours.recommend([[{"text": "red tent"}, "new"]], 3, explain=True)[0]
    assert list(best.reasons[0].shares) == ["both"] and isinstance(ours.index, ItemIndex)
