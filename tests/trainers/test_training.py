"""Training: what moves, what is logged, what each objective leaves alone."""

import math

import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import VLM2RecProcessor, VLM2RecTrainer, VLM2RecTrainingArguments, default_lora_config
from vlm2rec_hf.losses.similarity import ViewVectors
from vlm2rec_hf.losses.vlm2rec import OBJECTIVES
from vlm2rec_hf.trainers.collator import ITEM, ContrastiveCollator

DIAGNOSTICS = {"margin_text", "margin_image", "gap", "weak_image_share", "temperature", "lambda", "beta"}


def snapshot(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(before, model):
    return {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_logs_its_terms_and_the_diagnostics(trainer, objective):
    run = trainer(objective=objective, wpcl_lambda="linear:0->4@1.0", crtr_beta=0.3)
    run.train()
    logs = [record for record in run.state.log_history if "loss" in record]
    assert len(logs) == 2
    for record in logs:
        assert set(OBJECTIVES[objective]) | DIAGNOSTICS <= set(record)
        assert record["loss"] == pytest.approx(sum(record[term] for term in OBJECTIVES[objective]), rel=1e-4)
        views = {"text_only": ["text"], "image_only": ["image"]}.get(objective, ["text", "image"])
        for view in ("text", "image"):
            norm = record[f"grad_norm_{view}"]
            assert (norm > 0) == (view in views), (view, norm)
        assert record["temperature"] == pytest.approx(0.05)
    weighted = "wpcl" in OBJECTIVES[objective]
    assert [record["lambda"] for record in logs] == pytest.approx([0.0, 2.0] if weighted else [0.0, 0.0])
    assert logs[0]["beta"] == pytest.approx(0.3 if "crtr" in OBJECTIVES[objective] else 0.0)


def test_everything_trainable_moves_and_the_vision_tower_does_not(trainer):
    run = trainer(learning_rate=1e-2)
    before = snapshot(run.model)
    run.train()
    vision = {name for name in before if ".visual." in name}
    assert vision and moved(before, run.model) == set(before) - vision


def test_the_vision_tower_moves_when_it_is_asked_to(trainer):
    run = trainer(freeze_vision=False, learning_rate=1e-2)
    assert not run.catalogue.has_cached_features
    before = snapshot(run.model)
    run.train()
    # A key's bias shifts every score of a query alike and so has no gradient; nothing else stays.
    stayed = set(before) - moved(before, run.model)
    assert all(name.endswith("qkv.bias") or "k_proj.bias" in name for name in stayed), stayed


def test_text_only_leaves_the_images_branch_without_gradient(trainer):
    run = trainer(objective="text_only", freeze_vision=False)
    batch = run.data_collator([run.train_dataset[i] for i in range(8)])
    run.model.train()
    run.compute_loss(run.model, batch).backward()
    assert all(p.grad is None or not p.grad.any() for p in run.model.vision_parameters())


def test_lora_moves_adapters_only_and_loads_back(trainer, tmp_path):
    run = trainer(peft_config=default_lora_config(r=4, dropout=0.0), learning_rate=1e-2, max_steps=3)
    before = snapshot(run.model)
    run.train()
    changed = moved(before, run.model)
    assert changed == {name for name in before if "lora_" in name}
    assert not any("visual" in name for name in changed)
    catalogue = [run.catalogue[i] for i in range(6)]
    expected = run.embedder.encode_items(catalogue, run.catalogue.processor).both

    run.save_model(tmp_path / "adapter")
    run.model.unload().save_pretrained(tmp_path / "base")
    from peft import PeftModel

    again = PeftModel.from_pretrained(AutoModel.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    found = again.get_base_model().encode_items(catalogue, run.catalogue.processor).both
    assert (found - expected).abs().max() < 1e-6
    assert (tmp_path / "adapter" / "processor_config.json").is_file()


def test_internal_fusion_trains_with_sft_only(trainer):
    run = trainer(fusion="internal", objective="sft")
    before = snapshot(run.model)
    run.train()
    assert moved(before, run.model)
    with pytest.raises(ValueError, match="internal fusion"):
        trainer(fusion="internal", objective="wpcl")


def test_modality_dropout_never_takes_the_only_view(trainer):
    run = trainer(objective="modality_dropout", modality_dropout=0.9)
    has_text = torch.tensor([True, True, False] * 40)
    has_image = torch.tensor([True, False, True] * 40)
    vectors = torch.nn.functional.normalize(torch.randn(120, 8), dim=-1)
    kept = run._drop_modalities(ViewVectors(vectors, vectors, has_text, has_image))
    assert (kept.has_text | kept.has_image).all()
    both = has_text & has_image
    assert torch.equal(kept.has_text[~both], has_text[~both]) and torch.equal(kept.has_image[~both], has_image[~both])
    dropped = ~(kept.has_text & kept.has_image)[both]
    assert 0.7 < dropped.float().mean() <= 1.0


def test_saved_model_loads_with_the_same_vectors(trainer, tmp_path):
    run = trainer()
    run.train()
    run.save_model(tmp_path / "out")
    again = AutoModel.from_pretrained(tmp_path / "out")
    processor = VLM2RecProcessor.from_pretrained(tmp_path / "out")
    items = [{"text": "red tent"}, "blue mug"]
    assert torch.equal(again.encode_items(items, processor).both, run.model.eval().encode_items(items, processor).both)
    assert "vlm2rec" in run.model.model_tags


def test_training_beats_the_start(trainer):
    run = trainer(objective="sft", max_steps=60, per_device_train_batch_size=32, logging_steps=10, learning_rate=3e-3)
    run.train()
    losses = [record["loss"] for record in run.state.log_history if "loss" in record]
    assert losses[-1] < losses[0] - 0.2, losses


def test_accumulation_and_checkpointing_run(trainer):
    run = trainer(gradient_accumulation_steps=2, gradient_checkpointing=True)
    before = snapshot(run.model)
    run.train()
    assert run.state.global_step == 2 and moved(before, run.model)


def test_queries_are_clicks_and_candidates_distinct_targets(trainer):
    run = trainer()
    windows = [run.train_dataset[i] for i in (0, 1, 2, 0)]
    batch = ContrastiveCollator(run.catalogue)(windows)
    targets = [int(target) for window in windows for target in window["targets"]]
    assert batch["item_ids"].tolist() == sorted(set(targets))
    assert batch["item_ids"][batch["target_row"]].tolist() == targets
    assert batch["query_row"].tolist() == [i for i, window in enumerate(windows) for _ in window["targets"]]
    of_items = batch["owners"][batch["owners"][:, 1] == ITEM]
    assert len(of_items) == 2 * len(set(targets))  # a text vector and an image vector each
    for row, click, target in zip(batch["query_row"].tolist(), batch["query_click"].tolist(), targets, strict=True):
        window = batch["window_ids"][row].tolist()
        assert window[: click + 1] == windows[row]["items"][: click + 1].tolist() and window[click + 1] == target


def test_evaluation_names_views_and_cut_offs(trainer):
    metrics = trainer().evaluate()
    for view in ("text", "image", "both"):
        for name in ("hit", "ndcg", "mrr"):
            assert 0 <= metrics[f"eval_{view}_{name}@10"] <= metrics[f"eval_{view}_{name}@20"] + 1e-9 <= 1 + 1e-9
    assert math.isfinite(metrics["eval_margin_text"]) and metrics["eval_runtime"] > 0


@pytest.mark.parametrize(
    ("options", "name"),
    [({"objective": "magic"}, "objective"), ({"temperature": "0"}, "temperature"), ({"margin": "wide"}, "margin"),
     ({"modality_dropout": 1.0}, "modality_dropout"), ({"max_history": 0}, "max_history"),
     ({"validation_users": 0}, "validation_users"), ({"wpcl_lambda": "much"}, "wpcl_lambda")],
)  # fmt: skip
def test_bad_arguments_are_refused(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        VLM2RecTrainingArguments(use_cpu=True, **options)


def test_wrong_models_and_datasets_are_refused(tiny, demo_dataset):
    model, processor = tiny()
    with pytest.raises(ValueError, match="`train_dataset`"):
        VLM2RecTrainer(model, processing_class=processor)
    with pytest.raises(ValueError, match="`model`"):
        VLM2RecTrainer(torch.nn.Linear(2, 2), train_dataset=demo_dataset, processing_class=processor)
    with pytest.raises(ValueError, match="`processing_class`"):
        VLM2RecTrainer(model, train_dataset=demo_dataset)


def test_workers_make_the_same_batches(trainer):
    def losses(**options):
        run = trainer(max_steps=3, **options)
        run.train()
        return [record["loss"] for record in run.state.log_history if "loss" in record]

    assert losses(dataloader_num_workers=1) == losses()


@pytest.mark.slow
def test_a_trained_embedder_recommends_better_than_it_started(tiny):
    from vlm2rec_hf import PreparedCatalogue, make_demo_shop, warm_up_backbone
    from vlm2rec_hf.evaluation import evaluate_embedder

    dataset = make_demo_shop(120, n_users=400).dataset()
    model, processor = tiny(max_history=4)
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    warm_up_backbone(model, catalogue, dataset.items["description"], steps=80, batch_size=64, learning_rate=3e-3)
    examples = dataset.examples("test", max_history=4)
    before = evaluate_embedder(model, catalogue, examples).metrics()
    args = VLM2RecTrainingArguments(
        output_dir="unused", max_steps=120, per_device_train_batch_size=48, learning_rate=2e-3,
        save_strategy="no", use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    VLM2RecTrainer(model, args, train_dataset=dataset, processing_class=processor, catalogue=catalogue).train()
    after = evaluate_embedder(model, catalogue, examples).metrics()
    for view in ("text", "both"):
        assert after[f"{view}_ndcg@10"] > 1.3 * before[f"{view}_ndcg@10"], (view, before, after)
    assert after["image_ndcg@10"] > before["image_ndcg@10"]
