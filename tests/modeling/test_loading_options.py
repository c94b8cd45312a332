"""Ways of loading a backbone that change what its weights are: quantized, offloaded; and the processor's options."""

import importlib.util
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import cosine_similarity
from transformers import BitsAndBytesConfig
from transformers.quantizers import HfQuantizer
from transformers.quantizers.auto import register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from vlm2rec_hf import (
    PixRecModel,
    PixRecProcessor,
    VLM2RecEmbedder,
    VLM2RecProcessor,
    VLM2RecTrainer,
    VLM2RecTrainingArguments,
)
from vlm2rec_hf.loading import load_or_build
from vlm2rec_hf.tiny.backbones import save_tiny_backbone
from vlm2rec_hf.trainers.adapters import default_lora_config


@register_quantization_config("pretended")
class Pretended(QuantizationConfigMixin):
    """A way to quantize that the library knows of and that changes nothing: it needs no kernels."""

    def __init__(self, **kwargs):
        self.quant_method = "pretended"
        self.modules_to_not_convert = kwargs.get("modules_to_not_convert")


@register_quantizer("pretended")
class PretendedQuantizer(HfQuantizer):
    requires_calibration = False
    is_trainable = True

    def _process_model_before_weight_loading(self, model, **kwargs):
        model.pretended = True

    def _process_model_after_weight_loading(self, model, **kwargs):
        return model

    def is_serializable(self, *args, **kwargs):
        return True


@dataclass
class Raw:
    folder: str
    processor: VLM2RecProcessor


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("raw") / "backbone")
    save_tiny_backbone(folder, texts=["red tent", "blue mug"], hidden_size=64, vision_hidden_size=64, image_size=112)
    return Raw(folder, VLM2RecProcessor.from_backbone(folder))


KINDS = [VLM2RecEmbedder, PixRecModel]
HOW = [
    Pretended(),
    *(
        pytest.param(
            BitsAndBytesConfig(**{f"load_in_{bits}bit": True}),
            marks=pytest.mark.skipif(not importlib.util.find_spec("bitsandbytes"), reason="needs bitsandbytes"),
        )
        for bits in (8, 4)
    ),
]


@pytest.mark.parametrize("how", HOW, ids=["pretended", "8", "4"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_quantized_backbone_is_saved_as_it_is(kind, how, raw, tmp_path):
    model = kind.from_backbone(raw.folder, quantization_config=how)
    assert model.is_quantized
    model.save_pretrained(tmp_path)
    again = kind.from_pretrained(tmp_path)
    assert again.is_quantized and again.config.quantization_config.quant_method == how.quant_method
    ours, theirs = model.state_dict(), again.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(ours[name].dtype == theirs[name].dtype and torch.equal(ours[name], theirs[name]) for name in ours)
    kinds = [{name: type(part).__name__ for name, part in one.named_modules()} for one in (model, again)]
    assert kinds[0] == kinds[1]


@pytest.mark.parametrize("how", HOW, ids=["pretended", "8", "4"])
def test_quantized_weights_are_not_trained_but_an_adapter_on_them_is(how, raw, demo_dataset, tmp_path):
    model = VLM2RecEmbedder.from_backbone(raw.folder, quantization_config=how)
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "use_cpu": True, "disable_tqdm": True,
               "eval_strategy": "no", "save_strategy": "no", "report_to": "none"}  # fmt: skip

    def trainer(model, **more):
        return VLM2RecTrainer(
            model, VLM2RecTrainingArguments(str(tmp_path), **{**options, **more.pop("arguments", {})}),
            train_dataset=demo_dataset, processing_class=raw.processor, **more,
        )  # fmt: skip

    for arguments in ({}, {"freeze_vision": False}):
        with pytest.raises(ValueError, match=r"`model` was loaded with quantized weights.*`--lora`"):
            trainer(model, arguments=arguments)
    run = trainer(model, peft_config=default_lora_config(4))
    run.train()
    run.save_model(str(tmp_path / "adapter"))
    again = VLM2RecEmbedder.from_pretrained(tmp_path / "adapter")
    assert again.is_quantized  # the base as it was trained on
    items = ["red tent", "blue mug"]
    ours, theirs = (one.encode_items(items, raw.processor).both for one in (run.embedder, again))
    # In 8 bits the library rounds what comes in, and another pass rounds it a little otherwise.
    assert torch.allclose(ours, theirs, atol=5e-3 if getattr(how, "load_in_8bit", False) else 1e-5)
    weights = run.embedder.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in again.state_dict().items())


