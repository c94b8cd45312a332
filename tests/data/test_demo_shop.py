"""The demo shop: deterministic, honest about its own probabilities, hard in the way it claims to be."""

import io

import numpy as np
import pytest
from PIL import Image

from vlm2rec_hf.data.demo_images import COLOURS, SHAPES, draw_product
from vlm2rec_hf.data.demo_shop import BRANDS, COLOUR_NAMES, make_demo_shop
from vlm2rec_hf.evaluation.floors import rank_floors
from vlm2rec_hf.evaluation.metrics import ndcg_at_k
from vlm2rec_hf.evaluation.ranking import rank_targets


@pytest.fixture(scope="module")
def shop():
    return make_demo_shop(120, n_users=400)


@pytest.fixture(scope="module")
def dataset(shop):
    return shop.dataset()


def test_same_seed_same_shop(dataset):
    assert make_demo_shop(120, n_users=400).dataset().fingerprint == dataset.fingerprint
    assert make_demo_shop(120, n_users=400, seed=1).dataset().fingerprint != dataset.fingerprint


def test_titles_hide_the_colour_and_descriptions_tell_it(shop):
    for index in range(120):
        title, description = shop.title(index), shop.description(index)
        assert not any(colour in title for colour in COLOURS)
        assert COLOUR_NAMES[shop.colour[index]] in description
        assert BRANDS[shop.brand[index]] in title and SHAPES[shop.kind[index]] in title


@pytest.mark.parametrize("shape", SHAPES)
def test_the_middle_of_every_image_shows_the_colour(shape):
    rng = np.random.default_rng(3)
    for colour in COLOURS:
        image = np.asarray(Image.open(io.BytesIO(draw_product(shape, colour, rng)))).astype(float)
        assert image.shape == (64, 64, 3)
        distance = np.abs(image - np.array(COLOURS[colour])).max(axis=-1)
        assert (distance < 60).sum() > 60  # enough of the product's colour to see it


def test_nobody_chooses_twice(dataset):
    sequences = dataset.sequences()
    for user in range(sequences.n_users):
        items = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1]]
        assert len(set(items.tolist())) == len(items) >= 6


def test_oracle_scores_are_the_probabilities_of_the_choices(shop, dataset):
    """Calibration: over many choices, chosen items have the mean log-probability that the oracle expects."""
    examples = dataset.examples("train", max_history=12)
    scores = shop.oracle(examples).scores(slice(0, len(examples)))
    for row in range(len(examples)):
        scores[row, examples.seen(row)] = -np.inf
    log_p = scores - np.logaddexp.reduce(scores, axis=1, keepdims=True)
    p = np.exp(log_p)
    chosen = log_p[np.arange(len(examples)), examples.targets]
    expected = np.where(p > 0, p * np.where(p > 0, log_p, 0.0), 0.0).sum(1)
    spread = np.sqrt(np.where(p > 0, p * (np.where(p > 0, log_p, 0.0) - expected[:, None]) ** 2, 0.0).sum(1))
    z = (chosen - expected).sum() / np.sqrt((spread**2).sum())
    assert abs(z) < 4


def test_no_floor_comes_near_the_oracle(shop, dataset):
    examples = dataset.examples("test", max_history=6)
    oracle = ndcg_at_k(rank_targets(shop.oracle(examples), examples, k=10).ranks, 10).mean()
    for name, ranking in rank_floors(examples, k=10).items():
        assert ndcg_at_k(ranking.ranks, 10).mean() < 0.7 * oracle, name


def test_choices_need_both_modalities(dataset, shop):
    """Within a user, brands (text only) and colours (image only) repeat far more often than by chance."""
    sequences = dataset.sequences()
    items = np.array([int(item[1:]) for item in sequences.item_ids])[sequences.items]
    for attribute, size in ((shop.brand, len(BRANDS)), (shop.colour, len(COLOURS))):
        top = [
            np.bincount(attribute[items[a:b]], minlength=size).max() / (b - a)
            for a, b in zip(sequences.offsets[:-1], sequences.offsets[1:], strict=True)
        ]
        assert np.mean(top) > 2.5 / size


def test_missing_images(shop):
    dataset = make_demo_shop(100, n_users=50, missing_images=0.3).dataset()
    assert 55 <= dataset.item_has_image.sum() <= 85


@pytest.mark.parametrize(
    ("options", "name"),
    [({"n_items": 59}, "n_items"), ({"n_items": 100_001}, "n_items"), ({"n_users": 0}, "n_users"),
     ({"history": 3}, "history"), ({"missing_images": 1.0}, "missing_images")],
)  # fmt: skip
def test_bad_sizes_are_refused(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        make_demo_shop(**{"n_items": 60, **options})
