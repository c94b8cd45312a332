"""`loaded_from`: it names what the weights came from until they change, and nobody has to say that they did."""

import copy
import pickle

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModelForImageTextToText

from vlm2rec_hf import (
    PixRecModel,
    PreparedCatalogue,
    VLM2RecEmbedder,
    VLM2RecTrainer,
    VLM2RecTrainingArguments,
    default_lora_config,
    merge_adapters,
    pixrec_lora_config,
    warm_up_backbone,
)
from vlm2rec_hf.modeling.backbone_vlm2rec import Origin


@pytest.fixture
def loaded(tiny, tmp_path):
    """An embedder from a folder, its processor, and what `loaded_from` says of it."""
    model, processor = tiny()
    model.save_pretrained(tmp_path / "base")
    return VLM2RecEmbedder.from_pretrained(tmp_path / "base"), processor, (str(tmp_path / "base"), None)


def a_weight(model):
    return model.vlm.language_model.layers[0].mlp.up_proj.weight


def a_weight_under(model):
    """The same below an adapter."""
    return model.vlm.language_model.layers[0].mlp.up_proj.base_layer.weight


def with_adapters(model, seed=0):
    """The model in PEFT's wrapper, its adapters unlike zero."""
    torch.manual_seed(seed)
    wrapped = get_peft_model(model, default_lora_config(4, dropout=0.0))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.2)
    return wrapped


def trained(model, processor, dataset, folder, **options):
    arguments = {
        "output_dir": str(folder), "use_cpu": True, "max_steps": 1, "per_device_train_batch_size": 8,
        "save_strategy": "no", "disable_tqdm": True, "learning_rate": 1e-3,
    }  # fmt: skip
    peft_config = options.pop("peft_config", None)
    run = VLM2RecTrainer(
        model,
        VLM2RecTrainingArguments(**arguments, **options),
        train_dataset=dataset,
        processing_class=processor,
        peft_config=peft_config,
    )
    run.train()
    return run


def test_a_model_built_from_config_came_from_nowhere(tiny):
    assert tiny()[0].loaded_from is None


def test_a_backbone_is_where_the_weights_came_from(tiny, tiny_pix, tmp_path):
    AutoModelForImageTextToText.from_config(tiny()[0].config.vlm_config).save_pretrained(tmp_path / "raw")
    for kind in (VLM2RecEmbedder, PixRecModel):
        assert kind.from_backbone(str(tmp_path / "raw")).loaded_from == (str(tmp_path / "raw"), None)


@pytest.mark.parametrize(
    "use",
    [
        lambda model: model.train().requires_grad_(False),
        lambda model: model.to("cpu", torch.float64),
        lambda model: model.bfloat16(),
        lambda model: model.get_input_embeddings().weight.data.clone(),
        lambda model: model.zero_grad(),
        lambda model: model.gradient_checkpointing_enable(),
    ],
    ids=["freeze", "float64", "bfloat16", "read", "zero_grad", "checkpointing"],
)
def test_use_changes_nothing(loaded, use):
    model, _, where = loaded
    use(model)
    assert model.loaded_from == where


@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizers_step_changes_it(loaded, fused):
    """A fused step moves no version counter."""
    model, _, where = loaded
    optimizer = torch.optim.AdamW([a_weight(model)], lr=1e-3, fused=fused)
    a_weight(model).grad = torch.ones_like(a_weight(model))
    assert model.loaded_from == where
    optimizer.step()
    assert model.loaded_from is None


def test_one_value_changed_in_place_is_seen(loaded):
    model, _, where = loaded
    weight = a_weight(model)
    with torch.no_grad():
        weight[0, 1] += 1.0  # none of the values that are kept
    assert model.loaded_from is None
    model.note_origin(*where)
    assert model.loaded_from == where
    weight.data = weight.data + 1.0  # past the version counter
    assert model.loaded_from is None


def test_other_weights_loaded_or_put_in_are_seen(loaded, tiny):
    for assign in (False, True):
        model = copy.deepcopy(loaded[0])
        state = {name: value + 0.1 for name, value in model.state_dict().items()}
        model.load_state_dict(state, assign=assign)
        assert model.loaded_from is None
    model = loaded[0]
    model.resize_token_embeddings(model.get_input_embeddings().weight.shape[0] + 8)
    assert model.loaded_from is None