@pytest.mark.parametrize("kind", KINDS)
def test_offloaded_weights_are_refused_in_words(kind, raw, tmp_path):
    away = {"device_map": {"": "disk"}, "offload_folder": str(tmp_path / "away")}
    with pytest.raises(ValueError, match=r"`device_map` leaves \d+ weights.*leave it out"):
        kind.from_backbone(raw.folder, **away)
    kind.from_backbone(raw.folder).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"`device_map` leaves \d+ weights.*leave it out"):
        kind.from_pretrained(tmp_path / "model", **away)
    assert kind.from_pretrained(tmp_path / "model", device_map={"": "cpu"}).device.type == "cpu"


@pytest.mark.parametrize("kind", [VLM2RecProcessor, PixRecProcessor])
def test_pixels_are_bounded(kind, raw, tmp_path):
    image = {"image": Image.fromarray(np.zeros((400, 300, 3), np.uint8))}

    def pixels(processor):
        return len(processor.prepare_items([image])[0].pixel_values) * 14**2

    default = kind.from_backbone(raw.folder)
    small = kind.from_backbone(raw.folder, max_pixels=28 * 28 * 4)
    large = kind.from_backbone(raw.folder, min_pixels=28 * 28 * 100, max_pixels=28 * 28 * 120)
    assert pixels(small) <= 28 * 28 * 4 < pixels(default) < 28 * 28 * 100 <= pixels(large) <= 28 * 28 * 120
    small.save_pretrained(tmp_path)
    assert pixels(kind.from_pretrained(tmp_path)) == pixels(small)
    large.max_pixels = 28 * 28 * 4  # and afterwards, the least with it
    assert pixels(large) == pixels(small)
    method = "pixrec" if kind is PixRecProcessor else "vlm2rec"
    built = load_or_build(raw.folder, method, processor_options={"max_pixels": 28 * 28 * 4})
    assert pixels(built.processor) == pixels(small)
    with pytest.raises(ValueError, match="`max_pixels` must be at least 1, got 0"):
        kind.from_backbone(raw.folder, max_pixels=0)
    for model in KINDS:
        with pytest.raises(ValueError, match="`min_pixels` is an option of the processor"):
            model.from_backbone(raw.folder, min_pixels=1)


@pytest.mark.parametrize("family", ["smolvlm", "paligemma"])
def test_other_families_have_one_size(tiny, family):
    _, processor = tiny(family)
    with pytest.raises(ValueError, match="`max_pixels` must be left out: it is an option of Qwen-VL"):
        processor.max_pixels = 1000


BAD = {
    "max_history": [0, -1, 2.5, True, None], "max_item_tokens": [0, "8"], "max_history_item_tokens": [0],
    "item_instruction": [None, 3], "user_instruction": [3],
    "history_template": ["no place", "{text} {number}", 3, None], "end_token": ["<nope>", None],
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_an_option_is_checked_wherever_it_is_set(tiny, tiny_pix, name, tmp_path):
    for make in (tiny, tiny_pix):
        _, processor = make()
        before = getattr(processor, name)
        for value in BAD[name]:
            with pytest.raises(ValueError, match=f"`{name}` must .*got {value!r}"):
                setattr(processor, name, value)
            if name != "end_token" or value is not None:
                with pytest.raises(ValueError, match=f"`{name}` must"):
                    type(processor)(processor.image_processor, processor.tokenizer, **{name: value})
        assert getattr(processor, name) == before
        processor.save_pretrained(tmp_path)
        assert getattr(type(processor).from_pretrained(tmp_path), name) == before


def test_methods_own_options_are_checked(tiny, tiny_pix):
    with pytest.raises(ValueError, match="`fusion` must be 'external' or 'internal', got 'both'"):
        tiny()[1].fusion = "both"
    for name, value in (("images", None), ("images", 1), ("next_item_prompt", None)):
        with pytest.raises(ValueError, match=f"`{name}` must"):
            setattr(tiny_pix()[1], name, value)


def test_similarity_is_the_cosine_that_rankings_compare(tiny, tiny_pix):
    for make in (tiny, tiny_pix):
        model, processor = make()
        found = model.encode_items(["red tent", "blue mug", "lamp"], processor)
        vectors = found.both if make is tiny else found
        got = model.similarity(vectors[:2], vectors)
        want = cosine_similarity(vectors[:2, None].double(), vectors[None].double(), dim=-1)
        assert got.dtype == torch.float32 and got.shape == (2, 3)
        torch.testing.assert_close(got.double(), want, atol=1e-6, rtol=0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(
                model.similarity(vectors[:2].numpy(), vectors.bfloat16().float()).argmax(1), torch.arange(2)
            )
        assert model.similarity(vectors[0], vectors).shape == (1, 3)
        assert (model.similarity(torch.zeros(1, vectors.shape[1]), vectors) == 0).all()
