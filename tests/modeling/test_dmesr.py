"""DMESR's model: the fusion is what it says, nothing leaks, saving and loading changes nothing."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig, AutoModel

from vlm2rec_hf import DMESRConfig, DMESRModel
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS
from vlm2rec_hf.modeling.encoders_seqrec import AttentionEncoder, RecurrentEncoder
from vlm2rec_hf.modeling.fusion_dmesr import CrossAttention
from vlm2rec_hf.modeling.inputs_dmesr import ItemInputs

from .dmesr_models import N, make, random_inputs

HISTORIES = [["i1", "i2"], [], ["i3"] * 20]


def library_attention(ours: CrossAttention) -> torch.nn.MultiheadAttention:
    """The library's attention with the same weights."""
    theirs = torch.nn.MultiheadAttention(ours.query.in_features, ours.heads, batch_first=True).double()
    key_bias = torch.full_like(ours.query.bias, 0.3)  # whatever it is, it cancels out
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([ours.query.bias, key_bias, ours.value.bias]))
        theirs.out_proj.weight.copy_(ours.out.weight)
        theirs.out_proj.bias.copy_(ours.out.bias)
    return theirs.eval()


def fused_naively(fusion, inputs, item):
    """One item's two vectors in the usual order: adapters, attention, mean over those that asked, residual, norm."""
    with torch.no_grad():
        coarse = fusion.coarse.up(fusion.coarse.down(inputs.coarse[item].double()[inputs.coarse_present[item]]))
        fine = fusion.fine.up(fusion.fine.down(inputs.fine[item].double()[inputs.fine_present[item]]))
        views = []
        for asking, answering, attention, norm in (
            (coarse, fine, fusion.coarse_to_fine, fusion.coarse_norm),
            (fine, coarse, fusion.fine_to_coarse, fusion.fine_norm),
        ):
            if len(asking) == 0:
                views.append(torch.zeros(coarse.shape[1]).double())
                continue
            answer = torch.zeros(coarse.shape[1]).double()
            if len(answering):
                attended = library_attention(attention)(asking[None], answering[None], answering[None])[0][0]
                answer = attended.mean(dim=0)
            views.append(norm(answer + asking.mean(dim=0) if fusion.residual else answer))
        return torch.cat(views) * fusion.scale


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("norm", [True, False])
def test_the_fusion_is_adapters_attention_and_means(residual, norm):
    inputs = random_inputs()
    model = make(inputs=inputs, fusion_residual=residual, fusion_norm=norm, adapter_size=3).double()
    with torch.no_grad():
        for parameter in model.fusion.parameters():  # biases and gains, too
            parameter.add_(0.3 * torch.randn_like(parameter))
        result = model.item_vectors()
    assert result.shape == (N, 32)
    for item in range(N):
        assert torch.allclose(result[item], fused_naively(model.fusion, inputs, item), atol=1e-10), item
    assert (result[2, 16:] == 0).all() and (result[1, :16] == 0).all()  # nobody asks there
    if residual or norm:  # nobody answers there: what asked is left, and what the norm adds
        assert result[1, 16:].abs().sum() > 0 and result[2, :16].abs().sum() > 0


def test_filling_has_no_say():
    inputs = random_inputs()
    noisy = ItemInputs(
        inputs.coarse + 9 * (~inputs.coarse_present)[..., None],
        inputs.coarse_present,
        inputs.fine - 9 * (~inputs.fine_present)[..., None],
        inputs.fine_present,
    )
    assert torch.allclose(make().item_vectors(), make(inputs=noisy).item_vectors(), atol=1e-6)


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_one_shared_encoder_reads_both_views(encoder):
    model = make(encoder)
    kinds = [m for m in model.modules() if isinstance(m, (AttentionEncoder, RecurrentEncoder))]
    assert len(kinds) == 1
    row = torch.tensor([[3, 1, 4, 15]])
    output = model(row)
    assert output.last_hidden_state.shape == (1, 4, 32) and output.item_vectors.shape == (N, 32)
    for part in range(2):
        half = output.item_vectors[:, 16 * part : 16 * part + 16]
        alone = model.encoder(half[row] * 16**0.5, torch.ones(1, 4, dtype=torch.bool))
        assert torch.allclose(output.last_hidden_state[..., 16 * part : 16 * part + 16], alone, atol=1e-6)


