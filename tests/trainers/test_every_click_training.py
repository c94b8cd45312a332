"""Training on every click of a row: loss and gradients are those of separate rows with the same queries."""

import numpy as np
import pytest
import torch

from vlm2rec_hf import PreparedCatalogue
from vlm2rec_hf.losses.similarity import ViewVectors

from ..conftest import FAMILIES
from .test_unusual_batches import Without

NONE = np.array([], dtype=np.int64)
WINDOWS = [
    {"items": np.array([1, 2, 3, 5]), "targets": np.array([2, 3, 5, 9]), "past": np.array([8, 7])},
    {"items": np.array([4, 2]), "targets": np.array([2, 1]), "past": NONE},
    {"items": np.array([6]), "targets": np.array([4]), "past": np.array([5])},
    {"items": np.array([10, 12]), "targets": np.array([12, 13]), "past": NONE},
]
# Item 1, with which a row begins, and item 4 have no image, item 3 has no text.
MISSING = {"image": (1, 4), "text": (3,)}


def one_step(run, batch):
    run.model.train()
    run.model.zero_grad(set_to_none=True)
    loss = run.compute_loss(run.model, batch)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}


def separately(run, batch):
    """The same loss over rows of their own: every prefix encoded alone, by the plain layout of the processor."""
    processor, catalogue = run.catalogue.processor, run.catalogue
    clicks = zip(batch["query_row"].tolist(), batch["query_click"].tolist(), strict=True)
    histories = [[catalogue[int(i)] for i in WINDOWS[row]["items"][: click + 1]] for row, click in clicks]
    run.model.train()
    run.model.zero_grad(set_to_none=True)
    parts = [run.model(**processor.collate([history], "user")) for history in histories]
    items = [run.model(**processor.collate([[catalogue[i]]], "item")) for i in batch["item_ids"].tolist()]
    users, candidates = views(parts), views(items)
    history_ids = [sorted(no_negatives(run.args, row, click)) for row, click in
                   zip(batch["query_row"].tolist(), batch["query_click"].tolist(), strict=True)]  # fmt: skip
    longest = max(map(len, history_ids))
    output = run.loss(
        users, candidates,
        target_ids=batch["item_ids"][batch["target_row"]], candidate_ids=batch["item_ids"],
        positive=batch["target_row"],
        history_ids=torch.tensor([ids + [-1] * (longest - len(ids)) for ids in history_ids], dtype=torch.long),
        progress=0.0,
    )  # fmt: skip
    output.total.backward()
    loss = float(output.total.detach())
    return loss, {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}


def no_negatives(args, row, click):
    window = WINDOWS[row]
    whole = [*window["items"].tolist(), int(window["targets"][-1])]
    seen = [*window["past"].tolist(), *whole[: click + 1]] if args.mask_seen else []
    return {*seen, *(whole if args.mask_row_targets else [])}


def views(outputs):
    if outputs[0].text_embeddings is None:
        text = torch.cat([output.embeddings for output in outputs])
        here = torch.ones(len(text), dtype=torch.bool)
        return ViewVectors(text, torch.zeros_like(text), here, ~here)
    names = ("text_embeddings", "image_embeddings", "has_text", "has_image")
    return ViewVectors(*(torch.cat([getattr(output, name) for output in outputs]) for name in names))


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1].keys() == other[1].keys()
    largest = max(float(gradient.abs().max()) for gradient in other[1].values())
    assert largest > 1e-3
    for name, gradient in other[1].items():
        assert (one[1][name] - gradient).abs().max() <= 1e-5 * max(largest, 1), name


def make(tiny, trainer, demo_dataset, family="qwen2_vl", fusion="external", side="right", **options):
    model, processor = tiny(family, fusion)
    processor.tokenizer.padding_side = side
    catalogue = PreparedCatalogue(Without(demo_dataset.catalogue_items(), **MISSING), processor)
    return trainer(model, processor, catalogue=catalogue, max_history=4, **options)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_loss_and_gradients_are_those_of_separate_rows(tiny, trainer, demo_dataset, family, fusion):
    objective = "wpcl+crtr" if fusion == "external" else "sft"
    side = "left" if fusion == "external" else "right"
    run = make(tiny, trainer, demo_dataset, family, fusion, side, objective=objective)
    batch = run.data_collator(WINDOWS)
    assert_same(one_step(run, batch), separately(run, batch))


@pytest.mark.parametrize("objective", ["sft", "sft+unimodal", "text_only", "image_only"])
@pytest.mark.parametrize("masks", [(True, False), (False, True), (False, False)])
def test_for_every_objective_and_mask(tiny, trainer, demo_dataset, objective, masks):
    options = {"mask_seen": masks[0], "mask_row_targets": masks[1], "objective": objective}
    run = make(tiny, trainer, demo_dataset, cache_vision_features=False, freeze_vision=False, **options)
    batch = run.data_collator(WINDOWS)
    assert_same(one_step(run, batch), separately(run, batch))


