"""What an embedder keeps of histories: the vectors of `encode_histories`, from what is new alone, in a budget."""

import numpy as np
import pytest
import torch

from vlm2rec_hf import make_demo_shop, recommender
from vlm2rec_hf.recommending.kept_histories import KeptHistories
from vlm2rec_hf.recommending.shop_lists import ListOptions
from vlm2rec_hf.recommending.together import Question, answer_together

MUCH = 1e9


@pytest.fixture(scope="module")
def shop():
    return make_demo_shop(60, n_users=20, missing_images=0.2).dataset()


@pytest.fixture(scope="module")
def embedder(tiny):
    return tiny("qwen2_vl", max_history=4)


@pytest.fixture
def ready(embedder, shop):
    """A recommender that keeps histories, and its items' ids."""
    made = recommender(embedder[0], shop, processor=embedder[1])
    assert made.side.keep_histories(MUCH)
    return made, made.index.item_ids()


@pytest.fixture
def tokens(embedder, monkeypatch):
    """How many tokens each pass of the language model reads."""
    read = []
    family = embedder[0].family
    real = type(family).run
    monkeypatch.setattr(
        type(family), "run", lambda self, vlm, ids, *rest: read.append(ids.numel()) or real(self, vlm, ids, *rest)
    )
    return read


def same(one, other):
    for view, matrix in other.items():
        np.testing.assert_allclose(one[view], matrix, atol=1e-5, err_msg=view)


def test_growing_sliding_and_other_histories_are_as_read_anew(ready):
    made, ids = ready
    steps = [
        [ids[:1], ids[5:7]],
        [ids[:2], ids[5:9]],  # one more; two more
        [ids[:2], ids[5:10]],  # nothing new; the window slides
        [ids[:4], ids[6:14]],  # two more; nothing of the old is left but two
        [[*ids[:3], ids[7]], [ids[3], ids[3], ids[3]]],  # another last item; another history of one item thrice
        [[], [ids[3]] * 6],
        [ids[20:24], ids[:1]],
    ]
    for histories in steps:
        same(made.side.user_views(histories, users=["anna", "bert"]), made.side.user_views(histories))
    assert len(made.side.kept) == 2 and made.side.kept.forgotten == 0


def test_a_click_costs_its_own_tokens_and_no_image_twice(ready, tokens, monkeypatch):
    made, ids = ready
    made.side.user_views([ids[:3]], users=["anna"])
    whole = sum(tokens)
    tokens.clear()
    made.side.user_views([ids[:3]], users=["anna"])
    assert tokens == []
    made.side.user_views([ids[:4]], users=["anna"])
    assert 0 < sum(tokens) < 0.6 * whole
    tokens.clear()
    made.side.user_views([ids[:4]])
    assert sum(tokens) > whole


def test_the_budget_is_kept_and_who_was_asked_for_longest_ago_goes_first(embedder, ready):
    made, ids = ready
    made.side.user_views([ids[:4]], users=["anna"])
    one = made.side.kept.nbytes
    kept = made.side.kept = KeptHistories(*embedder, 3.5 * one)
    for round_ in range(3):
        for number in range(6):
            history = ids[number : number + 1 + round_]
            same(made.side.user_views([history], users=[f"u{number}"]), made.side.user_views([history]))
            assert kept.nbytes <= 3.5 * one and len(kept) <= 4
    assert kept.forgotten > 6 and f"u{number}" in kept._places and "u0" not in kept._places
    # More users at once than the budget has room for are answered all the same.
    many = [ids[i : i + 4] for i in range(8)]
    same(made.side.user_views(many, users=[f"n{i}" for i in range(8)]), made.side.user_views(many))
    assert kept.nbytes <= 3.5 * one
    nothing = made.side.kept = KeptHistories(*embedder, 1)
    same(made.side.user_views(many[:2], users=["a", "b"]), made.side.user_views(many[:2]))
    assert len(nothing) == 0 and nothing.forgotten == 2


def test_an_item_that_changed_is_read_again(embedder, shop, tmp_path):
    from vlm2rec_hf import build_index

    build_index(embedder[0], shop, tmp_path / "index", processor=embedder[1])
    made = recommender(embedder[0], shop, processor=embedder[1], index=tmp_path / "index")
    made.side.keep_histories(MUCH)
    ids = made.index.item_ids()
    made.upsert([{"item_id": "new", "text": "red tent"}])
    history = [[ids[0], "new", ids[1]]]
    before = made.side.user_views(history, users=["anna"])
    made.upsert([{"item_id": "new", "text": "blue mug"}])
    after = made.side.user_views(history, users=["anna"])
    assert not np.allclose(before["both"], after["both"], atol=1e-3)
    same(after, made.side.user_views(history))


def test_questions_of_users_are_answered_as_all_others_are(ready):
    made, ids = ready
    histories = {"anna": ids[:2], "bert": ids[4:7], "carl": ids[4:7]}
    for _ in range(2):
        asked = [Question(history, ListOptions(k=5), user=user) for user, history in histories.items()]
        asked.append(Question([*ids[:2], ids[9]], ListOptions(k=5), user="anna"))  # in the same pass, and longer
        plain = [Question(one.entries, one.options) for one in asked]
        for mine, other in zip(answer_together(made, asked), answer_together(made, plain), strict=True):
            assert mine.item_ids == other.item_ids and mine.scores == pytest.approx(other.scores, abs=1e-5)
        histories = {user: [*history, ids[30]] for user, history in histories.items()}
    assert len(made.side.kept) >= 2


def test_other_weights_are_noticed_and_nothing_stale_is_used(ready, embedder):
    made, ids = ready
    made.side.user_views([ids[:2]], users=["anna"])
    parameter = next(embedder[0].parameters())
    old = parameter.detach().clone()
    with torch.no_grad():
        parameter.mul_(1.5)
    try:
        with pytest.raises(ValueError, match="weights"):
            made.side.user_views([ids[:3]], users=["anna"])
        same(made.side.user_views([ids[:3]], users=["anna"]), made.side.user_views([ids[:3]]))
    finally:
        with torch.no_grad():
            parameter.copy_(old)


def test_a_server_keeps_histories_within_its_setting(embedder, shop):
    from vlm2rec_hf.serving.engine import Engine

    made = recommender(embedder[0], shop, processor=embedder[1])
    engine = Engine(made, MUCH)
    ids = made.index.item_ids()
    (first,) = engine.work([Question(ids[:2], ListOptions(k=3), user="anna")])
    assert engine.histories_kept == 1 and first.source == "model"
    assert Engine(recommender(embedder[0], shop, processor=embedder[1])).histories_kept == 0


def test_what_cannot_keep_histories_says_so(shop, tiny):
    from vlm2rec_hf.trainers.head_models import build_head

    head = build_head(shop, hidden_size=8, max_length=6)
    head.set_catalogue(list(shop.item_ids), torch.from_numpy(shop.sequences().train_counts()))
    side = recommender(head).side
    assert not hasattr(side, "keep_histories")
    one = side.user_views([["p000001"]], users=["anna"])
    np.testing.assert_array_equal(one["both"], side.user_views([["p000001"]])["both"])
    made = recommender(tiny("qwen2_vl")[0], shop, processor=tiny("qwen2_vl")[1])
    assert not made.side.keep_histories(0) and made.side.kept is None
