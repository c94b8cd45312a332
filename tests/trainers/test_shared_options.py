"""Options that `VLM2RecTrainer` and `PixRecTrainer` share act in both."""

import copy
import dataclasses

import pytest
import torch
from peft import LoraConfig
from transformers import TrainingArguments

from tests.trainers.test_training import moved, snapshot
from vlm2rec_hf import (
    PixRecModel,
    PixRecTrainer,
    PixRecTrainingArguments,
    PreparedCatalogue,
    VLM2RecTrainer,
    VLM2RecTrainingArguments,
    make_demo_shop,
)
from vlm2rec_hf.trainers.adapters import prepare_adapter_training, wrap_with_adapter
from vlm2rec_hf.trainers.encoder_args import EncoderTrainingArguments

METHODS = {
    "vlm2rec": (VLM2RecTrainer, VLM2RecTrainingArguments, "both_ndcg@10"),
    "pixrec": (PixRecTrainer, PixRecTrainingArguments, "ndcg@10"),
}


@pytest.fixture(params=METHODS)
def method(request, tiny, tiny_pix, demo_dataset, tmp_path):
    """`method(model=None, **arguments)`: a trainer of either kind on the demo shop."""
    trainer, arguments, metric = METHODS[request.param]
    model, processor = (tiny if request.param == "vlm2rec" else tiny_pix)(max_history=3)

    def make(given=None, **options):
        own = {name: options.pop(name) for name in ("peft_config", "evaluator", "catalogue") if name in options}
        settings = {
            "output_dir": str(tmp_path / "run"), "max_steps": 2, "per_device_train_batch_size": 8,
            "logging_steps": 1, "save_strategy": "no", "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3,
            "validation_users": 10,
        }  # fmt: skip
        return trainer(
            model if given is None else given,
            arguments(**{**settings, **options}),
            train_dataset=demo_dataset,
            processing_class=processor,
            **own,
        )

    make.model, make.processor, make.metric = model, processor, metric
    return make


def test_their_names_defaults_and_words_are_one():
    shared = {field.name for field in dataclasses.fields(EncoderTrainingArguments)}
    own = shared - {field.name for field in dataclasses.fields(TrainingArguments)}
    assert {"freeze_vision", "vision_cache_dir", "validation_users", "early_stopping_patience", "max_history"} <= own
    fields = [{f.name: f for f in dataclasses.fields(kind)} for _, kind, _ in METHODS.values()]
    for name in own | {"learning_rate", "logging_steps", "report_to", "save_total_limit", "dataloader_drop_last"}:
        one, other = (each[name] for each in fields)
        assert one.metadata["help"] == other.metadata["help"], name
        assert one.default == other.default, name


def test_the_metric_of_the_best_checkpoint_is_known_before_the_first_step(method):
    measured = method(eval_strategy="steps").evaluate()
    names = set(method(eval_strategy="steps").validation_names(method.model))
    assert {f"eval_{name}" for name in names} == set(measured) - {"eval_runtime"}
    with pytest.raises(ValueError, match=r"`metric_for_best_model` 'scored_ndcg@10' is not measured when .*ndcg@10"):
        method(eval_strategy="steps", metric_for_best_model="scored_ndcg@10")
    method(metric_for_best_model="anything")  # nothing is validated
    method(eval_strategy="steps", metric_for_best_model="sold", evaluator=lambda model: {"sold": 1.0})


def test_freeze_vision_false_trains_a_tower_that_was_frozen(method):
    method.model.freeze_vision()
    run = method(freeze_vision=False, learning_rate=1e-2)
    assert all(p.requires_grad for p in method.model.vision_parameters()) and not run.catalogue.has_cached_features
    before = [p.detach().clone() for p in method.model.vision_parameters()]
    run.train()
    after = list(method.model.vision_parameters())
    assert not all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("freeze", [True, False])
def test_with_adapters_only_theirs_inside_the_tower_can_train(method, freeze):
    config = LoraConfig(r=2, target_modules=["q_proj", "qkv"], task_type="FEATURE_EXTRACTION")
    run = method(freeze_vision=freeze, peft_config=config)
    training = {name for name, p in run.model.named_parameters() if p.requires_grad}
    assert_adapters_and_new_modules(run, training)
    assert any(".visual." in name for name in training) == (not freeze)
    assert run.catalogue.has_cached_features == freeze


def test_the_vision_cache_is_filled_read_and_kept_in_its_dtype(method, tmp_path):
    folder = tmp_path / "features"
    losses = []
    for workers, dtype in ((0, "float32"), (1, "float32"), (0, "float16")):
        run = method(vision_cache_dir=str(folder / dtype), vision_cache_dtype=dtype, dataloader_num_workers=workers)
        assert run.catalogue.has_cached_features and any((folder / dtype).rglob("*"))
        losses.append(float(run.compute_loss(run.model.eval(), next(iter(run.get_train_dataloader()))).detach()))
    assert losses[0] == losses[1] and losses[2] != losses[0]
    assert losses[2] == pytest.approx(losses[0], rel=1e-2)
    with pytest.raises(ValueError, match="`vision_cache_dir` .* is being trained; leave it out"):
        method(vision_cache_dir=str(folder), freeze_vision=False)


def test_another_dataset_is_evaluated_through_the_cache(method, tmp_path):
    other = make_demo_shop(60, n_users=40, seed=5).dataset()
    for options, cached in (({"vision_cache_dir": str(tmp_path / "features")}, True), ({}, False)):
        run = method(**options)
        run.evaluate(other)
        assert run._catalogues.of(other).has_cached_features == cached