@pytest.mark.parametrize("encoder", ["sasrec", "gru4rec"])
def test_no_state_sees_a_later_item(encoder):
    model = make(encoder)
    row = torch.tensor([[3, 1, 4, 11, 5, 9]])
    before = model(row).last_hidden_state
    for place in range(1, 6):
        changed = row.clone()
        changed[0, place:] = torch.arange(20, 26 - place)
        after = model(changed).last_hidden_state
        assert torch.allclose(before[:, :place], after[:, :place], atol=1e-6)
        assert not torch.allclose(before[:, place], after[:, place], atol=1e-3)


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_gradient_reaches_every_weight_and_no_input(encoder):
    model = make(encoder, item_representation="content+id").train()
    model(torch.tensor([[3, 1, 4, 15, 9, 2]])).last_hidden_state.square().sum().backward()
    masked = {"mask_vector"}  # learns from rows that hold masked items
    without = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0}
    assert without <= masked
    assert not any(part.requires_grad for part in model.inputs._parts()) and not model.fused_items.requires_grad


def test_blocks_bound_memory_and_change_nothing():
    results = []
    for size in (4096, 7):
        model = make(items_per_block=size).double().train()
        vectors = model.item_vectors()
        vectors.square().sum().backward()
        results.append((vectors.detach(), [p.grad for p in model.fusion.parameters()]))
    (one, grads), (other, others) = results
    assert torch.allclose(one, other, atol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-10) for a, b in zip(grads, others, strict=True))


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
@pytest.mark.parametrize("representation", ["content", "content+id"])
def test_saving_and_loading_changes_nothing(encoder, representation, tmp_path):
    model = make(encoder, item_representation=representation)
    model.save_pretrained(tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {
        "modeling_dmesr.py",
        "fusion_dmesr.py",
        "inputs_dmesr.py",
        "modeling_seqrec.py",
        "catalogue.parquet",
    } <= names
    again, info = AutoModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert type(again) is DMESRModel and again.inputs is None and not info["unexpected_keys"]
    assert torch.equal(again.item_vectors(), model.item_vectors())
    assert again.recommend(HISTORIES, k=5) == model.recommend(HISTORIES, k=5)
    assert AutoConfig.from_pretrained(tmp_path / "model").to_dict() == again.config.to_dict()
    again.save_pretrained(tmp_path / "copy")
    copy = DMESRModel.from_pretrained(tmp_path / "copy")
    assert copy.recommend(HISTORIES, k=5) == model.recommend(HISTORIES, k=5)
    with pytest.raises(ValueError, match="set_inputs"):
        again.train().item_vectors()
    again.set_inputs(random_inputs(), embedder_revision="a" * 40, fingerprint="f1")
    assert torch.allclose(again.item_vectors(), model.item_vectors(), atol=1e-7)


def test_what_is_saved_is_what_the_model_knows_now(tmp_path):
    model = make()
    model.save_pretrained(tmp_path / "one")
    with torch.no_grad():
        model.fusion.fine.up.weight.mul_(2.0)
    gathered = {name: value.clone() for name, value in model.state_dict().items()}  # as distributed trainers pass it
    model.save_pretrained(tmp_path / "two", state_dict=gathered)
    result = [DMESRModel.from_pretrained(tmp_path / name).item_vectors() for name in ("one", "two")]
    assert not torch.allclose(*result, atol=1e-3) and torch.equal(result[1], model.item_vectors())


STRANGER = """
import json, sys
sys.modules["vlm2rec_hf"] = None
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules."), type(model).__module__
print(json.dumps([one.item_ids for one in model.recommend([["i1", "i2"], [], ["i3"] * 20], k=5)]))
"""


def test_a_stranger_without_the_package_gets_the_same_recommendations(tmp_path):
    model = make("gru4rec", item_representation="content+id")
    model.save_pretrained(tmp_path / "model")
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["HF_MODULES_CACHE"] = str(tmp_path / "modules")
    command = [sys.executable, "-c", STRANGER, str(tmp_path / "model")]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout.splitlines()[-1]) == [one.item_ids for one in model.recommend(HISTORIES, k=5)]


