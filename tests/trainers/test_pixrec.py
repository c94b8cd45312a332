"""`PixRecTrainer`: what moves, what is logged, batches, resuming, adapters, validation."""

import copy
import json
import math
import re
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from transformers import AutoModel

from tests.trainers.test_resume import StopAt, losses
from tests.trainers.test_training import moved, snapshot
from vlm2rec_hf import (
    PixRecModel,
    PixRecTrainer,
    PixRecTrainingArguments,
    PreparedCatalogue,
    VisionCache,
    default_lora_config,
    make_demo_shop,
    pixrec_lora_config,
)
from vlm2rec_hf.data.described_items import DescribedItems
from vlm2rec_hf.evaluation import evaluate_pixrec
from vlm2rec_hf.trainers.pixrec_batches import DistinctTargetSampler

TERMS = {"generation", "item_item", "user_item"}
VISION = r"\.(visual|vision_model|connector)\."


@pytest.fixture
def trainer(tiny_pix, demo_dataset, tmp_path):
    """`trainer(model, processor, peft_config=..., **arguments)`: on the demo shop, quiet, on the CPU; all optional."""

    def make(
        model=None,
        processor=None,
        peft_config=None,
        dataset=demo_dataset,
        images=True,
        family="qwen2_vl",
        catalogue=None,
        eval_dataset=None,
        **options,
    ):
        if model is None:
            model, processor = tiny_pix(family, images=images)
        processor.max_history = options.get("max_history", 3)
        settings = {
            "output_dir": str(tmp_path / "run"), "max_steps": 2, "per_device_train_batch_size": 8,
            "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3,
            "validation_users": 10,
        }  # fmt: skip
        arguments = PixRecTrainingArguments(**{**settings, **options})
        return PixRecTrainer(
            model,
            arguments,
            train_dataset=dataset,
            eval_dataset=eval_dataset,
            processing_class=processor,
            peft_config=peft_config,
            catalogue=None if catalogue is None else catalogue(processor),
        )

    return make


def test_every_term_is_logged_and_they_sum_to_the_loss(trainer):
    run = trainer(alpha=0.2, beta=-0.1)
    run.train()
    records = [record for record in run.state.log_history if "loss" in record]
    assert len(records) == 2
    for record in records:
        assert TERMS | {"generation_nll", "item_item_nce", "user_item_nce", "negatives"} <= set(record)
        assert record["loss"] == pytest.approx(sum(record[term] for term in TERMS), rel=1e-4)
        assert record["user_item"] == pytest.approx(-0.1 * record["user_item_nce"], rel=1e-4)
        assert record["generation"] == pytest.approx(0.9 * record["generation_nll"], rel=1e-4)
        assert record["negatives"] > 1
    assert (run.pixrec.config.alpha, run.pixrec.config.beta) == (0.2, -0.1)


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_everything_moves_but_the_vision_tower(trainer, family):
    run = trainer(family=family, learning_rate=1e-2)
    before = snapshot(run.model)
    run.train()
    vision = {name for name in before if re.search(VISION, name)}
    assert vision and run.catalogue.has_cached_features
    assert moved(before, run.model) == set(before) - vision


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_the_vision_tower_moves_when_it_is_asked_to(trainer, family):
    run = trainer(family=family, freeze_vision=False, learning_rate=1e-2)
    before = snapshot(run.model)
    run.train()
    assert not run.catalogue.has_cached_features
    assert any(re.search(VISION, name) for name in moved(before, run.model))


