"""The head itself: what it may see, what it returns, what survives saving."""

import copy

import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from vlm2rec_hf import SeqRecConfig, SequentialRecommender
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS
from vlm2rec_hf.modeling.modeling_seqrec import MASK, PADDING

REPRESENTATIONS = {
    "id": {},
    "content": {"content_dims": {"both": 6}},
    "content+id": {"content_dims": {"text": 6, "image": 4}},
}
N = 30


def make(encoder="sasrec", representation="id", **options):
    torch.manual_seed(0)
    config = SeqRecConfig(
        n_items=N, encoder=encoder, hidden_size=16, max_length=8, item_representation=representation,
        **{**REPRESENTATIONS[representation], **options},
    )  # fmt: skip
    model = SequentialRecommender(config).eval()
    if model.content_views:
        model.set_content({view: torch.randn(N, size) for view, size in config.content_dims.items()})
    model.set_catalogue(
        [f"i{n}" for n in range(N)], torch.arange(N), [f"Title {n}" if n % 2 else None for n in range(N)]
    )
    return model


def rows(*lists):
    width = max(map(len, lists))
    return torch.tensor([[*row, *[PADDING] * (width - len(row))] for row in lists])


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec"])
def test_no_state_sees_a_later_item(encoder):
    model = make(encoder)
    row = torch.tensor([[3, 1, 4, 1, 5, 9]])
    before = model(row).last_hidden_state
    for place in range(1, 6):
        changed = row.clone()
        changed[0, place:] = torch.arange(20, 26 - place)
        after = model(changed).last_hidden_state
        assert torch.allclose(before[:, :place], after[:, :place], atol=1e-6)
        assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


def test_bert4rec_sees_both_sides():
    model = make("bert4rec")
    one = model(torch.tensor([[3, MASK, 4]])).last_hidden_state[0, 1]
    assert not torch.allclose(one, model(torch.tensor([[5, MASK, 4]])).last_hidden_state[0, 1], atol=1e-3)
    assert not torch.allclose(one, model(torch.tensor([[3, MASK, 5]])).last_hidden_state[0, 1], atol=1e-3)


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_a_row_is_the_same_alone_and_in_company(encoder):
    model = make(encoder)
    batch = model(rows([3, 1, 4], [2, 7, 1, 8, 2, 8], [5]))
    for place, row in enumerate([[3, 1, 4], [2, 7, 1, 8, 2, 8], [5]]):
        alone = model(torch.tensor([row]))
        assert torch.allclose(batch.user_vectors[place], alone.user_vectors[0], atol=1e-5)
        assert torch.allclose(batch.last_hidden_state[place, : len(row)], alone.last_hidden_state[0], atol=1e-5)


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_an_empty_row_is_a_number_and_disturbs_nobody(encoder):
    model = make(encoder)
    result = model(rows([3, 1, 4], []))
    assert torch.isfinite(result.last_hidden_state).all()
    assert torch.allclose(result.user_vectors[0], model(rows([3, 1, 4])).user_vectors[0], atol=1e-5)


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_histories_are_cut_to_the_most_recent_items(encoder):
    model = make(encoder)
    long = list(range(20))
    kept = 8 - (encoder == "bert4rec")
    result = model.encode_histories([long, long[-kept:], [3]], batch_size=2)
    assert torch.allclose(result[0], result[1], atol=1e-6) and not torch.allclose(result[0], result[2], atol=1e-3)


