"""With `scored=True`, sentence-transformers compares what the embedder's score options say."""

import json
import shutil

import pytest
import torch
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from vlm2rec_hf import ScoreOptions, VLM2RecEmbedder
from vlm2rec_hf.evaluation import item_score_vectors, user_score_vectors
from vlm2rec_hf.hub_cards.publish import publish_model
from vlm2rec_hf.sentence_transformers import as_queries, write_sentence_transformer_files

PARTS = [
    ScoreOptions(cross_terms=False),
    ScoreOptions(popularity_prior=0.75, cross_terms=False, view_weights={"text": 1.0, "image": 0.5}),
    ScoreOptions(popularity_prior=0.5, view_weights={"text": 0.25, "image": 1.0}),
]
WHOLE = [ScoreOptions(), ScoreOptions(popularity_prior=1.0, temperature=0.1)]


def saved(tiny, folder, options, fusion="external", **files):
    model, processor = tiny(fusion=fusion)
    model.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text()) | {"score_options": options and options.to_dict()}
    (folder / "config.json").write_text(json.dumps(config))
    processor.save_pretrained(folder)
    write_sentence_transformer_files(folder, processor, VLM2RecEmbedder.config_class.from_pretrained(folder), **files)
    return model, processor


def assert_same_scores(transformer, model, processor, items, options):
    """Cosines and the prior are the score; items without an image and without a text among them."""
    histories = [items, items[:2], [items[0]], [items[2]]]
    counts = [7 * number for number in range(len(items))]
    found = transformer.similarity(
        transformer.encode_query(as_queries(histories)), transformer.encode_document(items)
    ) + torch.from_numpy(options.prior(counts))
    users = user_score_vectors(model.encode_histories(histories, processor), options)
    expected = users @ item_score_vectors(model.encode_items(items, processor), options, counts).T
    assert expected.std() > 0.01
    assert (found - expected).abs().max() < 1e-5


@pytest.mark.parametrize("options", PARTS + WHOLE, ids=str)
def test_the_scores_are_those_of_an_evaluation(tiny, items, tmp_path, options):
    model, processor = saved(tiny, tmp_path, options, scored=True)
    transformer = SentenceTransformer(str(tmp_path), device="cpu")
    assert_same_scores(transformer, model, processor, items, options)
    width = model.config.hidden_size * (1 if options.cross_terms else 2)
    assert transformer.get_embedding_dimension() == width == transformer.encode(items).shape[1]
    assert (tmp_path / "1_Dense").exists() == (options in PARTS)
    vectors = AutoModel.from_pretrained(tmp_path).eval().encode_items(items, processor)
    assert torch.equal(vectors.both, model.encode_items(items, processor).both)
    transformer.save_pretrained(str(tmp_path / "again"))
    assert_same_scores(SentenceTransformer(str(tmp_path / "again"), device="cpu"), model, processor, items, options)


def test_views_still_add_up(tiny, items, tmp_path):
    saved(tiny, tmp_path, PARTS[1], scored=True)
    item = next(one for one in items if isinstance(one, dict) and len(one) == 2)
    text, image, both = SentenceTransformer(str(tmp_path), device="cpu").encode([item["text"], item["image"], item])
    assert abs(both - text - image).max() < 1e-6 and not (text * image).any()


def test_internal_fusion_has_the_prior_alone(tiny, items, tmp_path):
    model, processor = saved(tiny, tmp_path, WHOLE[1], fusion="internal", scored=True)
    assert_same_scores(SentenceTransformer(str(tmp_path), device="cpu"), model, processor, items, WHOLE[1])


def test_published_and_loaded_by_id(hub, tiny, items, tmp_path):
    model, processor = saved(tiny, tmp_path, PARTS[1], scored=True)
    publish_model(tmp_path, "org/scored", tag="v1.0")
    assert "1_Dense/model.safetensors" in HfApi().list_repo_files("org/scored")
    transformer = SentenceTransformer("org/scored", revision="v1.0", device="cpu")
    assert_same_scores(transformer, model, processor, items, PARTS[1])
    layer = tmp_path / "1_Dense/model.safetensors"
    save_file(load_file(layer), layer, metadata={"format": "pt"})  # the same weights in a file of other bytes
    publish_model(tmp_path, "org/again", verify=False)


def test_a_layer_of_other_options_is_not_published(hub, tiny, tmp_path):
    saved(tiny, tmp_path / "first", PARTS[0], scored=True)
    shutil.copytree(tmp_path / "first", tmp_path / "second")
    config = json.loads((tmp_path / "second/config.json").read_text()) | {"score_options": PARTS[1].to_dict()}
    (tmp_path / "second/config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="1_Dense is not what `score_options` in config.json say"):
        publish_model(tmp_path / "second", "org/scored")
    publish_model(tmp_path / "first", "org/scored", verify=False)
    (tmp_path / "first/1_Dense/model.safetensors").unlink()
    with pytest.raises(ValueError, match="lacks 1_Dense/model.safetensors, without which"):
        publish_model(tmp_path / "first", "org/scored", verify=False)


@pytest.mark.parametrize(
    ("options", "files", "message"),
    [
        (None, {}, "`config.score_options` is None"),
        (PARTS[0], {"similarity": "dot"}, "`similarity` must be 'cosine' with `scored`"),
        (PARTS[0], {"truncate_dim": 8}, "`truncate_dim` 8 would cut"),
    ],
)
def test_what_does_not_fit_is_refused(tiny, tmp_path, options, files, message):
    with pytest.raises(ValueError, match=message):
        saved(tiny, tmp_path, options, scored=True, **files)
    assert not (tmp_path / "modules.json").exists() and not (tmp_path / "1_Dense").exists()


def test_files_written_again_without_scores_give_the_bare_vectors(tiny, items, tmp_path):
    model, processor = saved(tiny, tmp_path, PARTS[0], scored=True)
    saved(tiny, tmp_path, PARTS[0])
    found = SentenceTransformer(str(tmp_path), device="cpu").encode_document(items)
    assert (torch.from_numpy(found) - model.encode_items(items, processor).both).abs().max() < 1e-5
