"""`recommend` and evaluation are two ways to one list, for every kind of model and every dtype."""

import pytest
import torch

from vlm2rec_hf import (
    PreparedCatalogue,
    RecDataset,
    ScoreOptions,
    SeqRecConfig,
    SequentialRecommender,
    embed,
    make_demo_shop,
    recommender,
)
from vlm2rec_hf.data.described_items import DescribedItems
from vlm2rec_hf.evaluation import evaluate_embedder, evaluate_pixrec, rank_head
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS

from ..modeling.dmesr_models import make as make_dmesr
from ..modeling.dmesr_models import random_inputs

K = 10
HEADS = [f"seqrec-{encoder}" for encoder in SEQUENCE_ENCODERS]
WITHOUT_BACKBONE = [*HEADS, "content", "dmesr"]
KINDS = [*WITHOUT_BACKBONE, "vlm2rec-text", "vlm2rec-image", "vlm2rec-both", "internal", "pixrec"]
KINDS += ["vlm2rec-scored", "internal-scored"]


@pytest.fixture(scope="module")
def shop():
    """Some items have no image, some no text, and every fourth of these has neither."""
    made = make_demo_shop(60, n_users=30, missing_images=0.3).dataset()
    items = [made.item(i) for i in range(made.n_items)]
    rows = [
        {"item_id": made.item_ids[i], "text": None if i % 4 == 0 else item["text"],
         "image": None if i % 8 == 0 else item["image"]}
        for i, item in enumerate(items)
    ]  # fmt: skip
    log = made.interactions.to_pandas()[["user_id", "item_id", "timestamp"]]
    return RecDataset.from_tables(log, rows, name="shop").leave_one_out()


def head_of(kind, shop):
    torch.manual_seed(0)
    if kind == "dmesr":
        head = make_dmesr(inputs=random_inputs(shop.n_items))
    else:
        own = {"item_representation": "content", "content_dims": {"both": 12}} if kind == "content" else {}
        encoder = "sasrec" if kind == "content" else kind.split("-")[1]
        head = SequentialRecommender(SeqRecConfig(n_items=shop.n_items, encoder=encoder, hidden_size=16, **own))
        if own:
            head.set_content({"both": torch.randn(shop.n_items, 12)})
    head.set_catalogue(list(shop.item_ids))
    return head.eval()


def lists_of(kind, dtype, shop, tiny, tiny_pix):
    """The recommender of a model, and its evaluation's ranking."""
    if kind in WITHOUT_BACKBONE:
        head = head_of(kind, shop).to(dtype)
        return recommender(head), rank_head(head, shop.examples("test", max_history=head.config.max_length), k=K)
    if kind == "pixrec":
        model, processor = tiny_pix(max_history=4)
        items: object = DescribedItems(shop, None, images=True)
    else:
        fusion = "internal" if kind.startswith("internal") else "external"
        model, processor = tiny("qwen2_vl", fusion, max_history=4)
        if kind.endswith("scored"):  # beside an image, an item without text has no text to compare
            parts = {} if fusion == "internal" else {"cross_terms": False, "view_weights": {"text": 1.0, "image": 0.5}}
            model.config.score_options = ScoreOptions(popularity_prior=0.5, **parts).to_dict()
        items = shop.catalogue_items()
    model, view = model.to(dtype).eval(), kind.split("-")[1] if "-" in kind else None
    default = None if view == "scored" else view
    examples = shop.examples("test", max_history=6)
    evaluate = evaluate_pixrec if kind == "pixrec" else evaluate_embedder
    found = evaluate(model, PreparedCatalogue(items, processor), examples, k=K)
    ranking = found.ranking if kind == "pixrec" else found.rankings[view or "both"]
    return recommender(model, shop, processor=processor, view=default), ranking


