"""Score options in an index: the lists of the plain recommender, in every store, and reasons that add up to them."""

import numpy as np
import pytest

from vlm2rec_hf import (
    ItemIndex,
    ItemVectors,
    RecDataset,
    ScoreOptions,
    build_index,
    embed,
    make_demo_shop,
    recommender,
)
from vlm2rec_hf.evaluation.score_vectors import item_score_vectors
from vlm2rec_hf.recommending.list_rules import diversified

from ..conftest import make_image

PRIOR = ScoreOptions(popularity_prior=2.0)
PARTS = ScoreOptions(popularity_prior=2.0, cross_terms=False, view_weights={"text": 1.0, "image": 0.5})
WEIGHED = ScoreOptions(view_weights={"text": 1.0, "image": 0.25})
ONE_VIEW = ScoreOptions(popularity_prior=1.0, view_weights={"text": 1.0, "image": 0.0})
FOUR = {"text_text", "text_image", "image_text", "image_image"}
BOTH = {"text_text", "image_image"}
CASES = [
    ("exact", PRIOR, {*FOUR, "popularity"}), ("lance", PARTS, {*BOTH, "popularity"}),
    ("exact", WEIGHED, FOUR), ("exact", ONE_VIEW, {"text_text", "popularity"}),
]  # fmt: skip


@pytest.fixture(scope="module")
def shop():
    """Some items lack an image, some a text, and every tenth has neither."""
    made = make_demo_shop(60, n_users=30, missing_images=0.3).dataset()
    rows = []
    for i in range(made.n_items):
        item = made.item(i)
        rows.append({"item_id": made.item_ids[i], "text": None if i % 5 == 0 else item["text"],
                     "image": None if i % 10 == 0 else item["image"], "price": float(i)})  # fmt: skip
    log = made.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    return RecDataset.from_tables(log, rows, name="shop").leave_one_out()


@pytest.fixture(scope="module")
def made(shop, tiny):
    """An embedder and its items' vectors, encoded once."""
    model, processor = tiny("qwen2_vl", max_history=4)
    return model.eval(), processor, embed(model, shop, processor=processor)


@pytest.fixture(scope="module")
def histories(shop):
    """Of users of whom something that is read says something."""
    sequences, silent = shop.sequences(), set(shop.item_ids[::10].tolist())
    rows = [
        sequences.item_ids[sequences.items[sequences.offsets[u] : sequences.offsets[u + 1]]].tolist() for u in range(4)
    ]
    return [row for row in rows if not set(row[-4:]) <= silent]


def built(made, shop, folder, options, **more):
    return build_index(made[0], shop, folder, processor=made[1], score_options=options, **{"vectors": made[2], **more})


def plain(made, shop, options, **more):
    return recommender(made[0], shop, processor=made[1], vectors=made[2], score_options=options, **more)