@pytest.mark.parametrize("loaded", [True, False])
@pytest.mark.parametrize("representation", ["content", "content+id"])
def test_new_items_are_recommendable_at_once(loaded, representation, tmp_path):
    model = make(item_representation=representation)
    before = model.recommend([["i4", "i5"]], k=N)[0]
    if loaded:
        model.save_pretrained(tmp_path / "model")
        model = DMESRModel.from_pretrained(tmp_path / "model")
    all_inputs = random_inputs()
    twin = ItemInputs(*(part[9:10] for part in all_inputs._parts()))  # says what item 9 says, in fewer tokens
    length = int(twin.fine_present.sum())
    twin = ItemInputs(twin.coarse, twin.coarse_present, twin.fine[:, :length], twin.fine_present[:, :length])
    model.add_items(twin, ["new"], titles=["New one"], embedder_revision="a" * 40)
    after = model.recommend([["i4", "i5"]], k=N + 1)[0]
    assert [item for item in after.item_ids if item != "new"] == before.item_ids
    scores = dict(zip(after.item_ids, after.scores, strict=True))
    if representation == "content":
        assert scores["new"] == pytest.approx(scores["i9"], abs=1e-4)
    else:
        ids, vectors = model.item_embedding.weight, model.item_vectors()
        assert torch.allclose(vectors[N] - ids[:N].mean(dim=0), vectors[9] - ids[9], atol=1e-6)
    model.save_pretrained(tmp_path / "more")
    again = AutoModel.from_pretrained(tmp_path / "more")
    assert again.config.n_items == N + 1 and again.recommend([["i4", "new"]], k=4) == model.recommend(
        [["i4", "new"]], k=4
    )


def test_bad_inputs_and_configurations_are_named():
    model, good = make(), random_inputs()
    with pytest.raises(ValueError, match="`embedder_revision` is 'b'"):
        model.set_inputs(good, embedder_revision="b")
    with pytest.raises(ValueError, match="`fingerprint` is 'f2'"):
        model.set_inputs(good, fingerprint="f2")
    with pytest.raises(ValueError, match="`inputs` must be of 30 items"):
        model.set_inputs(good.rows(0, 9))
    with pytest.raises(ValueError, match="`embedder_revision` is 'b'"):
        model.add_items(good.rows(0, 1), ["new"], embedder_revision="b")
    with pytest.raises(ValueError, match="already holds.*'i3'"):
        model.add_items(good.rows(0, 1), ["i3"])
    broken = good.coarse.clone()
    broken[4, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="place 4 are not finite"):
        model.set_inputs(ItemInputs(broken, good.coarse_present, good.fine, good.fine_present))
    with pytest.raises(ValueError, match="`coarse`"):
        ItemInputs(good.coarse[:, :2], good.coarse_present, good.fine, good.fine_present)
    with pytest.raises(ValueError, match="`fine`"):
        ItemInputs(good.coarse, good.coarse_present, good.fine, good.fine_present[:3])
    for options, message in [
        ({"item_representation": "id"}, "`item_representation`.*content"),
        ({"content_dims": {"both": 3}}, "`content_dims`"),
        ({"fusion_heads": 3}, "`fusion_heads`.*3"),
        ({"items_per_block": 0}, "`items_per_block`"),
        ({"adapter_size": 0}, "`adapter_size`"),
        ({"encoder": "lstm"}, "`encoder`"),
    ]:
        with pytest.raises(ValueError, match=message):
            DMESRConfig(n_items=5, hidden_size=16, **options)


def test_inputs_in_another_order_than_the_catalogue_are_refused():
    model, ids = make(), tuple(f"i{n}" for n in range(N))
    swapped = (ids[1], ids[0], *ids[2:])
    model.set_inputs(replace(random_inputs(), item_ids=ids))
    with pytest.raises(ValueError, match="`inputs` must be .* but are of 'i1' instead of 'i0' in row 0; take them"):
        model.set_inputs(replace(random_inputs(), item_ids=swapped))
    with pytest.raises(ValueError, match="`inputs` must be .* but are of 'i0' instead of 'i1' in row 0; take them"):
        model.set_catalogue(swapped)
    one = replace(random_inputs().rows(9, 10), item_ids=("new",))
    with pytest.raises(ValueError, match="of 'new' instead of 'other' in row 0"):
        model.add_items(one, ["other"])
    model.add_items(one, ["new"])
    assert model.inputs.item_ids == (*ids, "new") and model.inputs.rows(29, 31).item_ids == ("i29", "new")
    with pytest.raises(ValueError, match="of 31 and not 30 items"):
        model.inputs.check_items(ids)
    with pytest.raises(ValueError, match=r"`item_ids` must have one id per item \(30\), got 2"):
        replace(random_inputs(), item_ids=("a", "b"))


def test_equal_descriptions_share_a_number():
    coarse = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0]]).repeat(1, 3).view(3, 3, 2).half()
    present = torch.ones(3, 3, dtype=torch.bool)
    inputs = ItemInputs(coarse, present, coarse, present)
    result = inputs.same_descriptions()
    assert (result[0] == result[2]).all() and (result[0] != result[1]).all()