def test_early_stopping_keeps_the_best(method):
    run = method(
        max_steps=12, early_stopping_patience=2, learning_rate=1e-12, eval_strategy="steps", eval_steps=1,
        save_strategy="steps", save_steps=1,
    )  # fmt: skip
    run.train()
    assert run.state.global_step == 3  # nothing gets better: the first is the best, two more are allowed
    assert run.training_facts()["weights_of_step"] == run.state.best_global_step == 1


def test_validation_users_are_spread_over_the_split(method, demo_dataset):
    counts = []
    run = method(validation_users=7)
    run.rank = lambda catalogue, examples, **options: counts.append(len(examples)) or {}
    run.evaluate()
    run.args.validation_users = None
    run.evaluate()
    assert counts == [7, len(demo_dataset.examples("validation"))]


def test_an_evaluator_takes_the_place_of_the_ranking(method):
    run = method(evaluator=lambda model: {"size": float(sum(p.numel() for p in model.parameters()))})
    metrics = run.evaluate()
    assert metrics["eval_size"] > 0 and not any("ndcg" in name for name in metrics)


def test_steps_log_their_wait_and_evaluations_take_nothing_of_theirs(method):
    run = method(eval_strategy="steps", eval_steps=1)
    run.train()
    logs = run.state.log_history
    training, evaluations = ([r for r in logs if key in r] for key in ("loss", "eval_runtime"))
    assert len(training) == len(evaluations) == 2
    assert all(record["data_wait"] > 0 for record in training)
    assert all(f"eval_{method.metric}" in record and "data_wait" not in record for record in evaluations)
    run.compute_loss(run.model.train(), next(iter(run.get_train_dataloader())))
    run.evaluate(metric_key_prefix="test")
    assert f"test_{method.metric}" in run.state.log_history[-1]
    recorded = run.step_metrics.means()
    assert recorded and not set(recorded) & set(run.state.log_history[-1])


def test_a_catalogue_of_another_processor_is_refused(method, demo_dataset):
    """Training would read its rows, the folder would hold the other processor."""
    other = copy.deepcopy(method.processor)
    other.user_instruction = "Bought before:"
    with pytest.raises(ValueError, match="`catalogue` was prepared with a processor of other settings"):
        method(catalogue=PreparedCatalogue(demo_dataset.catalogue_items(), other))


def assert_adapters_and_new_modules(run, names):
    """What trains are adapters, and whole what is new in the model: PixRec's projections."""
    new = getattr(run.trained, "trained_beside_adapters", ())
    whole = {module for module in new if any(f".{module}.modules_to_save." in name for name in names)}
    assert whole == set(new) and bool(new) == isinstance(run, PixRecTrainer)
    rest = [name for name in names if not any(f".{module}.modules_to_save." in name for module in new)]
    assert rest and all("lora_" in name for name in rest)


def test_checkpointed_adapters_train_over_frozen_weights(method):
    config = LoraConfig(r=2, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION")
    for reentrant in (True, False):
        run = method(
            peft_config=config, gradient_checkpointing=True, learning_rate=1e-2,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        )  # fmt: skip
        before = snapshot(run.model)
        run.train()
        assert_adapters_and_new_modules(run, moved(before, run.model))
        run.model.unload()


class Plugin:
    zero_stage = 3


def test_adapters_follow_trls_rules_for_zero_3_and_quantized_weights(tiny_pix):
    """No DeepSpeed and no quantized kernels here: the rules alone."""
    config = LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], task_type="FEATURE_EXTRACTION")

    def dtypes(zero=False, quantized=False):
        args = PixRecTrainingArguments(use_cpu=True, save_strategy="no", gradient_checkpointing=True)
        args.deepspeed_plugin = Plugin() if zero else None
        model = tiny_pix()[0].bfloat16()
        model.is_loaded_in_4bit = quantized
        wrapped = wrap_with_adapter(model, config, args)
        prepare_adapter_training(wrapped, model, args)
        kinds = {
            kind: {p.dtype for name, p in wrapped.named_parameters() if kind in name}
            for kind in ("lora_A", "lora_magnitude")
        }
        old = args.gradient_checkpointing_kwargs
        assert getattr(args, "activation_checkpointing_kwargs", old) == old  # the library's new name of it
        return kinds, (old or {}).get("use_reentrant")

    short, long = {torch.bfloat16}, {torch.float32}
    assert dtypes() == ({"lora_A": long, "lora_magnitude": long}, None)
    assert dtypes(zero=True) == ({"lora_A": short, "lora_magnitude": short}, True)
    assert dtypes(quantized=True) == ({"lora_A": short, "lora_magnitude": long}, None)


def test_an_adapter_on_the_head_would_not_train_and_is_refused(demo_dataset, tiny_pix, tmp_path):
    model, processor = tiny_pix()
    if model.lm_head is None:
        config = model.config
        config.tie_word_embeddings = config.vlm_config.tie_word_embeddings = False
        config.get_text_config().tie_word_embeddings = False
        model = PixRecModel(config)
    arguments = PixRecTrainingArguments(str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no")
    config = LoraConfig(r=2, target_modules=["q_proj", "lm_head"], task_type="FEATURE_EXTRACTION")
    with pytest.raises(ValueError, match="`peft_config` puts an adapter on `lm_head`"):
        PixRecTrainer(model, arguments, train_dataset=demo_dataset, processing_class=processor, peft_config=config)
