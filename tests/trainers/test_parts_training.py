"""The projector of a `PartsModel` trains in every mode, while features are cached, and is saved with an adapter."""

import numpy as np
import pytest
import torch

from vlm2rec_hf import (
    RecDataset,
    VLM2RecEmbedder,
    VLM2RecTrainer,
    VLM2RecTrainingArguments,
    default_lora_config,
)  # fmt: skip
from vlm2rec_hf.tiny.backbones import tiny_vlm


@pytest.fixture(scope="module")
def shop():
    rng = np.random.default_rng(0)
    features = [None if i % 7 == 3 else rng.normal(size=(1 + i % 3, 12)).tolist() for i in range(16)]
    items = [{"item_id": f"i{i}", "title": f"thing {i}", "image_features": one} for i, one in enumerate(features)]
    clicks = [(user, time, rng.integers(16)) for user in range(8) for time in range(5)]
    events = [{"user_id": f"u{user}", "item_id": f"i{item}", "timestamp": time} for user, time, item in clicks]
    return RecDataset.from_tables(events, items).leave_one_out()


def train(shop, folder, peft_config=None, model=None, **options):
    made, processor = tiny_vlm("parts", ["thing"], hidden_size=32, feature_size=12)
    model = made if model is None else model
    options = {"max_steps": 1, "per_device_train_batch_size": 8, "learning_rate": 1e-2, **options}
    arguments = VLM2RecTrainingArguments(
        output_dir=str(folder), report_to=[], save_strategy="no", eval_strategy="no", use_cpu=True,
        disable_tqdm=True, **options,
    )  # fmt: skip
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    trainer = VLM2RecTrainer(model, arguments, train_dataset=shop, processing_class=processor, peft_config=peft_config)
    trainer.train()
    after = dict(trainer.embedder.named_parameters())
    moved = {name for name, weight in after.items() if name not in before or not torch.equal(weight, before[name])}
    return trainer, processor, moved


@pytest.mark.parametrize("options", [{}, {"gradient_cache_tokens": 64}, {"cache_vision_features": False}])
def test_the_projector_trains_and_the_features_stay(shop, tmp_path, options):
    _, _, moved = train(shop, tmp_path, **options)
    assert len({name for name in moved if ".image_projector." in name}) == 6
    assert not any(".vision_tower." in name for name in moved)


def test_the_projector_is_trained_whole_and_saved_with_an_adapter(shop, tmp_path):
    base, processor = tiny_vlm("parts", ["thing"], hidden_size=32, feature_size=12)
    base.save_pretrained(tmp_path / "base")
    model = VLM2RecEmbedder.from_pretrained(tmp_path / "base")
    trainer, _, moved = train(shop, tmp_path / "run", default_lora_config(r=2), model)
    trained = {name for name in moved if "lora_" not in name}
    assert len([name for name in trained if ".image_projector.modules_to_save.default." in name]) == 6
    for name, weight in trainer.embedder.named_parameters():
        assert weight.requires_grad == ("lora_" in name or ".modules_to_save." in name)
    trainer.save_model(str(tmp_path / "adapter"))
    loaded = VLM2RecEmbedder.from_pretrained(tmp_path / "adapter")
    items = [shop.item(i) for i in range(6)]
    expected = trainer.embedder.eval().encode_items(items, processor).both
    assert (loaded.encode_items(items, processor).both - expected).abs().max() < 1e-5
    further, _, moved = train(shop, tmp_path / "further", model=loaded)
    assert any(".image_projector.modules_to_save.default." in name for name in moved)
    assert not any(".original_module." in name or "embed_tokens" in name for name in moved)


def test_the_card_names_both_parts(shop, tmp_path):
    from vlm2rec_hf.hub_cards.run_facts import TrainingFacts
    from vlm2rec_hf.hub_cards.sections import _start

    trainer, _, _ = train(shop, tmp_path)
    assert trainer.training_facts()["images"] == {"feature_size": 12}
    facts = {"base_model": "org/words", "images": {"image_encoder": "org/eyes", "image_encoder_revision": "a" * 40}}
    said = str(_start(TrainingFacts.from_json(facts)))
    assert "org/words" in said and "org/eyes" in said and "frozen image encoder" in said
    said = str(_start(TrainingFacts.from_json({**facts, "images": {"feature_size": 12}})))
    assert "image features of width 12" in said
    local = TrainingFacts.from_json({"images": {"image_encoder": "/home/me/eyes"}})
    assert local.images["image_encoder"] == "eyes"


def test_the_command_line_puts_parts_together(shop, tmp_path):
    from tests.modeling.test_from_parts import save_language_model
    from vlm2rec_hf.cli.arguments import TrainModelArguments
    from vlm2rec_hf.cli.train_vlm2rec import starting_model, wants_lora

    text = save_language_model(tmp_path)
    models = TrainModelArguments(language_model=text, feature_size=12)
    loaded, from_config = starting_model(models, shop, 3, 0)
    assert not from_config and wants_lora(models, loaded.model, from_config) and loaded.processor.max_history == 3
    assert loaded.model.encode_items([shop.item(0)], loaded.processor).has_image.all()
    tiny, from_config = starting_model(TrainModelArguments(tiny="parts", feature_size=12), shop, None, 0)
    assert from_config and tiny.processor.image_processor.feature_size == 12
    for wrong in ({"tiny": "parts", "language_model": text}, {"language_model": text}):
        with pytest.raises(ValueError, match="exactly one of"):
            starting_model(TrainModelArguments(**wrong), shop, None, 0)
    with pytest.raises(ValueError, match="`--image_encoder` 'x' needs a `--language_model`"):
        TrainModelArguments(image_encoder="x")
    with pytest.raises(ValueError, match="`--feature_size` goes with"):
        TrainModelArguments(model="x", feature_size=3)
