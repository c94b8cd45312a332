"""The ranking losses for sentence-transformers: values, gradients, masks, switches, refusals."""

import json

import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Normalize

from vlm2rec_hf.losses import OBJECTIVES, ViewVectors, VLM2RecLoss
from vlm2rec_hf.sentence_transformers import CachedVLM2RecRankingLoss, VLM2RecRankingLoss

from .sentence_transformer_models import batch_of, catalogue, interactions, save, table

HISTORIES, POSITIVES = interactions()
NEGATIVES = [(positive + 2) % 9 for positive in POSITIVES]


@pytest.fixture(scope="module")
def embedder(tiny, tmp_path_factory):
    """`(SentenceTransformer, our model, processor)`; histories are cut to four items."""
    model, processor = tiny("qwen2_vl", max_history=4)
    return save(model, processor, tmp_path_factory.mktemp("embedder")), model, processor


def gradient(model, terms):
    model.zero_grad()
    torch.stack(list(terms.values())).sum().backward()
    result = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    assert result and all(g.isfinite().all() for g in result.values())
    return result


def largest_difference(first, second):
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max() / (1 + first[name].abs().max())) for name in first)


def views(encoding):
    return ViewVectors(encoding.text, encoding.image, encoding.has_text, encoding.has_image)


def direct_terms(embedder, loss, *columns, ids=None, history_ids=None):
    """The same terms from `VLM2RecLoss` on what our own model says of the same items and histories."""
    _, model, processor = embedder
    items = catalogue()
    users = model.encode_histories([[items[i] for i in history] for history in HISTORIES], processor)
    encoded = model.encode_items([items[i] for column in columns for i in column], processor)
    candidate_ids = torch.tensor([i for column in columns for i in column]) if ids is None else ids
    return loss(
        views(users), views(encoded), candidate_ids[: len(HISTORIES)], candidate_ids,
        torch.arange(len(HISTORIES)), history_ids=history_ids,
    ).terms  # fmt: skip


