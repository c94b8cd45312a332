"""Recommending by raw id: exclusion, candidates, cold users, new items, other embedders."""

import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import Encoding, SequentialRecommender
from vlm2rec_hf.modeling.catalogue_seqrec import HeadCatalogue
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS

from .test_seqrec import N, make


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_the_ranking_is_that_of_the_inner_products(encoder, exclude_seen):
    model = make(encoder)
    history = ["i4", "i7", "i4", "i1"]
    (result,) = model.recommend([history], k=6, exclude_seen=exclude_seen)
    user, items = model.encode_histories([[4, 7, 4, 1]])[0], model.item_vectors().detach()
    scores = {f"i{n}": float(user @ items[n]) for n in range(N)}
    if exclude_seen:
        scores = {item: score for item, score in scores.items() if item not in history}
    expected = sorted(scores, key=scores.get, reverse=True)[:6]
    assert result.item_ids == expected
    assert result.scores == pytest.approx([scores[item] for item in expected], abs=1e-5)
    assert result.titles == [f"Title {item[1:]}" if int(item[1:]) % 2 else None for item in expected]
    assert result.source == "model" and result.n_unknown == 0


def test_equal_scores_come_in_catalogue_order():
    model = make()
    with torch.no_grad():
        model.item_embedding.weight[:] = model.item_embedding.weight[0]
    (result,) = model.recommend([["i2"]], k=4)
    assert result.item_ids == ["i0", "i1", "i3", "i4"]


def test_cold_users_get_the_popular_items_and_are_told():
    result = make().recommend([[], ["i29"], ["nobody"]], k=3, on_unknown="skip")
    assert result[0].item_ids == ["i29", "i28", "i27"] and result[0].scores == [29.0, 28.0, 27.0]
    assert [one.source for one in result] == ["popularity", "model", "popularity"]
    assert [one.n_unknown for one in result] == [0, 0, 1]


def test_candidates_bound_the_choice():
    model = make()
    result = model.recommend([["i3"], []], k=10, candidates=["i3", "i9", "i5", "i9"])
    assert set(result[0].item_ids) == {"i5", "i9"} and result[1].item_ids == ["i9", "i5", "i3"]
    whole = model.recommend([["i3"]], k=N)[0]
    assert result[0].item_ids == [item for item in whole.item_ids if item in ("i5", "i9")]
    assert len(whole.item_ids) == N - 1
    assert model.recommend([["i3"]], k=2, candidates=[])[0].item_ids == []


def test_unknown_ids_are_an_error_or_counted():
    model = make()
    with pytest.raises(ValueError, match=r"`histories` names 2 items.*'x'.*on_unknown='skip'"):
        model.recommend([["i1"], ["x", "i2", "y"]])
    skipped = model.recommend([["x", "i2", "y"]], k=3, on_unknown="skip")[0]
    assert skipped.n_unknown == 2 and skipped.item_ids == model.recommend([["i2"]], k=3)[0].item_ids
    with pytest.raises(ValueError, match="`candidates`"):
        model.recommend([["i1"]], candidates=["x"])
    with pytest.raises(ValueError, match="`on_unknown`.*'ignore'"):
        model.recommend([["i1"]], on_unknown="ignore")


def test_bad_calls_are_named():
    model = make()
    with pytest.raises(ValueError, match="`k`.*0"):
        model.recommend([["i1"]], k=0)
    with pytest.raises(ValueError, match="'i1'"):
        model.recommend("i1")
    with pytest.raises(ValueError, match="'i1'"):
        model.recommend(["i1"])
    model.catalogue = None
    with pytest.raises(ValueError, match="set_catalogue"):
        model.recommend([["i1"]])
    with pytest.raises(ValueError, match="`ids`.*30"):
        model.set_catalogue(["a"])
    with pytest.raises(ValueError, match="unique.*'a'"):
        HeadCatalogue(["a", "b", "a"])
    with pytest.raises(ValueError, match="`titles`"):
        HeadCatalogue(["a", "b"], titles=["x"])


def test_no_histories_give_no_recommendations():
    assert make().recommend([]) == []


