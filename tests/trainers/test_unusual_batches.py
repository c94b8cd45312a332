"""Batches with nothing to learn, items with nothing to show, settings under which no batch exists."""

import numpy as np
import pytest
import torch
from transformers import AutoModel

from vlm2rec_hf import PreparedCatalogue, VLM2RecTrainer, VLM2RecTrainingArguments, default_lora_config
from vlm2rec_hf.evaluation.encoding_inputs import PreparedHistories
from vlm2rec_hf.trainers.collator import USER, ContrastiveCollator
from vlm2rec_hf.trainers.pixrec_batches import PixRecCollator
from vlm2rec_hf.trainers.step_views import assemble


class Without:
    """The demo shop's items, with some of their parts taken away."""

    def __init__(self, items, text=(), image=()):
        self.items, self.text, self.image = items, set(text), set(image)

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = dict(self.items[index])
        return {
            "text": None if index in self.text else item["text"],
            "image": None if index in self.image else item["image"],
        }


def catalogue_of(demo_dataset, processor, **missing):
    return PreparedCatalogue(Without(demo_dataset.catalogue_items(), **missing), processor)


@pytest.mark.parametrize(
    ("objective", "part"),
    [("image_only", "image"), ("text_only", "text"), ("wpcl+crtr", "image"), ("modality_dropout", "text")],
)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_no_item_of_the_batch_has_the_view_that_trains(tiny, trainer, demo_dataset, objective, part, lora):
    model, processor = tiny()
    catalogue = catalogue_of(demo_dataset, processor, **{part: range(demo_dataset.n_items)})
    run = trainer(
        model,
        processor,
        catalogue=catalogue,
        objective=objective,
        peft_config=default_lora_config(2) if lora else None,
    )
    run.train()
    logs = [record for record in run.state.log_history if "loss" in record]
    assert len(logs) == 2 and all(np.isfinite(record["loss"]) for record in logs)
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    if objective.endswith("_only"):
        assert [record["loss"] for record in logs] == [0.0, 0.0] and logs[0]["grad_norm"] == 0.0
    else:
        assert min(record["loss"] for record in logs) > 0


@pytest.mark.parametrize("make", ["tiny", "tiny_pix"])
def test_an_item_that_says_nothing_takes_no_number(request, demo_dataset, make):
    """Neither in training, which is handed it, nor in evaluation, which leaves it out before."""
    _, processor = request.getfixturevalue(make)(history_template="{number}) {text}|", user_instruction="U: ")
    catalogue = catalogue_of(demo_dataset, processor, text=[1, 2], image=[1, 2, 3])
    catalogue.items.image.discard(2)  # an image alone says something
    clicks = [0, 1, 2, 3]
    evaluated = processor.collate([PreparedHistories(catalogue, [clicks])[0]], "user")
    if make == "tiny":
        laid = ContrastiveCollator(catalogue).lay_out([(USER, 0, tuple(clicks))])
        assert laid["owners"][:, 3].tolist() == [0, 3, 0, 2]  # clicks with a text, clicks with an image
        trained = laid["groups"][0]
    else:
        trained = PixRecCollator(catalogue, 5)([{"history": clicks, "target": 4, "seen": clicks}])
    ids, wanted = (batch["input_ids"][0][batch["attention_mask"][0].bool()] for batch in (trained, evaluated))
    assert torch.equal(ids[: len(wanted)], wanted)  # behind it PixRec's target
    read = processor.tokenizer.decode(wanted, skip_special_tokens=True)
    assert "1) " in read and "3) " in read and "4) " not in read


def test_items_with_neither_text_nor_image_are_no_targets(tiny, trainer, demo_dataset):
    model, processor = tiny()
    empty = range(0, demo_dataset.n_items, 2)
    run = trainer(model, processor, catalogue=catalogue_of(demo_dataset, processor, text=empty, image=empty))
    windows = [run.train_dataset[i] for i in range(len(run.train_dataset.cut(0)))]
    trained = np.concatenate([window["targets"][window["targets"] >= 0] for window in windows])
    assert len(trained) and (trained % 2 == 1).all()
    for window in windows:  # a click before which nothing could be read is no query
        nothing_yet = np.cumsum(window["items"] % 2 == 1)[-len(window["targets"]) :] == 0
        assert (window["targets"][nothing_yet] == -1).all()
    everything = demo_dataset.examples("train")
    readable = [(everything.seen(i) % 2 == 1).any() for i in range(len(everything))]
    assert 0 < len(trained) <= ((everything.targets % 2 == 1) & readable).sum()
    run.train()
    assert all(torch.isfinite(p).all() for p in run.model.parameters())
    everything = range(demo_dataset.n_items)
    with pytest.raises(ValueError, match="`train_dataset` has no training example"):
        trainer(model, processor, catalogue=catalogue_of(demo_dataset, processor, text=everything, image=everything))