def test_encoding_histories_leaves_the_mode_alone_and_is_free_of_dropout():
    model = make(dropout=0.5).train()
    one, two = model.encode_histories([[1, 2]]), model.encode_histories([[1, 2]])
    assert torch.equal(one, two) and model.training
    with pytest.raises(ValueError, match="`histories`.*row 1"):
        model.encode_histories([[1], []])
    assert model.training


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_saving_and_loading_is_exact(encoder, representation, tmp_path):
    model = make(encoder, representation)
    model.save_pretrained(tmp_path / "head")
    assert {path.name for path in (tmp_path / "head").iterdir()} >= {
        "config.json", "model.safetensors", "catalogue.parquet", "modeling_seqrec.py", "catalogue_seqrec.py"
    }  # fmt: skip
    assert not [path for path in (tmp_path / "head").iterdir() if path.name.startswith(".writing")]
    again, info = AutoModel.from_pretrained(tmp_path / "head", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    histories = [["i1", "i2"], [], ["i3"] * 20]
    assert again.recommend(histories, k=5) == model.recommend(histories, k=5)
    assert again.catalogue.titles == model.catalogue.titles
    assert AutoConfig.from_pretrained(tmp_path / "head").to_dict() == again.config.to_dict()


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("representation", REPRESENTATIONS)
def test_a_model_built_on_meta_gets_sound_weights(encoder, representation, tmp_path):
    model = make(encoder, representation)
    model.save_pretrained(tmp_path)
    from safetensors.torch import load_file, save_file

    save_file(
        {n: t for n, t in load_file(tmp_path / "model.safetensors").items() if n.startswith("content")}
        or {"item_embedding.weight": model.item_embedding.weight.data},
        tmp_path / "model.safetensors",
        metadata={"format": "pt"},
    )
    with pytest.raises(ValueError, match="they would stay random"):
        SequentialRecommender.from_pretrained(tmp_path)
    # What the library itself would do: fill in the rest, after building on meta.
    fresh = PreTrainedModel.from_pretrained.__func__(SequentialRecommender, tmp_path)
    for name, value in fresh.state_dict().items():
        assert value.device.type == "cpu" and torch.isfinite(value).all() and value.abs().max() < 10, name
        if "norm.weight" in name:
            assert torch.equal(value, torch.ones_like(value))
    assert torch.isfinite(fresh.encode_histories([[1, 2, 3]])).all()


def test_all_state_is_in_the_checkpoint():
    for encoder in SEQUENCE_ENCODERS:
        model = make(encoder, "content+id")
        assert {name for name, _ in model.named_buffers()} == {"content_text", "content_image"}
        assert {name for name, _ in model.named_buffers()} <= set(model.state_dict())


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_the_graph_is_whole(encoder):
    """torch.compile computes the same, and breaks the graph nowhere but at the recurrent kernel."""
    model = make(encoder, "content+id")
    batch = rows([3, 1, 4], [2, 7, 1, 8, 2, 8])
    compiled = torch.compile(model, backend="eager", fullgraph=encoder != "gru4rec")
    assert torch.allclose(compiled(batch).last_hidden_state, model(batch).last_hidden_state, atol=1e-6)


def test_item_vectors_are_projected_content_plus_ids():
    model = make(representation="content+id")
    expected = (
        model.content_text @ model.projections["text"].weight.T
        + model.content_image @ model.projections["image"].weight.T
        + model.item_embedding.weight
    )
    assert torch.allclose(model.item_vectors(), expected, atol=1e-6)
    model.item_vectors().sum().backward()
    assert model.projections["text"].weight.grad.abs().sum() > 0
    assert not model.content_text.requires_grad


def test_id_vectors_start_from_the_principal_components_of_content():
    model = make()
    vectors = torch.randn(N, 40) @ torch.randn(40, 40)
    model.init_ids_from(vectors)
    centred = vectors - vectors.mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    expected = centred @ axes[:16].T
    ours = model.item_embedding.weight.detach()
    assert ours.std() == pytest.approx(model.config.initializer_range, rel=1e-3)
    # distances between items are those of the 16 leading components, up to one scale
    ratio = torch.pdist(ours) / torch.pdist(expected)
    assert ratio.std() / ratio.mean() < 1e-3
    narrow = make()
    before = narrow.item_embedding.weight.detach().clone()
    narrow.init_ids_from(torch.randn(N, 4))
    assert torch.equal(narrow.item_embedding.weight[:, 4:], before[:, 4:])
    with pytest.raises(ValueError, match="`vectors`"):
        narrow.init_ids_from(torch.randn(N - 1, 4))
    with pytest.raises(ValueError, match="content"):
        make(representation="content").init_ids_from(torch.randn(N, 4))


def test_bad_configurations_are_named():
    for options, message in [
        ({"encoder": "lstm"}, "`encoder`.*'lstm'"),
        ({"item_representation": "text"}, "`item_representation`"),
        ({"item_representation": "content"}, "`content_dims`"),
        ({"content_dims": {"both": 4}}, "`content_dims`"),
        ({"num_heads": 3, "hidden_size": 16}, "`num_heads`.*3"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"max_length": 0}, "`max_length`"),
        ({"encoder": "bert4rec", "max_length": 1}, "`max_length`.*mask"),
    ]:
        with pytest.raises(ValueError, match=message):
            SeqRecConfig(**{"n_items": 5, **options})


def test_rows_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="`input_ids`.*`max_length` 8"):
        make()(torch.zeros(1, 9, dtype=torch.int64))


def test_content_is_checked():
    model = make(representation="content")
    for vectors, message in [
        ({"text": torch.zeros(N, 6)}, "views"),
        ({"both": torch.zeros(N, 5)}, r"\(30, 6\)"),
        ({"both": torch.full((N, 6), torch.nan)}, "finite"),
    ]:
        with pytest.raises(ValueError, match=message):
            model.set_content(vectors)


def test_deep_copies_recommend_alike():
    model = make()
    assert copy.deepcopy(model).recommend([["i1"]], k=3) == model.recommend([["i1"]], k=3)