@pytest.mark.parametrize("representation", ["content", "content+id"])
def test_new_items_are_recommendable_at_once(representation, tmp_path):
    model = make(representation=representation)
    before = model.recommend([["i1", "i2"]], k=N)[0]
    twin = before.item_ids[0]
    place = model.catalogue.index[twin]
    vectors = {view: model.content_buffer(view)[[place]].clone() for view in model.content_views}
    model.add_items(vectors if len(vectors) > 1 else vectors["both"], ["new"], titles=["New one"])
    after = model.recommend([["i1", "i2"]], k=N + 1)[0]
    assert [item for item in after.item_ids if item != "new"] == before.item_ids
    if representation == "content":  # the same content, the same score
        scores = dict(zip(after.item_ids, after.scores, strict=True))
        assert scores["new"] == pytest.approx(scores[twin], abs=1e-6)
    assert model.catalogue.popularity[-1] == 0 and model.catalogue.titles[-1] == "New one"
    assert "new" not in model.recommend([["i1", "new"]], k=N)[0].item_ids  # may be part of a history, too
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    assert again.config.n_items == N + 1
    assert again.recommend([["i1", "new"]], k=5) == model.recommend([["i1", "new"]], k=5)


@pytest.mark.parametrize("representation", ["content", "content+id"])
def test_vectors_may_come_as_what_the_embedder_gives(representation):
    """`Encoding` instead of a mapping: `add_items` and `set_content` take what `encode_items` returns."""
    model, other = make(representation=representation), make(representation=representation)
    sizes = {"both": 6, "text": 6, "image": 6, **model.config.content_dims}
    matrices = {view: torch.randn(2, size) for view, size in sizes.items()}
    yes = torch.ones(2, dtype=torch.bool)
    encoding = Encoding(**matrices, has_text=yes, has_image=yes)
    model.add_items(encoding, ["new", "newer"])
    other.add_items({view: matrices[view] for view in other.content_views}, ["new", "newer"])
    for view in model.content_views:
        assert torch.equal(model.content_buffer(view), other.content_buffer(view))
    matrices = {view: torch.randn(N + 2, size) for view, size in sizes.items()}
    everything = Encoding(**matrices, has_text=torch.ones(N + 2) > 0, has_image=torch.ones(N + 2) > 0)
    model.set_content(everything)
    assert all(torch.equal(model.content_buffer(view), everything.view(view)) for view in model.content_views)


def test_new_items_are_checked():
    with pytest.raises(ValueError, match="`item_representation` is 'id'"):
        make().add_items(torch.zeros(1, 6), ["new"])
    model = make(representation="content")
    with pytest.raises(ValueError, match="already holds.*'i3'"):
        model.add_items(torch.zeros(2, 6), ["new", "i3"])
    with pytest.raises(ValueError, match=r"\(2, 6\)"):
        model.add_items(torch.zeros(1, 6), ["new", "newer"])
    with pytest.raises(ValueError, match="each view"):
        make(representation="content+id").add_items(torch.zeros(1, 6), ["new"])
    assert len(model.catalogue) == model.config.n_items == len(model.content_both) == N


def test_vectors_of_another_embedder_are_refused(tmp_path):
    model = make(representation="content")
    vectors = {"both": torch.randn(N, 6)}
    model.set_content(vectors, embedder="org/embedder", embedder_revision="abc")
    with pytest.raises(ValueError, match="'def'.*'abc'"):
        model.set_content(vectors, embedder="org/embedder", embedder_revision="def")
    with pytest.raises(ValueError, match="'other/one'.*'org/embedder'"):
        model.set_content(vectors, embedder="other/one", embedder_revision="abc")
    with pytest.raises(ValueError, match="`embedder_revision` is 'def'"):
        model.add_items(torch.zeros(1, 6), ["new"], embedder_revision="def")
    model.save_pretrained(tmp_path)
    assert SequentialRecommender.from_pretrained(tmp_path, embedder_revision="abc").config.embedder == "org/embedder"
    with pytest.raises(ValueError, match="`embedder_revision` is 'def'"):
        SequentialRecommender.from_pretrained(tmp_path, embedder_revision="def")


def test_a_catalogue_of_another_size_is_refused(tmp_path):
    make().save_pretrained(tmp_path)
    HeadCatalogue(["a", "b"]).save(tmp_path)
    with pytest.raises(ValueError, match="`ids` must name 30 items"):
        SequentialRecommender.from_pretrained(tmp_path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"item_id": ["a"]}), tmp_path / "catalogue.parquet")
    with pytest.raises(ValueError, match="lacks.*popularity"):
        SequentialRecommender.from_pretrained(tmp_path)
