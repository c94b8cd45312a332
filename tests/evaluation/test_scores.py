"""Scores with options: their closed form, what is missing, a world in which the truth is known, and reports."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlm2rec_hf import PreparedCatalogue, ScoreOptions, VLM2RecEmbedder, choose_score_options, evaluate, make_demo_shop
from vlm2rec_hf.data.sequences import TEST, TRAIN, VALIDATION, Sequences, make_examples
from vlm2rec_hf.evaluation import (
    average_count,
    evaluate_embedder,
    item_score_vectors,
    ndcg_at_k,
    rank_scored,
    try_score_options,
    user_score_vectors,
)

COUNTS = np.array([0, 3, 50, 7, 900])
CHOICES = [
    ScoreOptions(),
    ScoreOptions(popularity_prior=0.5, temperature=0.1),
    ScoreOptions(cross_terms=False),
    ScoreOptions(popularity_prior=1.25, cross_terms=False, view_weights={"text": 1.0, "image": 0.5}),
    ScoreOptions(view_weights={"text": 0.25, "image": 1.0}),
    ScoreOptions(popularity_prior=1.0, view_weights={"text": 1.0, "image": 0.0}),
    ScoreOptions(popularity_prior=0.75, new_item_count=6.5),
]


def views(n, seed, dim=6):
    """Unit vectors as an embedder gives them: row 0 has neither text nor image, row 1 no image, row 2 no text."""
    parts = torch.nn.functional.normalize(
        torch.randn(2, n, dim, generator=torch.Generator().manual_seed(seed)), dim=-1
    )
    parts[:, 0], parts[1, 1], parts[0, 2] = 0, 0, 0
    return {"text": parts[0], "image": parts[1], "both": parts[0] + parts[1]}


def closed_form(user, item, count, options):
    """The equation, a number at a time."""
    a, b = options.view_weights["text"], options.view_weights["image"]

    def inner(x, y):
        own = a * float(x[0] @ y[0]) + b * float(x[1] @ y[1])
        return own + (a * b) ** 0.5 * float(x[0] @ y[1] + x[1] @ y[0]) if options.cross_terms else own

    lengths = inner(user, user), inner(item, item)
    if min(lengths) <= 0:
        return 0.0
    prior = options.temperature * options.popularity_prior * math.log(1 + (count or options.new_item_count))
    return inner(user, item) / math.sqrt(lengths[0] * lengths[1]) + prior


def test_where_no_item_has_an_image_only_priors_are_tried():
    """The rest would change nothing but rounding, and internal fusion refuses it."""
    text = views(40, 0)["text"]
    same = {"text": text, "image": torch.zeros_like(text), "both": text}
    sequences = Sequences(
        np.array(["u", "v"]), np.arange(40).astype(str), np.array([0, 3, 6]), np.array([3, 4, 5, 6, 7, 8]),
        np.array([TRAIN, VALIDATION, TEST] * 2, dtype=np.int8),
    )  # fmt: skip
    users = {name: value[[3, 6]] for name, value in same.items()}
    trials = try_score_options(users, same, make_examples(sequences, "validation"))
    assert len(trials) > 3 and not any(trial.options.needs_parts for trial in trials)


@pytest.mark.parametrize("options", CHOICES, ids=str)
def test_the_score_equals_its_closed_form(options):
    users, items = views(4, 0), views(5, 1)
    left, right = user_score_vectors(users, options), item_score_vectors(items, options, COUNTS)
    width = 6 * (1 if options.cross_terms else 2) + (options.popularity_prior > 0)
    assert left.shape == (4, width) and right.shape == (5, width)
    for u in range(4):
        for i in range(5):
            user = users["text"][u].double(), users["image"][u].double()
            item = items["text"][i].double(), items["image"][i].double()
            expected = closed_form(user, item, COUNTS[i], options)
            assert float(left[u] @ right[i]) == pytest.approx(expected, abs=1e-6)


def test_what_has_nothing_to_encode_stays_zero_and_new_items_have_the_prior_of_their_count():
    options = ScoreOptions(popularity_prior=1.0, cross_terms=False)
    items = item_score_vectors(views(5, 1), options, [900, 0, 0, 1, 1])
    assert not items[0].any() and not user_score_vectors(views(5, 1), options)[0].any()
    assert items[1:3, -1].tolist() == [0, 0] and float(items[3, -1]) == pytest.approx(0.05 * math.log(2))
    average = average_count([900, 0, 0, 1, 1])
    items = item_score_vectors(views(5, 1), replace(options, new_item_count=average), [900, 0, 0, 1, 1])
    mean_prior = 0.05 * (math.log(901) + 2 * math.log(2)) / 3
    assert items[1:3, -1].tolist() == pytest.approx([mean_prior] * 2) and not items[0].any()
    assert average_count([0, 0]) == average_count([]) == 0


def test_options_are_checked_and_survive_json():
    options = ScoreOptions(0.5, False, {"image": 1, "text": 2}, 0.1)
    assert ScoreOptions.from_dict(json.loads(json.dumps(options.to_dict()))) == options
    assert ScoreOptions.from_dict({}) == ScoreOptions() and ScoreOptions().is_bare
    assert ScoreOptions(view_weights={"text": 2, "image": 2}).is_bare and not options.is_bare
    for wrong, name in (
        ({"popularity_prior": -1}, "popularity_prior"),
        ({"popularity_prior": True}, "popularity_prior"),
        ({"popularity_prior": float("nan")}, "popularity_prior"),
        ({"cross_terms": "no"}, "cross_terms"),
        ({"view_weights": {"text": 1}}, "view_weights"),
        ({"view_weights": {"text": 0, "image": 0}}, "view_weights"),
        ({"view_weights": {"text": -1, "image": 1}}, "view_weights"),
        ({"temperature": 0}, "temperature"),
        ({"new_item_count": -1}, "new_item_count"),
        ({"new_item_count": None}, "new_item_count"),
    ):
        with pytest.raises(ValueError, match=f"`{name}` must .*(got|0)"):
            ScoreOptions(**wrong)
    with pytest.raises(ValueError, match="got \\['prior'\\]"):
        ScoreOptions.from_dict({"prior": 1})


def test_bad_vectors_and_counts_are_named():
    prior, parts = ScoreOptions(popularity_prior=1.0), ScoreOptions(cross_terms=False)
    items = views(5, 1)
    for counts in ([1, 2], [-1, 0, 0, 0, 0], [math.nan] * 5):
        with pytest.raises(ValueError, match="`counts` must hold one number of at least 0 per item"):
            item_score_vectors(items, prior, counts)
    with pytest.raises(ValueError, match="`counts` are required"):
        item_score_vectors(items, prior)
    with pytest.raises(ValueError, match="`views` must hold 'text'"):
        item_score_vectors({"both": items["both"]}, parts)
    with pytest.raises(ValueError, match="internal fusion has only the prior"):
        item_score_vectors({**items, "both": items["text"]}, parts)


@pytest.fixture(scope="module")
def world():
    """Users of 8 tastes, 120 items of skewed popularity, and vectors whose cosine is `tau (log p - log q)`.

    `p(i|u)` is known: `q(i) exp(s(u, i) / tau)`, normalised, with `s` the cosine of taste and item; so contrastive
    training with candidates drawn by `q` would learn `s`. Targets are drawn from `p`.
    """
    rng = np.random.default_rng(0)
    n_items, n_users, tau, dim = 120, 600, 0.2, 8
    vectors = rng.normal(size=(2, n_items, dim))
    vectors /= np.linalg.norm(vectors, axis=2, keepdims=True)
    popularity = 1 / np.arange(1, n_items + 1) ** 1.2
    counts = np.maximum(1, np.round(3000 * popularity / popularity.sum())).astype(int)
    q = (1 + counts) / (1 + counts).sum()
    tastes = rng.normal(size=(2, n_users, dim))
    tastes /= np.linalg.norm(tastes, axis=2, keepdims=True)
    cosine = np.einsum("vud,vid->ui", tastes, vectors) / 2  # text with text and image with image
    p = q * np.exp(cosine / tau)
    p /= p.sum(axis=1, keepdims=True)
    drawn = np.array([rng.choice(n_items, size=2, p=row) for row in p])
    # One user's training sequence carries the counts; the others have one item of history and two held out.
    log = np.repeat(np.arange(n_items), counts)
    items = np.concatenate([log, np.column_stack([np.zeros(n_users, int), drawn]).ravel()])
    split = np.concatenate([np.zeros(len(log), int), np.tile([TRAIN, VALIDATION, TEST], n_users)])
    offsets = np.concatenate([[0], len(log) + 3 * np.arange(n_users + 1)])
    ids = np.array([f"i{i}" for i in range(n_items)], dtype=object)
    users = np.array([f"u{u}" for u in range(n_users + 1)], dtype=object)
    sequences = Sequences(users, ids, offsets, items.astype(np.int32), split.astype(np.int8))

    def sides(parts):
        text, image = torch.tensor(parts).float()
        return {"text": text, "image": image, "both": text + image}

    return sides(tastes), sides(vectors), sequences, p, tau


def test_the_prior_ranks_rightly_where_the_bare_cosine_ranks_wrongly(world):
    users, items, sequences, p, tau = world
    theory = ScoreOptions(1.0, cross_terms=False, temperature=tau)
    scores = user_score_vectors(users, theory) @ item_score_vectors(items, theory, sequences.train_counts()).T
    log_p = np.log(p)
    expected = tau * (log_p - log_p.mean(axis=1, keepdims=True))
    found = (scores - scores.mean(dim=1, keepdim=True)).numpy()
    # The one training click of every other user on item 0 is in the counts, too.
    assert np.abs(found - expected)[:, 1:].max() < 0.05
    test = make_examples(sequences, "test")
    values = {
        name: ndcg_at_k(rank_scored(users, items, test, options, exclude_seen=False).ranks, 10).mean()
        for name, options in {
            "bare": ScoreOptions(),
            "parts": ScoreOptions(cross_terms=False),
            "theory": theory,
        }.items()
    }
    assert values["theory"] > 1.5 * values["parts"] and values["theory"] > 1.5 * values["bare"]


def test_the_choice_on_validation_finds_theory(world):
    users, items, sequences, _, tau = world
    validation = make_examples(sequences, "validation")
    trials = try_score_options(users, items, validation, temperature=tau, exclude_seen=False)
    best = choose_score_options(users, items, validation, temperature=tau, exclude_seen=False)
    average = average_count(sequences.train_counts())
    assert 0 < average < sequences.train_counts().mean()
    assert len(trials) <= 23 and trials[0].options == ScoreOptions(temperature=tau, new_item_count=average)
    assert all(trial.options.new_item_count == average for trial in trials)
    assert best == max(trials, key=lambda trial: trial.value).options
    assert 0.5 <= best.popularity_prior <= 1.25 and not best.cross_terms and best.temperature == tau
    bare = choose_score_options(
        users, items, validation, priors=(0.0,), cross_terms=(True,), view_weights=((1, 1),), exclude_seen=False
    )
    assert bare.is_bare
    with pytest.raises(ValueError, match="`priors` is empty"):
        choose_score_options(users, items, validation, priors=())


def test_vectors_of_internal_fusion_try_priors_alone(world):
    users, items, sequences, _, _ = world
    own = {**items, "both": items["text"]}
    trials = try_score_options({**users, "both": users["text"]}, own, make_examples(sequences, "validation"))
    assert len(trials) == 6 and not any(trial.options.needs_parts for trial in trials)


@pytest.fixture(scope="module")
def shop():
    return make_demo_shop(60, n_users=20).dataset()


def test_reports_show_the_bare_cosine_and_the_score(shop, tiny, tmp_path):
    model, processor = tiny("qwen2_vl", max_history=4)
    options = ScoreOptions(popularity_prior=0.5, cross_terms=False)
    catalogue = PreparedCatalogue(shop.catalogue_items(), processor).cache_features(model)
    bare = evaluate(model, shop, processor=processor, catalogue=catalogue)
    assert bare.views("embedder") == ["text", "image", "both"] and "score_options" not in bare.facts
    given = evaluate(model, shop, processor=processor, catalogue=catalogue, score_options=options)
    model.config.score_options = options.to_dict()
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    again = VLM2RecEmbedder.from_pretrained(tmp_path / "model")
    assert ScoreOptions.of(again.config) == options
    saved = evaluate(tmp_path / "model", shop)
    for report in (given, saved):
        assert report.views("embedder") == ["text", "image", "both", "scored"]
        assert report.facts["score_options"] == {"embedder": options.to_dict()}
        for view in ("text", "image", "both"):
            assert np.array_equal(report.ranks("embedder", view), bare.ranks("embedder", view))
    assert np.array_equal(saved.ranks("embedder", "scored"), given.ranks("embedder", "scored"))
    assert not np.array_equal(saved.ranks("embedder", "scored"), saved.ranks("embedder", "both"))
    result = evaluate_embedder(again, catalogue, shop.examples("test").spread(4), score_options=ScoreOptions())
    assert list(result.rankings) == ["text", "image", "both"] and result.score_options.is_bare


def test_options_that_a_model_cannot_have_are_refused(shop, tiny, tiny_pix):
    model, processor = tiny("qwen2_vl", "internal", max_history=4)
    with pytest.raises(ValueError, match="`score_options` without cross terms .*internal fusion"):
        evaluate(model, shop, processor=processor, max_users=5, score_options=ScoreOptions(cross_terms=False))
    report = evaluate(model, shop, processor=processor, max_users=5, score_options=ScoreOptions(popularity_prior=1.0))
    assert "scored" in report.views("embedder")
    pix, its = tiny_pix(max_history=4)
    with pytest.raises(ValueError, match="`score_options`.*embedders"):
        evaluate(pix, shop, processor=its, max_users=5, score_options=ScoreOptions())