def test_training_lowers_each_term(trainer):
    run = trainer(max_steps=30, per_device_train_batch_size=16, logging_steps=10, learning_rate=5e-3, temperature=0.1)
    run.train()
    records = [record for record in run.state.log_history if "loss" in record]
    for term in TERMS:
        assert records[-1][term] < 0.97 * records[0][term], (term, records)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_resume_equals_an_unbroken_run(trainer, tmp_path, lora):
    def start(folder):
        config = pixrec_lora_config(r=2, dropout=0.1) if lora else None
        options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 5, "max_grad_norm": 1.0}
        return trainer(output_dir=str(tmp_path / folder), peft_config=config, **options)

    whole = start("whole")
    whole.train()
    broken = start("broken")
    broken.add_callback(StopAt(3))
    broken.train()
    assert broken.state.global_step == 3
    resumed = start("broken")
    resumed.train(resume_from_checkpoint=True)
    assert losses(resumed) == losses(whole)
    ours, theirs = dict(resumed.model.named_parameters()), dict(whole.model.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("processes", [1, 2])
def test_resuming_in_a_later_epoch_takes_that_epochs_order(trainer, tmp_path, processes):
    per_epoch = len(trainer().train_dataset) // 128 // processes

    def start(folder):
        """A trainer that sees the batches which the first of so many processes would see."""
        run = trainer(
            output_dir=str(tmp_path / folder), per_device_train_batch_size=128, max_history=1, max_steps=per_epoch + 2,
            save_strategy="steps", save_steps=per_epoch + 1, validation_users=None,
        )  # fmt: skip
        share = {"num_processes": processes, "process_index": 0, "use_seedable_sampler": True, "put_on_device": False}
        run.accelerator.prepare_data_loader = lambda loader, **_: prepare_data_loader(loader, **share)
        return run

    def known(example):
        return (example["target"], *example["seen"])

    def watched(run):
        order, collate = [], run.data_collator

        def watching(examples):
            order.append([known(example) for example in examples])
            return collate(examples)

        run.data_collator = watching
        return order

    whole = start("whole")
    order = watched(whole)
    whole.train()
    assert order[0] != order[per_epoch]  # each epoch has an order of its own
    first = list(DistinctTargetSampler(whole.train_dataset.examples.targets, 128, whole.args.seed))[:128]
    assert order[0] == [known(whole.train_dataset[i]) for i in first]
    resumed = start("whole")
    again = watched(resumed)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{per_epoch + 1}"))
    assert again[0] == order[per_epoch + 1]
    assert losses(resumed) == losses(whole) and whole.state.epoch > 1


@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_adapters_and_projections_move_and_load_back_with_their_base(trainer, tiny_pix, family, tmp_path):
    model, processor = tiny_pix(family)
    model.save_pretrained(tmp_path / "base")
    model = PixRecModel.from_pretrained(tmp_path / "base")
    config = pixrec_lora_config(r=4, dropout=0.0)
    run = trainer(model, processor, peft_config=config, learning_rate=1e-2, max_steps=3)
    before = snapshot(run.model)
    run.train()
    changed = moved(before, run.model)
    assert changed == {name for name in before if "lora_" in name or ".modules_to_save." in name}
    assert {name.split(".")[-4] for name in changed if "modules_to_save" in name} == {
        "user_projection", "item_projection"
    }  # fmt: skip
    assert not any(re.search(VISION, name) for name in changed)
    histories = [["red tent", "blue mug"], ["Alpina lamp 3"]]
    expected = run.pixrec.encode_histories(histories, processor)
    run.save_model(tmp_path / "adapter")
    assert not (tmp_path / "adapter" / "model.safetensors").exists()
    again = AutoModel.from_pretrained(tmp_path / "adapter")
    assert (again.encode_histories(histories, processor) - expected).abs().max() < 1e-6
    assert (
        PixRecModel.from_pretrained(tmp_path / "base").encode_histories(histories, processor) - expected
    ).abs().max() > 1e-4
    # A loaded adapter is trained further, and nothing else of it.
    further = trainer(again, processor, learning_rate=1e-2)
    before = snapshot(further.model)
    further.train()
    changed = moved(before, further.model)
    assert changed and all("lora_" in name or ".modules_to_save." in name for name in changed)
    assert all(any(kind in name for name in changed) for kind in ("lora_", ".modules_to_save."))
    with pytest.raises(ValueError, match="already holds an adapter"):
        trainer(again, processor, peft_config=config)


def test_an_adapter_on_a_raw_backbone_finds_it_again(trainer, tiny_pix, tmp_path):
    from transformers import AutoModelForImageTextToText

    model, processor = tiny_pix()
    whole = AutoModelForImageTextToText.from_config(model.config.vlm_config)
    whole.save_pretrained(tmp_path / "raw")
    model = PixRecModel.from_backbone(str(tmp_path / "raw"), projection_dim=9, seed=5)
    run = trainer(model, processor, peft_config=default_lora_config(r=2), learning_rate=1e-2)
    before = snapshot(run.model)
    run.train()
    # The projections are random and nowhere but here: they are trained and saved, whatever the configuration names.
    assert len([name for name in moved(before, run.model) if "_projection.modules_to_save." in name]) == 4
    run.save_model(tmp_path / "adapter")
    again = PixRecModel.from_pretrained(tmp_path / "adapter")
    assert again.config.projection_dim == 9
    expected = run.pixrec.encode_items(["red tent"], processor)
    assert (again.encode_items(["red tent"], processor) - expected).abs().max() < 1e-6


def test_accumulation_and_checkpointing_run(trainer):
    run = trainer(gradient_accumulation_steps=2, gradient_checkpointing=True, peft_config=pixrec_lora_config(r=2))
    before = snapshot(run.model)
    run.train()
    assert run.state.global_step == 2 and moved(before, run.model)


@pytest.mark.parametrize("given", ["nothing", "memory", "disk"])
@pytest.mark.parametrize("family", ["qwen2_vl", "smolvlm"])
def test_without_images_none_is_read(trainer, tiny_pix, demo_dataset, family, given, tmp_path):
    """Nor from items that have some, nor from a cache that knows them."""
    options = {} if given == "nothing" else {"catalogue": partial(PreparedCatalogue, demo_dataset.catalogue_items())}
    if given == "disk":
        options["vision_cache_dir"] = str(tmp_path / "cache")
        model, processor = tiny_pix(family)
        VisionCache(options["vision_cache_dir"]).fill(model, processor, demo_dataset.catalogue_items())
    run = trainer(family=family, images=False, **options)
    if given == "nothing":
        run.train()
    assert run.catalogue.has_cached_features
    batch = run.data_collator([run.train_dataset[i] for i in range(4)])
    assert not {"pixel_values", "image_features"} & {*batch, *batch["items"]}
    assert run.training_facts()["objective"] == "pixrec-text"


def test_evaluation_ranks_the_validation_split(trainer, demo_dataset):
    run = trainer(validation_users=None)
    metrics = run.evaluate()
    examples = demo_dataset.examples("validation", max_history=3)
    found = evaluate_pixrec(run.pixrec, run.catalogue, examples).metrics()
    assert {name: metrics[f"eval_{name}"] for name in found} == pytest.approx(found)
    assert set(found) == {f"{name}@{k}" for name in ("hit", "ndcg", "mrr") for k in (10, 20)}


def test_the_ranking_never_sees_the_target(trainer, demo_dataset):
    """Other targets, the same histories: other ranks, the same vectors and the same top items."""
    import dataclasses

    run = trainer()
    examples = demo_dataset.examples("test", max_history=3).take(np.arange(20))
    changed = examples.sequences.items.copy()
    changed[examples.position] = (changed[examples.position] + 7) % demo_dataset.n_items
    others = dataclasses.replace(examples, sequences=dataclasses.replace(examples.sequences, items=changed))
    first = evaluate_pixrec(run.pixrec, run.catalogue, examples, exclude_seen=False)
    second = evaluate_pixrec(run.pixrec, run.catalogue, others, exclude_seen=False)
    assert torch.equal(first.users, second.users) and np.array_equal(first.ranking.top_items, second.ranking.top_items)
    assert not np.array_equal(first.ranking.ranks, second.ranking.ranks)


def test_training_reads_no_validation_and_no_test_interaction(trainer, demo_dataset):
    run = trainer()
    examples = run.train_dataset.examples
    assert (examples.sequences.split[examples.position] == 0).all()
    first_held_out = {u: p for u, p in zip(*_held_out(demo_dataset), strict=True)}
    for user, position in zip(examples.user.tolist(), examples.position.tolist(), strict=True):
        assert position < first_held_out[user]
    assert 1 <= min(map(len, examples.histories())) and max(map(len, examples.histories())) == 3


def _held_out(dataset):
    validation = dataset.examples("validation")
    return validation.user.tolist(), validation.position.tolist()


def test_early_stopping_keeps_the_best(trainer, tmp_path):
    run = trainer(
        max_steps=12, early_stopping_patience=2, learning_rate=1e-12, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    run.train()
    assert run.state.global_step == 3  # nothing gets better: the first is the best, two more are allowed
    assert run.state.best_global_step == 1
    run.save_model(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "training.json").read_text())["weights_of_step"] == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`early_stopping_patience`.*`eval_strategy`"),
        ({"eval_strategy": "epoch", "save_strategy": "no"}, "save and eval strategy"),
        ({"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 5}, "`save_steps`"),
    ],
)
def test_early_stopping_that_would_lose_the_best_step_is_refused(tmp_path, options, message):
    """Else a run would end with its last weights, which are `early_stopping_patience` evaluations past its best."""
    with pytest.raises(ValueError, match=f"(?s){message}"):
        PixRecTrainingArguments(str(tmp_path), use_cpu=True, early_stopping_patience=2, **options)


def test_a_resumed_run_keeps_counting_its_patience(trainer, tmp_path):
    options = {
        "max_steps": 12, "early_stopping_patience": 3, "learning_rate": 1e-12, "eval_strategy": "steps",
        "eval_steps": 1, "save_strategy": "steps", "save_steps": 1,
    }  # fmt: skip
    run = trainer(**options)
    run.add_callback(StopAt(3))
    run.train()
    assert run.state.global_step == 3
    again = trainer(**options)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4  # the best at step 1, three more


@pytest.mark.parametrize(("values", "best", "loaded"), [((1, 2, 3, 4, 2), 4, 4), ((1, 2, 3, 1, 1), 3, 2)])
def test_the_step_of_the_weights_is_that_of_the_checkpoint_they_come_from(trainer, values, best, loaded):
    """The best evaluation may fall between two checkpoints."""
    run = trainer(
        max_steps=5, load_best_model_at_end=True, eval_strategy="steps", eval_steps=1, save_strategy="steps",
        save_steps=2,
    )  # fmt: skip
    run.evaluate = lambda *args, **kwargs: {"eval_ndcg@10": values[run.state.global_step - 1]}
    run.train()
    assert run.state.best_global_step == best and run.training_facts()["weights_of_step"] == loaded


@pytest.mark.parametrize("mask_seen", [True, False])
def test_the_loss_is_that_of_each_example_on_its_own(trainer, mask_seen):
    """Rows laid out one by one and put together by hand: repeated targets and seen items land where they belong."""
    run = trainer(mask_seen=mask_seen, learning_rate=0.0)
    examples = [run.train_dataset[i] for i in range(40)]
    twice = next(i for i in range(40) if examples[i]["target"] in [e["target"] for e in examples[:i]])
    first = next(i for i in range(40) if examples[i]["target"] == examples[twice]["target"])
    seen = next(
        (i, j) for i in range(40) for j in range(40)
        if examples[j]["target"] in examples[i]["seen"] and examples[j]["target"] != examples[i]["target"]
    )  # fmt: skip
    chosen = list(dict.fromkeys([seen[0], twice, first, *seen, 3, 17]))
    model, processor = run.pixrec.eval(), run.processing_class
    users, targets, items, nll = [], [], [], []
    for row in (examples[i] for i in chosen):
        target = run.catalogue[row["target"]]
        found = model(**processor.collate_sequences([[run.catalogue[int(i)] for i in row["history"]]], [target]))
        users.append(found.user_embeddings)
        targets.append(found.target_embeddings)
        nll.append(found.token_nll)
        items.append(model(**processor.collate([[target]], "item")).target_embeddings)
    longest = max(len(examples[i]["seen"]) for i in chosen)
    history = torch.tensor([[*examples[i]["seen"], *[-1] * (longest - len(examples[i]["seen"]))] for i in chosen])
    ids = torch.tensor([examples[i]["target"] for i in chosen])
    parts = [torch.cat(part) for part in (users, targets, items, nll)]
    expected = run.loss(*parts, target_ids=ids, history_ids=history if mask_seen else None)
    without = run.loss(*parts, target_ids=ids, history_ids=None if mask_seen else history)
    batch = run.data_collator([examples[i] for i in chosen])
    assert len(batch["items"]["input_ids"]) < len(chosen)
    found = run.compute_loss(model, batch)
    assert float(found.detach()) == pytest.approx(float(expected.total.detach()), abs=2e-6)
    assert abs(float(expected.total.detach()) - float(without.total.detach())) > 1e-4


def test_the_models_forward_is_its_own_again(trainer):
    run = trainer()
    assert "forward" not in vars(run.pixrec)
    batch = run.data_collator([run.train_dataset[0], run.train_dataset[1]])
    assert batch["items"]["input_ids"].shape[0] == len(set(batch["target_ids"].tolist()))
    total, outputs = run.compute_loss(run.model, batch, return_outputs=True)
    assert total.requires_grad and math.isfinite(float(total.detach())) and len(outputs.item_embeddings)


class TestDistinctTargetSampler:
    def test_each_batch_has_distinct_targets_and_each_example_comes_once(self):
        targets = np.random.default_rng(0).zipf(1.6, size=4000) % 300
        sampler = DistinctTargetSampler(targets, 16, seed=3)
        order = list(sampler)
        assert sorted(order) == list(range(4000)) and len(sampler) == 4000
        batches = [order[i : i + 16] for i in range(0, 4000, 16)]
        repeats = [16 - len({int(targets[i]) for i in batch}) for batch in batches]
        # The commonest item stands in far more examples than there are batches; until only its are left, none repeats.
        assert max(Counter(targets.tolist()).values()) > len(batches)
        first = next(i for i, n in enumerate(repeats) if n)
        assert first > len(batches) * 0.3 and not any(repeats[:first])

    def test_epochs_differ_and_come_again(self):
        sampler = DistinctTargetSampler(np.arange(50), 8, seed=1)
        first = list(sampler)
        sampler.set_epoch(1)
        second = list(sampler)
        assert first != second
        sampler.set_epoch(0)
        assert list(sampler) == first
        assert list(DistinctTargetSampler(np.arange(50), 8, seed=2)) != first


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "name"),
        [({"per_device_train_batch_size": 1}, "per_device_train_batch_size"), ({"temperature": 0.0}, "temperature"),
         ({"max_history": 0}, "max_history"), ({"validation_users": 0}, "validation_users"),
         ({"beta": math.inf}, "beta"),
         ({"early_stopping_patience": 0}, "early_stopping_patience")],
    )  # fmt: skip
    def test_bad_arguments(self, options, name):
        with pytest.raises(ValueError, match=f"`{name}`"):
            PixRecTrainingArguments(use_cpu=True, save_strategy="no", **options)

    def test_wrong_models_and_datasets(self, tiny, tiny_pix, demo_dataset, trainer):
        model, processor = tiny_pix()
        with pytest.raises(ValueError, match="`train_dataset`"):
            PixRecTrainer(model, processing_class=processor)
        with pytest.raises(ValueError, match="`model` must be a PixRecModel"):
            trainer(*tiny()[:1], processor)
        with pytest.raises(ValueError, match="`processing_class`"):
            trainer(model, tiny()[1])
        with pytest.raises(ValueError, match="`per_device_train_batch_size`"):
            trainer(per_device_train_batch_size=10**6)