def test_a_batch_of_users_without_images_has_no_image_rows(tiny, demo_dataset):
    model, processor = tiny()
    collator = ContrastiveCollator(catalogue_of(demo_dataset, processor, image=range(40)))
    windows = [
        {"items": np.array([1, 2]), "targets": np.array([2, 3]), "past": np.array([7])},
        {"items": np.array([4]), "targets": np.array([50]), "past": np.array([], dtype=np.int64)},
    ]
    batch = collator(windows)
    vectors = torch.cat([output.embeddings for output in model(groups=batch["groups"], **batch["images"])])
    users, items = assemble(vectors, batch["owners"], batch)
    assert batch["item_ids"].tolist() == [2, 3, 50] and items.has_image.tolist() == [False, False, True]
    assert users.has_text.all() and not users.has_image.any()
    assert batch["query_row"].tolist() == [0, 0, 1] and batch["query_click"].tolist() == [0, 1, 0]
    assert batch["window_ids"].tolist() == [[1, 2, 3], [4, 50, -1]] and batch["past_ids"].tolist() == [[7], [-1]]


def test_logged_gradient_norms_do_not_depend_on_accumulation(trainer):
    """The library divides the loss by the number of accumulated batches before the backward pass."""
    found = []
    for steps in (1, 2):
        # A learning rate of 0: both runs see the same weights and the same first two batches.
        run = trainer(learning_rate=0.0, gradient_accumulation_steps=steps, max_steps=2 // steps)
        run.train()
        logs = [record for record in run.state.log_history if "loss" in record]
        found.append(
            {name: np.mean([record[name] for record in logs]) for name in ("grad_norm_text", "grad_norm_image")}
        )
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_settings_under_which_nothing_would_train_are_refused(tiny, trainer, demo_dataset):
    with pytest.raises(ValueError, match="`per_device_train_batch_size` must be at least 2, got 1"):
        trainer(per_device_train_batch_size=1)
    assert len(trainer(per_device_train_batch_size=100_000).get_train_dataloader()) == 1


def test_cached_features_and_a_training_tower_exclude_each_other(tiny, trainer, demo_dataset):
    model, processor = tiny()
    catalogue = PreparedCatalogue(demo_dataset.catalogue_items(), processor).cache_features(model)
    with pytest.raises(ValueError, match="`catalogue` holds cached"):
        trainer(model, processor, catalogue=catalogue, freeze_vision=False)


def test_cached_features_train_the_same(trainer):
    runs = [trainer(cache_vision_features=cache, objective="sft+unimodal") for cache in (True, False)]
    losses = []
    for run in runs:
        run.train()
        losses.append([record["loss"] for record in run.state.log_history if "loss" in record])
    assert runs[0].catalogue.has_cached_features and not runs[1].catalogue.has_cached_features
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl", "smolvlm", "idefics3"])
def test_the_other_families_train_with_lora(tiny, trainer, family):
    model, processor = tiny(family)
    run = trainer(model, processor, peft_config=default_lora_config(2), gradient_checkpointing=True)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    run.train()
    moved = {name for name, p in run.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all("lora_" in name and "vis" not in name for name in moved)
    # Seven projections in each of the two layers; the A side's gradient is zero until B has moved once.
    assert sum("lora_B" in name for name in moved) == 14


def test_a_path_and_loading_options_make_the_model(tiny, demo_dataset, tmp_path):
    model, processor = tiny()
    model.save_pretrained(tmp_path / "start")
    processor.save_pretrained(tmp_path / "start")
    arguments = {"output_dir": str(tmp_path / "run"), "use_cpu": True, "max_steps": 1, "disable_tqdm": True}
    arguments |= {"per_device_train_batch_size": 8, "save_strategy": "no"}
    for options in ({"dtype": "float64"}, '{"dtype": "float64"}'):  # a dict, or JSON from the command line
        run = VLM2RecTrainer(
            str(tmp_path / "start"),
            VLM2RecTrainingArguments(model_init_kwargs=options, **arguments),
            train_dataset=demo_dataset,
            peft_config=default_lora_config(2, dropout=0.0),
        )
        assert run.embedder.dtype == torch.float64
    run.train()
    run.save_model(tmp_path / "adapter")
    again = AutoModel.from_pretrained(tmp_path / "adapter")  # base and adapter by the adapter's folder alone
    expected = run.embedder.encode_items(["red tent", "blue mug"], processor).both
    assert (again.encode_items(["red tent", "blue mug"], processor).both - expected).abs().max() < 1e-6
    with pytest.raises(ValueError, match="`model_init_kwargs`"):
        VLM2RecTrainingArguments(model_init_kwargs="dtype=bfloat16", **arguments)
    with pytest.raises(ValueError, match="`model_init_kwargs` only applies"):
        VLM2RecTrainer(
            model,
            VLM2RecTrainingArguments(model_init_kwargs={"dtype": "float64"}, **arguments),
            train_dataset=demo_dataset,
            processing_class=processor,
        )