@pytest.mark.parametrize("loss_class", [VLM2RecRankingLoss, CachedVLM2RecRankingLoss])
@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "modality_dropout"])
def test_the_value_is_that_of_our_loss_on_our_vectors(embedder, objective, loss_class):
    model = embedder[0]
    columns, labels = batch_of(model, table(HISTORIES, POSITIVES, NEGATIVES))
    result = loss_class(model, objective)(columns, labels)
    expected = direct_terms(embedder, VLM2RecLoss(objective), POSITIVES, NEGATIVES)
    assert result.keys() == expected.keys() == set(OBJECTIVES[objective])
    for name, term in expected.items():
        assert float(term) != 0
        torch.testing.assert_close(result[name], term, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("size", [1, 3, 100])
@pytest.mark.parametrize("objective", ["wpcl+crtr", "text_only", "image_only"])
def test_the_cached_gradient_is_the_plain_one(embedder, objective, size):
    model = embedder[0]
    dataset = table(HISTORIES, POSITIVES, NEGATIVES)
    plain = VLM2RecRankingLoss(model, objective)
    cached = CachedVLM2RecRankingLoss(model, objective, mini_batch_size=size)
    terms, cached_terms = plain(*batch_of(model, dataset)), cached(*batch_of(model, dataset))
    for name, term in terms.items():
        torch.testing.assert_close(cached_terms[name], term, rtol=1e-5, atol=1e-5)
    expected = gradient(model, terms)
    assert max(float(g.abs().max()) for g in expected.values()) > 0.01
    assert largest_difference(expected, gradient(model, cached_terms)) < 1e-5


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm"])
def test_cached_and_plain_agree_in_every_family_and_padding(tiny, tmp_path, family, side):
    model, processor = tiny(family, max_history=2)
    processor.tokenizer.padding_side = side
    model = save(model, processor, tmp_path)
    dataset = table(HISTORIES, POSITIVES)
    expected = gradient(model, VLM2RecRankingLoss(model)(*batch_of(model, dataset)))
    result = gradient(model, CachedVLM2RecRankingLoss(model, mini_batch_size=2)(*batch_of(model, dataset)))
    assert largest_difference(expected, result) < 1e-5


def test_dropout_is_replayed(tiny, tmp_path):
    """The second embedding of the cached loss has to draw the masks of the first, or the gradient is another's."""
    model, processor = tiny("qwen2_vl")
    model = save(model, processor, tmp_path).train()
    for layer in model[0].auto_model.vlm.language_model.layers:
        layer.mlp.down_proj = torch.nn.Sequential(layer.mlp.down_proj, torch.nn.Dropout(0.3))
    dataset = table(HISTORIES[:4], POSITIVES[:4])
    result = []
    for loss_class, options in ((VLM2RecRankingLoss, {}), (CachedVLM2RecRankingLoss, {"mini_batch_size": 4})):
        torch.manual_seed(5)
        result.append(gradient(model, loss_class(model, **options)(*batch_of(model, dataset))))
    assert largest_difference(*result) < 1e-5
    torch.manual_seed(6)
    other = gradient(model, VLM2RecRankingLoss(model)(*batch_of(model, dataset)))
    assert largest_difference(result[0], other) > 1e-3


def test_plain_contrastive_training_is_the_librarys_own_loss(embedder):
    model = embedder[0]
    distinct = list(dict.fromkeys(POSITIVES))
    dataset = table(HISTORIES[: len(distinct)], distinct)
    ours = VLM2RecRankingLoss(model, "sft", temperature=0.05)(*batch_of(model, dataset))
    theirs = MultipleNegativesRankingLoss(model, scale=20.0)(*batch_of(model, dataset))
    torch.testing.assert_close(ours["info_nce"], theirs, rtol=1e-5, atol=1e-5)


def test_equal_items_are_no_negatives_with_and_without_ids(embedder):
    """Users 0 and 1 want the same item, and user 2 is offered user 0's as a negative."""
    model = embedder[0]
    positives = [6, 6, *POSITIVES[2:]]
    negatives = [*NEGATIVES[:2], 6, *NEGATIVES[3:]]
    ids = torch.tensor([*positives, *negatives])
    by_content = VLM2RecRankingLoss(model)(*batch_of(model, table(HISTORIES, positives, negatives)))
    labels = [list(pair) for pair in zip(positives, negatives, strict=True)]
    by_id = VLM2RecRankingLoss(model)(*batch_of(model, table(HISTORIES, positives, negatives, label=labels)))
    masked = direct_terms(embedder, VLM2RecLoss(), positives, negatives, ids=ids)
    unmasked = direct_terms(embedder, VLM2RecLoss(), positives, negatives, ids=torch.arange(len(ids)))
    for name in masked:
        torch.testing.assert_close(by_content[name], masked[name], rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(by_id[name], masked[name], rtol=2e-5, atol=2e-5)
        assert abs(float(masked[name] - unmasked[name])) > 1e-3


def test_one_id_per_row_and_history_ids(embedder):
    model = embedder[0]
    loss = VLM2RecRankingLoss(model)
    plain = loss(*batch_of(model, table(HISTORIES, POSITIVES, label=POSITIVES)))
    n_negatives = float(loss.diagnostics["n_negatives"])
    expected = direct_terms(embedder, VLM2RecLoss(), POSITIVES)
    width = max(map(len, HISTORIES))
    seen = torch.tensor([history + [-1] * (width - len(history)) for history in HISTORIES])
    labels = [[positive, *history] for positive, history in zip(POSITIVES, seen.tolist(), strict=True)]
    spared = loss(*batch_of(model, table(HISTORIES, POSITIVES, label=labels)))
    assert float(loss.diagnostics["n_negatives"]) < n_negatives
    expected_spared = direct_terms(embedder, VLM2RecLoss(), POSITIVES, history_ids=seen)
    for name in expected:
        torch.testing.assert_close(plain[name], expected[name], rtol=2e-5, atol=2e-5)
        torch.testing.assert_close(spared[name], expected_spared[name], rtol=2e-5, atol=2e-5)
    assert abs(float(expected["wpcl"] - expected_spared["wpcl"])) > 1e-3


def test_modality_dropout_drops_only_in_training(embedder):
    model = embedder[0]
    dataset = table(HISTORIES, POSITIVES)
    loss = VLM2RecRankingLoss(model, "modality_dropout", modality_dropout=0.9)
    plain = VLM2RecRankingLoss(model, "sft")(*batch_of(model, dataset))["info_nce"]
    torch.manual_seed(0)
    dropped = loss.train()(*batch_of(model, dataset))["info_nce"]
    assert abs(float((dropped - plain).detach())) > 1e-3
    torch.testing.assert_close(loss.eval()(*batch_of(model, dataset))["info_nce"], plain)


@pytest.mark.parametrize("loss_class", [VLM2RecRankingLoss, CachedVLM2RecRankingLoss])
def test_batches_with_nothing_to_learn(embedder, loss_class):
    """One row has no negatives, and texts alone say nothing about images: zero loss, zero gradient, no error."""
    model = embedder[0]
    rows = (table(HISTORIES[:1], POSITIVES[:1]), "wpcl+crtr"), (table([[2], [2, 2]], [2, 2]), "image_only")
    for dataset, objective in rows:
        terms = loss_class(model, objective)(*batch_of(model, dataset))
        model.zero_grad()
        torch.stack(list(terms.values())).sum().backward()
        assert all(float(term.detach()) == 0 for term in terms.values())
        assert all(p.grad is None or not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("loss_class", [VLM2RecRankingLoss, CachedVLM2RecRankingLoss])
def test_evaluation_needs_no_graph(embedder, loss_class):
    model = embedder[0]
    loss = loss_class(model)
    columns = batch_of(model, table(HISTORIES, POSITIVES))
    with torch.no_grad():
        evaluated = loss(*columns)
    trained = loss(*columns)
    for name, term in evaluated.items():
        assert not term.requires_grad
        torch.testing.assert_close(term, trained[name].detach())


@pytest.mark.parametrize("loss_class", [VLM2RecRankingLoss, CachedVLM2RecRankingLoss])
def test_the_configuration_makes_the_same_loss(embedder, loss_class):
    options = {"mini_batch_size": 5} if loss_class is CachedVLM2RecRankingLoss else {}
    loss = loss_class(
        embedder[0], "wpcl", temperature="linear:0.1->0.05", margin="hardest", gather_across_devices=True, **options
    )
    config = json.loads(json.dumps(loss.get_config_dict()))
    assert config["temperature"] == "linear:0.1->0.05@1.0" and config["gather_across_devices"] is True
    assert loss_class(embedder[0], **config).get_config_dict() == config
    assert "2603.17450" in loss.citation
    assert ("2101.06983" in loss.citation) == (loss_class is CachedVLM2RecRankingLoss)


def test_schedules_follow_the_progress(embedder):
    model = embedder[0]
    loss = VLM2RecRankingLoss(model, "sft", temperature="linear:0.5->0.1")
    columns = batch_of(model, table(HISTORIES, POSITIVES))
    with pytest.raises(ValueError, match=r"`temperature` is a schedule.*progress_callback"):
        loss(*columns)
    for progress, temperature in ((0.0, 0.5), (1.0, 0.1)):
        loss.progress = progress
        expected = VLM2RecRankingLoss(model, "sft", temperature=temperature)(*columns)
        torch.testing.assert_close(loss(*columns), expected)


def test_models_that_do_not_add_up_are_refused(embedder, tiny, tmp_path):
    with pytest.raises(ValueError, match="`model` must be .*'Normalize'"):
        VLM2RecRankingLoss(SentenceTransformer(modules=[embedder[0][0], Normalize()]))
    internal = save(*tiny("qwen2_vl", "internal"), tmp_path)
    with pytest.raises(ValueError, match="`model` must be .*with fusion 'internal'"):
        VLM2RecRankingLoss(internal)


def test_bad_arguments_are_named(embedder):
    model = embedder[0]
    with pytest.raises(ValueError, match="`objective`.*'best'"):
        VLM2RecRankingLoss(model, "best")
    with pytest.raises(ValueError, match=r"`modality_dropout`.*1\.0"):
        VLM2RecRankingLoss(model, modality_dropout=1.0)
    with pytest.raises(ValueError, match="`mini_batch_size`.*0"):
        CachedVLM2RecRankingLoss(model, mini_batch_size=0)
    columns, _ = batch_of(model, table(HISTORIES, POSITIVES, NEGATIVES))
    loss = VLM2RecRankingLoss(model)
    with pytest.raises(ValueError, match="`sentence_features` must hold at least two columns.*got 1"):
        loss(columns[:1])
    with pytest.raises(ValueError, match=r"`sentence_features\[1\]`.*without \['input_ids'"):
        loss([columns[0], {"sentence_embedding": torch.zeros(7, 32)}])
    with pytest.raises(ValueError, match=r"`labels` must hold integer.*torch.float32"):
        loss(columns, torch.rand(7))
    with pytest.raises(ValueError, match=r"`labels` must hold.*at least 2.*\(7,\)"):
        loss(columns, torch.arange(7))
    with pytest.raises(ValueError, match=r"`labels`.*7 rows.*\(6, 2\)"):
        loss(columns, torch.zeros(6, 2, dtype=torch.long))
    with pytest.raises(ValueError, match=r"`sentence_features\[2\]` has 6 rows.*7"):
        shorter, _ = batch_of(model, table(HISTORIES[:6], POSITIVES[:6]))
        loss([*columns[:2], shorter[1]])