def test_full_training_changes_it_and_adapter_training_does_not(loaded, demo_dataset, tmp_path):
    model, processor, where = loaded
    run = trained(model, processor, demo_dataset, tmp_path / "a", peft_config=default_lora_config(2, dropout=0.0))
    assert any(parameter.any() for name, parameter in run.model.named_parameters() if "lora_B" in name)
    assert run.embedder is model and model.loaded_from == where
    other = VLM2RecEmbedder.from_pretrained(where[0])
    trained(other, processor, demo_dataset, tmp_path / "b")
    assert other.loaded_from is None


def test_projections_trained_with_an_adapter_are_the_adapters(tiny_pix, tmp_path):
    model, _ = tiny_pix()
    model.save_pretrained(tmp_path / "base")
    model = PixRecModel.from_pretrained(tmp_path / "base")
    wrapped = get_peft_model(model, pixrec_lora_config(2))
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    assert model.loaded_from == (str(tmp_path / "base"), None)


def test_a_warm_up_changes_it(loaded, demo_dataset):
    model, processor, _ = loaded
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor)
    warm_up_backbone(model, catalogue, demo_dataset.items["description"], steps=1, batch_size=16)
    assert model.loaded_from is None


def test_an_adapter_loaded_into_its_base_leaves_the_bases_name(loaded, tmp_path):
    model, _, where = loaded
    wrapped = with_adapters(model)
    wrapped.save_pretrained(tmp_path / "adapter")
    config = copy.deepcopy(model.config)
    config.base_model = where[0]
    config.save_pretrained(tmp_path / "adapter")
    again = VLM2RecEmbedder.from_pretrained(tmp_path / "adapter")
    assert again.holds_adapter and again.loaded_from == where
    name, value = next((n, p) for n, p in again.named_parameters() if "lora_B" in n)
    again.load_state_dict({name: value + 1.0}, strict=False)
    assert again.loaded_from == where


def test_a_merge_changes_it_and_a_refused_merge_does_not(loaded, items):
    model, processor, where = loaded
    wrapped = with_adapters(model)
    with pytest.raises(ValueError, match="more than `tolerance` 0"):
        merge_adapters(wrapped, processor, items, tolerance=0.0)
    assert model.loaded_from == where
    merged = merge_adapters(wrapped, processor, items)
    assert merged.model is model and model.loaded_from is None


@pytest.mark.parametrize("safe", [True, False])
def test_pefts_own_merge_is_seen(loaded, safe):
    model, _, where = loaded
    wrapped = with_adapters(model)
    wrapped.merge_adapter(safe_merge=safe)
    assert model.loaded_from is None
    other = VLM2RecEmbedder.from_pretrained(where[0])
    assert with_adapters(other).merge_and_unload(safe_merge=safe).loaded_from is None


def test_copies_keep_it(loaded):
    model, _, where = loaded
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert again.loaded_from == where
        with torch.no_grad():
            a_weight(again).mul_(2.0)
        assert again.loaded_from is None and model.loaded_from == where


def test_weights_that_data_parallel_writes_once_are_the_same(loaded, tmp_path):
    """It broadcasts what they hold, which moves the version counters of frozen weights, too."""
    model, _, where = loaded
    wrapped = with_adapters(model)
    version = a_weight_under(model)._version
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        torch.nn.parallel.DistributedDataParallel(wrapped)
    finally:
        torch.distributed.destroy_process_group()
    assert a_weight_under(model)._version > version
    assert model.loaded_from == where


def test_weights_that_are_not_here_are_the_same_unless_they_train():
    """Sharded or on the meta device, a weight cannot be read."""
    layer = torch.nn.Linear(4, 4)
    origin = Origin("base", None, layer)
    assert origin.is_origin_of(layer)
    layer.to("meta")
    assert not origin.is_origin_of(layer)
    assert origin.is_origin_of(layer.requires_grad_(False))
