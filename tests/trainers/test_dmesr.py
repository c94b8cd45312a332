"""Training DMESR: it learns, logs both terms, resumes, keeps to the split, and leaves its inputs alone."""

import json

import pytest
import torch
from transformers import TrainerCallback

from vlm2rec_hf import (
    DMESRConfig,
    DMESRModel,
    DMESRTrainer,
    DMESRTrainingArguments,
    RecDataset,
    SeqRecConfig,
    SeqRecTrainer,
    SeqRecTrainingArguments,
    SequentialRecommender,
)
from vlm2rec_hf.evaluation import rank_head
from vlm2rec_hf.losses import alignment_loss
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS
from vlm2rec_hf.modeling.inputs_dmesr import ItemInputs

from .walks import walks


@pytest.fixture(scope="module")
def rounds():
    return walks(120)


def telling_inputs(n, seed=0):
    """Each item has its own descriptions and tokens."""
    generator = torch.Generator().manual_seed(seed)
    coarse, fine = torch.randn(n, 3, 12, generator=generator), torch.randn(n, 4, 10, generator=generator)
    described, tokens = torch.rand(n, 3, generator=generator) < 0.9, torch.ones(n, 4, dtype=torch.bool)
    return ItemInputs(coarse.half(), described, fine.half(), tokens)


def make(dataset, folder, encoder="sasrec", model_options=None, **options):
    torch.manual_seed(0)
    inputs = telling_inputs(dataset.n_items)
    sizes = {"hidden_size": 16, "max_length": 12, "dropout": 0.1, **(model_options or {})}
    model = DMESRModel(DMESRConfig(n_items=dataset.n_items, encoder=encoder, content_dims=inputs.dims, **sizes))
    model.set_inputs(inputs, embedder="org/text", embedder_revision="b" * 40, fingerprint="f")
    arguments = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "disable_tqdm": True, "use_cpu": True,
        "warmup_steps": 5, "learning_rate": 1e-2, **options,
    }  # fmt: skip
    return DMESRTrainer(model, DMESRTrainingArguments(str(folder), **arguments), dataset)


WITHOUT_EVALUATION = {"eval_strategy": "no", "save_strategy": "no", "load_best_model_at_end": False}


def log_of(run, name):
    return [(record["step"], record[name]) for record in run.state.log_history if name in record]


@pytest.mark.parametrize(
    "encoder", [*SEQUENCE_ENCODERS[:2], pytest.param(SEQUENCE_ENCODERS[2], marks=pytest.mark.slow)]
)
def test_every_encoder_learns_to_walk_in_circles(rounds, tmp_path, encoder):
    run = make(rounds, tmp_path, encoder, num_train_epochs=60 if encoder == "bert4rec" else 12, **WITHOUT_EVALUATION)
    before = [part.clone() for part in run.head.inputs._parts()]
    run.train()
    test = rank_head(run.head, rounds.examples("test", max_history=12), exclude_seen=False)
    assert (test.ranks == 1).mean() > 0.7  # chance is 1/24
    after = run.head.inputs._parts()
    assert all(torch.equal(a.float(), b.float()) for a, b in zip(before, after, strict=True))
    losses = [value for _, value in log_of(run, "loss_alignment")]
    assert losses[-1] < losses[0]


def test_binary_cross_entropy_with_one_negative_learns(rounds, tmp_path):
    run = make(rounds, tmp_path, loss="bce", n_negatives=1, num_train_epochs=25, **WITHOUT_EVALUATION)
    run.train()
    assert (rank_head(run.head, rounds.examples("test"), exclude_seen=False).ranks == 1).mean() > 0.5


@pytest.mark.parametrize("targets", ["hard", "soft"])
def test_the_loss_is_the_sum_of_its_logged_terms(rounds, tmp_path, targets):
    options = {"alignment_weight": 0.1, "alignment_targets": targets, "logging_strategy": "steps", "logging_steps": 1}
    run = make(rounds, tmp_path, max_steps=3, **options, **WITHOUT_EVALUATION)
    run.train()
    terms = [dict(log_of(run, name)) for name in ("loss", "loss_next_item", "loss_alignment")]
    assert len(terms[0]) == 3
    for step, total in terms[0].items():
        assert total == pytest.approx(terms[1][step] + 0.1 * terms[2][step], rel=1e-4)