def same_lists(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.item_ids == other.item_ids
        assert one.scores == pytest.approx(other.scores, abs=1e-6, rel=1e-5)


@pytest.mark.parametrize(
    ("store", "options", "names"), CASES, ids=lambda value: value if value in ("exact", "lance") else ""
)
def test_an_index_ranks_and_explains_by_score_options(store, options, names, shop, made, histories, tmp_path):
    index = built(made, shop, tmp_path / "index", options, store=store)
    assert index.facts.scoring == options.to_dict() and index.facts.views["scored"] >= index.facts.views["both"]
    ours, theirs = plain(made, shop, options, index=index), plain(made, shop, options)
    lists = theirs.recommend(histories, 10)
    bare = plain(made, shop, None).recommend(histories, 10)
    assert [one.item_ids for one in lists] != [one.item_ids for one in bare]
    same_lists(theirs.recommend(histories, 10, filter={"price": {">=": 0}}), lists)  # its own index, in memory
    same_lists(ours.recommend(histories, 60), theirs.recommend(histories, 60))  # zero rows among them
    same_lists(plain(made, shop, options, index=index, view="both").recommend(histories[:2], 10), bare[:2])
    same_lists(ours.recommend(histories[:2], 10, view_weights={"text": 1, "image": 1}), bare[:2])
    among = [str(item) for item in shop.item_ids[:9]]
    same_lists(ours.recommend(histories, 4, candidates=among), theirs.recommend(histories, 4, candidates=among))
    assert all(i["price"] < 20 for i in ours.recommend(histories[:1], 4, filter={"price": {"<": 20}})[0].metadata)
    for best in ours.recommend(histories[:1], 60, explain=True):
        for score, reason in zip(best.scores, best.reasons, strict=True):
            assert set(reason.shares) == names and reason.score == pytest.approx(score, abs=1e-6)
            assert sum(reason.shares.values()) == pytest.approx(score, abs=1e-6)
    if options.popularity_prior:
        counts = dict(zip(map(str, shop.item_ids), shop.popularity(), strict=True))
        for item, reason in zip(best.item_ids, best.reasons, strict=True):
            prior = 0.05 * options.popularity_prior * np.log1p(counts[item])
            silent = not index.vectors([item])["scored"].any()
            assert reason.shares["popularity"] == pytest.approx(0 if silent else prior, abs=1e-6)


def test_what_items_are_like_knows_no_popularity(shop, made, histories):
    scored, bare = (plain(made, shop, options) for options in (PRIOR, None))
    items = [str(shop.item_ids[i]) for i in (1, 2, 5)]
    same_lists(scored.similar(items, 5), bare.similar(items, 5))
    best = scored.recommend(histories[:1], 60)[0]
    vectors = scored.index.vectors(best.item_ids)["both"]
    wanted = [best.item_ids[i] for i in diversified(best.scores[:30], vectors[:30], 3, 0.6)]
    assert scored.recommend(histories[:1], 3, diversity=0.6, exclude_seen=True)[0].item_ids == wanted


def test_items_put_in_have_no_prior_and_known_ones_keep_theirs(shop, made, histories, tmp_path):
    index = built(made, shop, tmp_path / "index", PARTS)
    ours = plain(made, shop, PARTS, index=index)
    known = str(shop.item_ids[int(np.argmax(shop.popularity() * (np.arange(60) % 5 > 0)))])
    place = shop.item_ids.tolist().index(known)
    before = index.vectors([known])["scored"]
    item = shop.item(place)
    new = {"text": "red tent", "image": make_image(3)}
    assert ours.upsert([{"item_id": known, **item}, {"item_id": "new", **new}, {"item_id": "mute", "text": "."}]) == 3
    assert before[0, -1] > 0
    assert index.vectors([known])["scored"] == pytest.approx(before, abs=1e-5)
    views = ItemVectors(["new"], {view: made[0].encode_items([new], made[1]).view(view) for view in ("text", "image")})
    by_hand = item_score_vectors(views.views, PARTS, [0]).numpy()
    assert index.vectors(["new"])["scored"] == pytest.approx(by_hand, abs=1e-5) and by_hand[0, -1] == 0
    found = ours.recommend([["new", *histories[0][-2:]]], 60, explain=True, exclude_seen=False)[0]
    reasons = dict(zip(found.item_ids, found.reasons, strict=True))
    assert reasons["new"].shares["popularity"] == 0 < reasons[known].shares["popularity"]
    assert ours.upsert([{"item_id": known, "price": 1.0}]) == 0
    again = built(made, shop, tmp_path / "index", PARTS)
    for one in (ours.index, again):
        assert one.vectors([known, "new"])["scored"] == pytest.approx(np.concatenate([before, by_hand]), abs=1e-5)


def test_other_options_are_refused_or_built_anew(shop, made, histories, tmp_path):
    index = built(made, shop, tmp_path / "index", PRIOR)
    for options in (None, PARTS):
        with pytest.raises(ValueError, match="`index` holds vectors for the score options .*vlm2rec index"):
            plain(made, shop, options, index=index)
    with pytest.raises(ValueError, match="no item that is read has a text or an image"):
        plain(made, shop, PRIOR, index=index).recommend([[shop.item_ids[0]]])
    ours = plain(made, shop, PRIOR, index=ItemIndex.open(tmp_path / "index"))
    newer = built(made, shop, tmp_path / "index", PARTS)
    same_lists(
        plain(made, shop, PARTS, index=newer).recommend(histories, 5), plain(made, shop, PARTS).recommend(histories, 5)
    )
    same_lists(ours.recommend(histories, 5), plain(made, shop, PRIOR).recommend(histories, 5))
    assert ours.index.superseded
    made[0].config.score_options = PARTS.to_dict()
    try:
        theirs = recommender(made[0], processor=made[1], index=newer)
        assert theirs.recommend([[{"text": "red tent"}]], 5)[0].scores
    finally:
        made[0].config.score_options = None


def test_views_of_an_index_with_score_options(shop, made, histories, tmp_path):
    one = built(made, shop, tmp_path / "scored", PARTS, views=["scored"])
    ours = plain(made, shop, PARTS, index=one)
    best = ours.recommend(histories, 5, explain=True)
    same_lists(best, plain(made, shop, PARTS).recommend(histories, 5))
    assert set(best[0].reasons[0].shares) == {*BOTH, "popularity"}
    with pytest.raises(ValueError, match="holds the views"):
        ours.similar([histories[0][0]])
    two = built(made, shop, tmp_path / "two", PRIOR, views=["both", "scored"])
    (best,) = plain(made, shop, PRIOR, index=two).recommend(histories[:1], 2, explain=True)
    assert set(best.reasons[0].shares) == {"both", "popularity"}
    assert sum(best.reasons[0].shares.values()) == pytest.approx(best.scores[0], abs=1e-6)
    bare = built(made, shop, tmp_path / "both", PRIOR, views=["both"])
    with pytest.raises(ValueError, match="not 'scored', by which the model's score options rank"):
        plain(made, shop, PRIOR, index=bare).recommend(histories)
    with pytest.raises(ValueError, match="`views` must be some of .*scored"):
        built(made, shop, tmp_path / "none", None, views=["both", "scored"])
    half = ItemVectors(made[2].item_ids, {"both": made[2].views["both"]})
    with pytest.raises(ValueError, match="hold the views \\['both'\\], not 'text'"):
        built(made, shop, tmp_path / "none", PARTS, vectors=half)
    assert not (tmp_path / "none" / "index.json").exists()
