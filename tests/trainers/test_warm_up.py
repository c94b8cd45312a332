"""The warm-up: it learns, repeats itself, and leaves switches as it found them."""

import pytest
import torch

from vlm2rec_hf import PreparedCatalogue, warm_up_backbone
from vlm2rec_hf.trainers.warm_up import encoder_targets, semantic_targets


@pytest.fixture
def warm(tiny, demo_dataset):
    def run(freeze=False, **options):
        model, processor = tiny()
        if freeze:
            model.freeze_vision()
        catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
        descriptions = demo_dataset.items["description"]
        log = warm_up_backbone(model, catalogue, descriptions, **{"steps": 3, "batch_size": 16, **options})
        return model, log

    return run


def test_both_views_learn(warm):
    _, log = warm(steps=40, batch_size=32, learning_rate=3e-3)
    assert [record["step"] for record in log] == [10, 20, 30, 40]
    for view in ("text", "image"):
        assert log[-1][f"loss_{view}"] < log[0][f"loss_{view}"] - 0.1
    assert log[-1]["accuracy_text"] > log[0]["accuracy_text"]


def test_same_seed_same_weights(warm):
    (first, _), (second, _), (other, _) = warm(), warm(), warm(seed=1)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first.parameters(), other.parameters(), strict=True))


def test_a_frozen_tower_is_trained_here_and_frozen_again(warm, tiny):
    before, _ = tiny()
    model, _ = warm(freeze=True)
    assert not any(parameter.requires_grad for parameter in model.vision_parameters())
    assert any(
        not torch.equal(a, b) for a, b in zip(before.vision_parameters(), model.vision_parameters(), strict=True)
    )
    assert all(p.requires_grad for p in model.vlm.language_model.parameters())
    assert not model.training


def test_identity_targets_train(warm):
    _, log = warm(target="identity", steps=20)
    assert log[-1]["loss_text"] < log[0]["loss_text"]


@pytest.fixture(scope="module")
def text_encoder(tmp_path_factory, demo_dataset):
    """A small frozen `SentenceTransformer` in a folder: a random vector per word, averaged."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    from vlm2rec_hf.tiny.backbones import train_tokenizer

    torch.manual_seed(0)
    words = train_tokenizer([text for text in demo_dataset.items["description"] if text], 300).backend_tokenizer
    folder = tmp_path_factory.mktemp("encoder")
    SentenceTransformer(modules=[StaticEmbedding(words, embedding_dim=12)], device="cpu").save(str(folder))
    return str(folder)


def test_views_learn_to_match_a_text_encoder(warm, text_encoder, demo_dataset):
    from sentence_transformers import SentenceTransformer

    texts = [text for text in demo_dataset.items["description"] if text]
    targets = encoder_targets([*texts, None, " "], text_encoder)
    own = SentenceTransformer(text_encoder, device="cpu").encode(texts, normalize_embeddings=True)
    torch.testing.assert_close(targets[:-2], torch.from_numpy(own))
    assert not targets[-2:].any()
    _, log = warm(target=f"encoder:{text_encoder}", steps=20, batch_size=32, learning_rate=3e-3)
    assert log[-1]["loss_text"] < log[0]["loss_text"] - 0.1


@pytest.mark.parametrize(("target", "said"), [("encoder:", "or 'encoder:MODEL'"), ("encoder:./no/such", "no/such")])
def test_a_text_encoder_that_is_not_there_is_named(warm, target, said):
    with pytest.raises(ValueError, match=said):
        warm(target=target)


def test_semantic_targets_mean_something():
    texts = ["red tent by Alpina", "red tent by Halden", None, "blue mug by Alpina", "green mug", ""]
    targets = semantic_targets(texts, dimension=8)
    assert targets.shape[0] == 6
    assert torch.allclose(targets[[0, 1, 3, 4]].norm(dim=-1), torch.ones(4), atol=1e-5)
    assert not targets[2].any() and not targets[5].any()
    assert targets[0] @ targets[1] > targets[0] @ targets[4]
    assert torch.equal(targets, semantic_targets(texts, dimension=8))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"target": "nothing"}, "`target`"), ({"steps": 0}, "`steps`"), ({"batch_size": 1}, "`batch_size`")],
)
def test_bad_options_are_refused(warm, options, message):
    with pytest.raises(ValueError, match=message):
        warm(**options)


def test_what_it_cannot_do_is_refused(tiny, demo_dataset):
    items = demo_dataset.catalogue_items()
    model, processor = tiny("qwen2_vl", "internal")
    with pytest.raises(ValueError, match="external"):
        warm_up_backbone(model, PreparedCatalogue(items, processor), ["a"] * len(items))
    model, processor = tiny()
    with pytest.raises(ValueError, match="`descriptions`"):
        warm_up_backbone(model, PreparedCatalogue(items, processor), None)
    with pytest.raises(ValueError, match="at least 2"):
        semantic_targets(["only one", None])
    cached = PreparedCatalogue(items, processor).cache_features(model)
    with pytest.raises(ValueError, match="`catalogue`"):
        warm_up_backbone(model, cached, demo_dataset.items["description"])


@pytest.mark.parametrize("steps", [1, 10, 11])
def test_any_number_of_steps_runs(warm, steps):
    _, log = warm(steps=steps)  # the library's one-cycle schedule divides by zero at 10
    assert log[-1]["step"] == steps


def test_flags_mode_and_memory_are_as_before_even_after_an_error(tiny, demo_dataset, monkeypatch):
    from vlm2rec_hf.trainers import warm_up

    model, processor = tiny()
    model.freeze_vision()
    flags = [parameter.requires_grad for parameter in model.parameters()]
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    descriptions = demo_dataset.items["description"]
    warm_up_backbone(model, catalogue, descriptions, steps=2, batch_size=8)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags
    assert all(parameter.grad is None for parameter in model.parameters())
    monkeypatch.setattr(warm_up, "_view_losses", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        warm_up_backbone(model, catalogue, descriptions, steps=2, batch_size=8)
    assert [parameter.requires_grad for parameter in model.parameters()] == flags and not model.training


def test_the_global_random_state_is_left_alone(warm):
    torch.manual_seed(11)
    state = torch.get_rng_state()
    warm(target="identity")
    assert torch.equal(torch.get_rng_state(), state)


def test_too_little_to_learn_from_is_refused(tiny):
    model, processor = tiny()
    with pytest.raises(ValueError, match="`descriptions` hold no word"):
        semantic_targets(["a", "b", "c"])
    nothing = PreparedCatalogue([{"text": "red tent"}, {}, {}], processor)
    with pytest.raises(ValueError, match="`catalogue` must hold at least 2 items"):
        warm_up_backbone(model, nothing, ["red tent", "blue mug", "green lamp"])


def test_items_without_a_description_or_a_view_are_no_obstacle(tiny, items):
    model, processor = tiny()
    catalogue = PreparedCatalogue([*items, {}], processor)
    descriptions = ["red tent", "blue mug", None, "green lamp", "lamp by Alpina", "grey noise", "empty item"]
    log = warm_up_backbone(model, catalogue, descriptions, steps=3, batch_size=4)
    assert all(torch.isfinite(parameter).all() for parameter in model.parameters())
    assert log[-1]["loss_text"] > 0
