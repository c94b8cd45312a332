"""Training with the frozen-vision cache, and what `freeze_vision` means."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from vlm2rec_hf import (
    PreparedCatalogue,
    VisionCache,
    VLM2RecTrainer,
    VLM2RecTrainingArguments,
    default_lora_config,
    make_demo_shop,
)
from vlm2rec_hf.evaluation import evaluate_embedder

from ..conftest import FAMILIES

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "vision_cache.py"


def step(run):
    """Loss and gradients of one training step, and the batch."""
    batch = run.data_collator([run.train_dataset[i] for i in range(8)])
    run.model.train()
    loss = run.compute_loss(run.model, batch)
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in run.model.named_parameters() if p.grad is not None}
    run.model.zero_grad()
    return float(loss.detach()), gradients, batch


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradients_and_evaluation_are_those_without_a_cache(tiny, trainer, family, tmp_path):
    found = {}
    for way in ("plain", "float32", "bfloat16"):
        options = {"cache_vision_features": False}
        if way != "plain":
            options = {"vision_cache_dir": str(tmp_path / "cache"), "vision_cache_dtype": way}
        run = trainer(*tiny(family), validation_users=20, **options)
        assert run.catalogue.has_cached_features == (way != "plain")
        found[way] = (*step(run), run.evaluate())
    plain, exact, short = found["plain"], found["float32"], found["bfloat16"]
    assert "pixel_values" in plain[2]["images"] and "image_features" in exact[2]["images"]
    assert ("deepstack_features" in exact[2]["images"]) == (family == "qwen3_vl")
    assert exact[0] == pytest.approx(plain[0], abs=1e-5) and short[0] == pytest.approx(plain[0], abs=0.05)
    assert plain[1].keys() == exact[1].keys() and len(plain[1]) > 10
    assert max((plain[1][name] - exact[1][name]).abs().max() for name in plain[1]) < 1e-5
    assert max((plain[1][name] - short[1][name]).abs().max() for name in plain[1]) > 1e-5  # bfloat16 was really used
    names = [name for name in plain[3] if "runtime" not in name]
    assert [exact[3][name] for name in names] == pytest.approx([plain[3][name] for name in names], abs=1e-4)


def test_lora_training_reads_the_cache_in_loader_workers(trainer, tmp_path):
    def losses(**options):
        run = trainer(peft_config=default_lora_config(2, dropout=0.0), max_steps=3, **options)
        run.train()
        return [record["loss"] for record in run.state.log_history if "loss" in record]

    expected = losses(cache_vision_features=False)
    cached = {"vision_cache_dir": str(tmp_path / "cache")}
    assert losses(**cached) == pytest.approx(expected, abs=1e-5)  # filled here
    assert losses(**cached, dataloader_num_workers=1) == pytest.approx(expected, abs=1e-5)  # read here


def test_another_dataset_is_evaluated_through_the_cache(trainer, tmp_path, monkeypatch):
    ranked = []
    rank = VLM2RecTrainer.rank

    def watched(run, catalogue, examples, **options):
        ranked.append(catalogue)
        return rank(run, catalogue, examples, **options)

    monkeypatch.setattr(VLM2RecTrainer, "rank", watched)
    other = make_demo_shop(60, n_users=40, seed=5).dataset()
    trainer(vision_cache_dir=str(tmp_path / "cache")).evaluate(other)
    trainer().evaluate(other)
    assert [catalogue.has_cached_features for catalogue in ranked] == [True, False]


def test_another_dataset_is_ranked_over_its_own_items(trainer, demo_dataset):
    other = make_demo_shop(80, n_users=50, seed=5).dataset()  # as many items as the training dataset, and others
    given = trainer(eval_dataset=other)
    catalogue = PreparedCatalogue(other.catalogue_items(), given.catalogue.processor)
    examples = other.examples("validation", max_history=3).spread(10)
    expected = evaluate_embedder(given.model, catalogue, examples).metrics()
    for found in (given.evaluate(), trainer().evaluate(other)):
        assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)
    copied = make_demo_shop(80, n_users=120).dataset()
    assert copied.items is not demo_dataset.items
    assert given._catalogues.of(copied) is given.catalogue  # equal items are prepared once


def test_the_cache_and_a_training_tower_exclude_each_other(trainer, tmp_path):
    with pytest.raises(ValueError, match="`vision_cache_dir` .* is being trained; leave it out"):
        trainer(vision_cache_dir=str(tmp_path), freeze_vision=False)
    with pytest.raises(ValueError, match="`vision_cache_dtype` must be one of .* got 'int8'"):
        VLM2RecTrainingArguments(use_cpu=True, vision_cache_dtype="int8")
    with pytest.raises(
        ValueError, match="`vision_cache_dtype` 'float16' is how `vision_cache_dir` keeps .*leave both"
    ):
        VLM2RecTrainingArguments(use_cpu=True, vision_cache_dtype="float16")
    with pytest.raises(ValueError, match="`vision_cache_dir` needs `cache_vision_features=True`"):
        VLM2RecTrainingArguments(use_cpu=True, vision_cache_dir="x", cache_vision_features=False)


def test_a_catalogue_with_another_towers_features_is_refused(tiny, trainer, demo_dataset, tmp_path):
    model, processor = tiny(max_history=3)
    for cache in (None, VisionCache(tmp_path)):
        catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(model, cache)
        trainer(*tiny(max_history=3), catalogue=catalogue)
        other, _ = tiny(max_history=3)
        with torch.no_grad():
            other.vlm.visual.patch_embed.proj.weight.mul_(2)
        with pytest.raises(ValueError, match=r"`catalogue` .* call `catalogue.cache_features\(model\)`"):
            trainer(other, processor, catalogue=catalogue)


def test_freeze_vision_false_trains_a_tower_that_was_frozen(tiny, trainer):
    model, processor = tiny()
    model.freeze_vision()
    run = trainer(model, processor, freeze_vision=False)
    assert all(p.requires_grad for p in model.vision_parameters()) and not run.catalogue.has_cached_features
    before = [p.detach().clone() for p in model.vision_parameters()]
    run.train()
    assert not all(torch.equal(a, b) for a, b in zip(before, model.vision_parameters(), strict=True))


@pytest.mark.parametrize("given", ["config", "model"])
@pytest.mark.parametrize("freeze", [True, False])
def test_with_adapters_only_theirs_inside_the_tower_can_train(tiny, trainer, given, freeze):
    model, processor = tiny()
    config = LoraConfig(r=2, target_modules=["q_proj", "qkv"], task_type="FEATURE_EXTRACTION")
    config, model = (config, model) if given == "config" else (None, get_peft_model(model, config))
    run = trainer(model, processor, freeze_vision=freeze, peft_config=config)
    training = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert training and all("lora_" in name for name in training)  # an adapter's checkpoint holds nothing else
    assert any(".visual." in name for name in training) == (not freeze)
    assert run.catalogue.has_cached_features == freeze


def test_the_benchmark_prints_its_json_line(monkeypatch, capsys):
    spec = importlib.util.spec_from_file_location("vision_cache_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    words = "--json --items 60 --users 30 --batch 2 --history 3 --steps 2 --threads 1 --image-size 56 --hidden-size 32"
    words += " --vision-hidden-size 32 --vision-layers 1"
    monkeypatch.setattr(sys, "argv", ["script", *words.split()])
    module.main()
    (line,) = capsys.readouterr().out.splitlines()
    result = json.loads(line)
    assert {"claim", "ours", "other", "ratio", "bar", "met", "tower_parameters", "language_parameters"} <= set(result)
    assert result["largest_difference"] <= 1e-5 and result["patches_per_image"] == 16
    assert result["met"] == (result["ratio"] >= result["bar"])
    assert np.isclose(result["ratio"], result["other"] / result["ours"], rtol=0.1)
    assert 2 <= result["images_per_step"] <= 2 * 3 + 2