def test_alignment_is_over_the_items_of_the_batch(rounds, tmp_path):
    run = make(rounds, tmp_path, alignment_weight=1.0)
    batch = {"input_ids": torch.tensor([[3, 1, 4], [1, -1, -1]]), "labels": torch.tensor([[1, 4, 9], [5, -1, -1]])}
    run.model.eval()
    loss = run.compute_loss(run.model, batch)
    run.args.alignment_weight = 0.0
    plain = run.compute_loss(run.model, batch)
    items = torch.tensor([1, 3, 4, 5, 9])
    assert run._some_items(batch).tolist() == items.tolist()
    expected = alignment_loss(*run.head.description_vectors(items), temperature=0.1)
    assert float((loss - plain).detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    run.args.alignment_items = 2
    assert len(run._some_items(batch)) == 2
    named = {name for name, _ in run.model.named_parameters()}
    expected.backward()
    reached = {name for name, p in run.model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert reached and reached < named and all(name.startswith("fusion.coarse.") for name in reached)


class StopAt(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= 11


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_a_resumed_run_has_the_same_curve(rounds, tmp_path, encoder):
    def start(folder):
        return make(
            rounds, tmp_path / folder, encoder, {"item_representation": "content+id"}, save_strategy="steps",
            save_steps=5, eval_strategy="steps", eval_steps=5, logging_strategy="steps", logging_steps=1,
            alignment_items=9,
        )  # fmt: skip

    whole = start("whole")
    whole.train()
    broken = start("broken")
    broken.add_callback(StopAt())
    broken.train()
    resumed = start("broken")
    resumed.train(resume_from_checkpoint=True)
    for name in ("loss", "loss_alignment", "eval_ndcg@10"):
        assert log_of(resumed, name) == log_of(whole, name) != []
    theirs = dict(whole.head.named_parameters())
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.head.named_parameters())


def test_nothing_of_the_future_enters_training(rounds, tmp_path):
    """With every validation and test interaction changed, the same weights come out."""
    sequences = rounds.sequences()
    rows = []
    for user in range(sequences.n_users):
        for place in range(sequences.offsets[user], sequences.offsets[user + 1]):
            item = int(sequences.items[place])
            item = item if sequences.split[place] == 0 else 23 - item
            name = str(sequences.user_ids[user])
            rows.append({"user_id": name, "item_id": str(sequences.item_ids[item]), "position": place})
    changed = RecDataset.from_tables(rows, name="changed").leave_one_out()
    assert list(changed.item_ids) == list(rounds.item_ids)
    assert list(changed.sequences().user_ids) == list(sequences.user_ids)
    assert (changed.sequences().items != sequences.items).sum() == 2 * sequences.n_users
    runs = []
    for data in (rounds, changed):  # one after the other: making a trainer sets the seed that dropout draws from
        runs.append(make(data, tmp_path / data.name, max_steps=6, **WITHOUT_EVALUATION))
        runs[-1].train()
    others = dict(runs[1].head.named_parameters())
    assert all(torch.equal(value, others[name]) for name, value in runs[0].head.named_parameters())
    assert runs[0].validation is None


def test_a_saved_run_says_what_it_is(rounds, tmp_path):
    run = make(rounds, tmp_path, "gru4rec", max_steps=2)
    run.train()
    run.save_model(str(tmp_path))
    told = json.loads((tmp_path / "training.json").read_text())
    assert told["method"] == "DMESR (GRU4Rec)" and told["embedder"] == "org/text" and told["inputs_fingerprint"] == "f"
    assert told["loss"]["alignment_weight"] == 0.05 and told["loss"]["next_item"] == "cross_entropy"
    again = DMESRModel.from_pretrained(tmp_path)
    ours, theirs = run.head.recommend([["i01"]], k=3)[0], again.recommend([["i01"]], k=3)[0]
    assert ours.item_ids == theirs.item_ids and ours.scores == pytest.approx(theirs.scores, abs=1e-5)


@pytest.mark.parametrize("kind", ["dmesr", "head"])
def test_a_trained_model_is_not_trained_on_items_in_another_order(rounds, tmp_path, kind):
    """Its vectors are by place: item 0's would silently become those of whatever stands there now."""
    names = [str(item) for item in rounds.item_ids]
    rows = [
        {"user_id": f"u{user}", "item_id": item, "position": place}
        for user in range(8)
        for place, item in enumerate(names[user : user + 6])
    ]
    other = RecDataset.from_tables(rows, [{"item_id": item} for item in reversed(names)]).leave_one_out()
    assert sorted(map(str, other.item_ids)) == sorted(names) and list(map(str, other.item_ids)) != names
    options = {"num_train_epochs": 1, "use_cpu": True, "disable_tqdm": True, **WITHOUT_EVALUATION}
    if kind == "dmesr":
        model = make(rounds, tmp_path / "first", **WITHOUT_EVALUATION).head
        trainer, arguments = DMESRTrainer, DMESRTrainingArguments(str(tmp_path / "run"), **options)
    else:
        model = SequentialRecommender(SeqRecConfig(n_items=rounds.n_items, hidden_size=16))
        trainer, arguments = SeqRecTrainer, SeqRecTrainingArguments(str(tmp_path / "run"), **options)
    trainer(model, arguments, rounds)
    trainer(model, arguments, rounds).train()  # the same items may be trained on again
    with pytest.raises(ValueError, match="`model`.*catalogue"):
        trainer(model, arguments, other)


def test_bad_arguments_are_named(rounds, tmp_path):
    for options, message in [
        ({"alignment_weight": -1.0}, "`alignment_weight`"),
        ({"alignment_temperature": 0.0}, "`alignment_temperature`"),
        ({"alignment_targets": "both"}, "`alignment_targets`.*'both'"),
        ({"alignment_items": 1}, "`alignment_items`"),
    ]:
        with pytest.raises(ValueError, match=message):
            DMESRTrainingArguments(str(tmp_path), use_cpu=True, **options)
    from vlm2rec_hf import SeqRecConfig, SequentialRecommender

    arguments = DMESRTrainingArguments(str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="must be a DMESRModel"):
        DMESRTrainer(SequentialRecommender(SeqRecConfig(n_items=rounds.n_items)), arguments, rounds)
    with pytest.raises(ValueError, match="set_inputs"):
        DMESRTrainer(DMESRModel(DMESRConfig(n_items=rounds.n_items)), arguments, rounds)