@pytest.mark.parametrize("fusion", ["external", "internal"])
def test_packed_rows_train_alike(tiny, trainer, demo_dataset, monkeypatch, fusion):
    """As with flash attention, for which a CPU has no kernel: the other kinds of attention pack correctly, too."""
    steps = []
    for packed in (False, True):
        run = make(tiny, trainer, demo_dataset, fusion=fusion, side="left", objective="sft")
        monkeypatch.setattr("vlm2rec_hf.modeling.modeling_vlm2rec.packs", lambda model, packing, on=packed: on)
        steps.append(one_step(run, run.data_collator(WINDOWS)))
    assert_same(*steps)


@pytest.mark.parametrize(("objective", "view"), [("text_only", 0), ("image_only", 1)])
def test_only_the_view_that_trains_is_run(tiny, trainer, demo_dataset, objective, view):
    run = make(tiny, trainer, demo_dataset, objective=objective)
    batch = run.data_collator(WINDOWS)
    assert set(batch["owners"][:, 0].tolist()) == {view}
    both = make(tiny, trainer, demo_dataset).data_collator(WINDOWS)
    assert batch["real_tokens"] < 0.7 * both["real_tokens"]


def test_last_trains_one_target_per_row(tiny, trainer, demo_dataset):
    every = make(tiny, trainer, demo_dataset)
    last = make(tiny, trainer, demo_dataset, targets_per_row="last")
    assert last.train_dataset.n_targets == every.train_dataset.n_targets == len(demo_dataset.examples("train"))
    batch = last.data_collator([last.train_dataset[i] for i in range(6)])
    assert len(batch["query_row"]) == 6 and len(set(batch["query_row"].tolist())) == 6
    last.train()
    assert all(np.isfinite(record["loss"]) for record in last.state.log_history if "loss" in record)


def test_the_loss_in_blocks_is_the_same(tiny, trainer, demo_dataset, monkeypatch):
    steps = []
    for block in (None, 3):
        run = make(tiny, trainer, demo_dataset, objective="wpcl+crtr", mask_row_targets=False)
        monkeypatch.setattr(run, "_block", lambda queries, candidates, block=block: block)
        steps.append(one_step(run, run.data_collator(WINDOWS)))
    assert_same(*steps)


def test_matrices_that_would_not_fit_are_cut(tiny, trainer, demo_dataset, monkeypatch):
    run = make(tiny, trainer, demo_dataset)
    assert run._block(1000, 1000) is None
    monkeypatch.setattr("vlm2rec_hf.trainers.vlm2rec_trainer.free_memory", lambda device: 4 * 120 * 10_000)
    assert run._block(100, 100) is None and run._block(1000, 1000) == 10


def test_accumulated_batches_weigh_every_query_alike(tiny, trainer, demo_dataset):
    """Batches of 4 and of 2 queries: with equal candidates the step's loss is the mean over all six."""
    run = make(tiny, trainer, demo_dataset, gradient_accumulation_steps=2)
    batches = [run.data_collator(WINDOWS[:1]), run.data_collator(WINDOWS[1:2])]
    samples, _ = run.get_batch_samples(iter(batches), 2, run.args.device)
    assert [batch["weight"] for batch in samples] == pytest.approx([4 / 3, 2 / 3])
    alone = run.compute_loss(run.model, run.data_collator(WINDOWS[:1]))
    assert float(run.compute_loss(run.model, samples[0])) == pytest.approx(float(alone) * 4 / 3, rel=1e-6)


def test_speed_and_padding_are_logged(trainer):
    run = trainer()
    run.train()
    records = [record for record in run.state.log_history if "loss" in record]
    for record in records:
        assert record["targets"] > 8 and 0 <= record["padding_share"] < 0.5
        assert record["targets_per_second"] > 0 and record["tokens_per_second"] > record["targets_per_second"]


def test_arguments_and_processor_agree_on_the_history(tiny, demo_dataset, tmp_path):
    from vlm2rec_hf import VLM2RecTrainer, VLM2RecTrainingArguments

    def make_trainer(max_history):
        model, processor = tiny(max_history=7)
        args = VLM2RecTrainingArguments(output_dir=str(tmp_path), use_cpu=True, max_history=max_history)
        return VLM2RecTrainer(model, args, train_dataset=demo_dataset, processing_class=processor)

    assert make_trainer(None).args.max_history == make_trainer(7).args.max_history == 7
    with pytest.raises(ValueError, match="`max_history` of the arguments is 5, but the processor.* keeps 7"):
        make_trainer(5)