def test_another_dataset_is_ranked_over_its_own_items_described_alike(trainer, demo_dataset):
    other = make_demo_shop(80, n_users=50, seed=5).dataset()  # as many items as the training dataset, and others

    def described(dataset):
        return lambda processor: PreparedCatalogue(DescribedItems(dataset, ["title", "description"]), processor)

    given = trainer(catalogue=described(demo_dataset), eval_dataset=other)
    examples = other.examples("validation", max_history=3).spread(10)
    expected = evaluate_pixrec(given.pixrec, described(other)(given.catalogue.processor), examples).metrics()
    assert len(set(expected.values())) > 1
    for found in (given.evaluate(), trainer(catalogue=described(demo_dataset)).evaluate(other)):
        assert {name: found[f"eval_{name}"] for name in expected} == pytest.approx(expected)


def test_features_of_another_vision_tower_are_refused(tiny_pix, demo_dataset, tmp_path):
    """They have the right shape, so nothing else would tell."""
    (model, processor), (other, _) = tiny_pix(), tiny_pix()
    with torch.no_grad():
        next(iter(other.vision_parameters())).add_(0.1)
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(other)
    arguments = PixRecTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True)
    with pytest.raises(ValueError, match="vision tower"):
        PixRecTrainer(model, arguments, train_dataset=demo_dataset, processing_class=processor, catalogue=catalogue)
    examples = demo_dataset.examples("test", max_history=2).take(np.arange(3))
    with pytest.raises(ValueError, match="vision tower"):
        evaluate_pixrec(model, catalogue, examples)
    assert len(evaluate_pixrec(other, catalogue, examples).ranking) == 3


def test_a_catalogue_of_another_processor_is_refused(tiny_pix, demo_dataset, tmp_path):
    """Training would read its rows, the folder would hold the other processor."""
    (model, processor), (_, other) = tiny_pix(), tiny_pix(user_instruction="Bought before:")
    arguments = PixRecTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True)
    options = {"args": arguments, "train_dataset": demo_dataset, "processing_class": processor}
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), other)
    with pytest.raises(ValueError, match="`catalogue`"):
        PixRecTrainer(model, catalogue=catalogue, **options)
    same = PreparedCatalogue(demo_dataset.catalogue_items(), copy.deepcopy(processor))
    assert PixRecTrainer(model, catalogue=same, **options).catalogue is same


def test_an_evaluation_by_any_name_leaves_the_training_log_its_terms(trainer):
    run = trainer()
    run.compute_loss(run.model.train(), next(iter(run.get_train_dataloader())))
    run.evaluate(metric_key_prefix="test")
    assert not TERMS & set(run.state.log_history[-1]) and "test_hit@10" in run.state.log_history[-1]
    run.log({"loss": 1.0})
    assert set(run.state.log_history[-1]) >= TERMS