def assert_same_list(items, scores, their_items, their_scores, exact):
    """The same items in the same order with the same scores.

    Not exact: but for what lies within a step of bfloat16. Some CPUs round its attention by how far a row is padded.
    """
    step = 2.0**-8
    if exact:
        assert items == their_items
    assert scores == pytest.approx(their_scores, **({"rel": 1e-5, "abs": 1e-6} if exact else {"abs": step}))
    ours, theirs = dict(zip(items, scores, strict=True)), dict(zip(their_items, their_scores, strict=True))
    for item in ours | theirs:  # one that is only in one list was as good as the other's last
        assert ours.get(item, scores[-1]) == pytest.approx(theirs.get(item, their_scores[-1]), abs=step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_list_is_the_same(kind, dtype, shop, tiny, tiny_pix):
    ours, ranking = lists_of(kind, dtype, shop, tiny, tiny_pix)
    examples = shop.examples("test", max_history=6)
    histories = [shop.item_ids[examples.seen(row)].tolist() for row in range(len(examples))]
    if kind not in WITHOUT_BACKBONE:
        empty = [shop.item_ids[i] for i in range(0, shop.n_items, 8)]
        assert any(set(history[:-4]) and set(history[-4:]) & set(empty) for history in histories)
    exact = dtype is torch.float32 or kind in WITHOUT_BACKBONE
    found = ours.recommend(histories, k=K)
    alone = [ours.recommend([history], k=K)[0] for history in histories[:5]]
    ways = [found, alone]
    if kind.endswith("scored"):
        ways.append(ours.recommend(histories, k=K, filter={"item_id": {"!=": ""}}))  # by its index
    for recommended in ways:
        for row, one in enumerate(recommended):
            items, scores = shop.item_ids[ranking.top_items[row]].tolist(), ranking.top_scores[row].tolist()
            assert_same_list(one.item_ids, one.scores, items, scores, exact)


@pytest.mark.parametrize("kind", ["seqrec-sasrec", "dmesr"])
def test_vectors_that_are_no_numbers_are_refused(kind, shop):
    head = head_of(kind, shop)
    if kind == "dmesr":
        head.inputs, head.fused_items[3, 1] = None, torch.inf
    else:
        head.item_embedding.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match=f"`model` gives 1 vectors with NaN.*{shop.item_ids[3]!r}"):
        head.recommend([[shop.item_ids[0]]])
    head = head_of("seqrec-sasrec", shop)
    head.encoder.norm.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match="`histories` gives 1 vectors with NaN"):
        head.recommend([[shop.item_ids[0]]])


def test_autocast_changes_no_score(shop):
    head = head_of("seqrec-sasrec", shop)
    history = [shop.item_ids[:3].tolist()]
    plain = head.recommend(history, k=60)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.recommend(history, k=60) == plain


def test_a_history_of_which_nothing_read_says_anything_is_named(shop, tiny):
    model, processor = tiny("qwen2_vl", max_history=2)
    bare = [shop.item_ids[0], shop.item_ids[8]]
    ours = recommender(model, shop, processor=processor)
    assert len(ours.recommend([[bare[0], shop.item_ids[1]]], k=3)[0].item_ids) == 3
    with pytest.raises(ValueError, match="no item has a text or an image among the last 2"):
        ours.recommend([[shop.item_ids[1], *bare]])


def test_vectors_on_disk_give_the_scored_list(shop, tiny, tmp_path):
    model, processor = tiny("qwen2_vl", max_history=4)
    options = ScoreOptions(popularity_prior=1.0, cross_terms=False)
    path = embed(model, shop, processor=processor).save(tmp_path / "items.parquet")
    history = [shop.item_ids[1:4].tolist()]
    given = {"processor": processor, "score_options": options}
    (there,) = recommender(model, shop, vectors=path, **given).recommend(history)
    (here,) = recommender(model, shop, **given).recommend(history)
    (bare,) = recommender(model, shop, view="both", **given).recommend(history)
    assert there.item_ids == here.item_ids and there.scores == pytest.approx(here.scores, abs=1e-6)
    assert there.item_ids != bare.item_ids and max(bare.scores) <= 1 + 1e-6
