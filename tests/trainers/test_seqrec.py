"""Training heads: they learn what there is to learn, stop, go on, and keep to the split."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, TrainerCallback

from vlm2rec_hf import RecDataset, SeqRecConfig, SeqRecTrainer, SeqRecTrainingArguments, SequentialRecommender
from vlm2rec_hf.evaluation import evaluate, join_reports, make_slices, novelty_at_k, rank_head
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS
from vlm2rec_hf.modeling.modeling_seqrec import MASK, PADDING
from vlm2rec_hf.trainers.seqrec_trainer import mask_items

from .walks import walks


@pytest.fixture(scope="module")
def rounds():
    return walks(120)


def make(dataset, folder, encoder="sasrec", model=None, **options):
    torch.manual_seed(0)
    model = model or SequentialRecommender(
        SeqRecConfig(n_items=dataset.n_items, encoder=encoder, hidden_size=16, max_length=12, dropout=0.1)
    )
    arguments = {
        "num_train_epochs": 2, "per_device_train_batch_size": 16, "disable_tqdm": True, "use_cpu": True,
        "warmup_steps": 5, "learning_rate": 1e-2, **options,
    }  # fmt: skip
    return SeqRecTrainer(model, SeqRecTrainingArguments(str(folder), **arguments), dataset)


def log_of(run, name):
    return [(record["step"], record[name]) for record in run.state.log_history if name in record]


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_every_encoder_learns_to_walk_in_circles(rounds, tmp_path, encoder):
    # Masked training sees half of the targets of a row where the others see all of them.
    options = {"num_train_epochs": 140, "mask_probability": 0.5} if encoder == "bert4rec" else {"num_train_epochs": 30}
    run = make(rounds, tmp_path, encoder, eval_strategy="no", save_strategy="no", load_best_model_at_end=False,
               **options)  # fmt: skip
    run.train()
    test = rank_head(run.head, rounds.examples("test", max_history=12), exclude_seen=False)
    assert (test.ranks == 1).mean() > 0.9  # chance is 1/24
    first = run.head.recommend([["i00", "i01", "i02"], ["i23", "i16", "i17"]], k=1, exclude_seen=False)
    assert [one.item_ids for one in first] == [["i03"], ["i18"]]


@pytest.mark.parametrize("loss", ["sampled_softmax", "gbce", "bce"])
def test_every_loss_learns(rounds, tmp_path, loss):
    options = {"negatives_from": "popularity"} if loss == "sampled_softmax" else {}
    run = make(rounds, tmp_path, loss=loss, n_negatives=8, num_train_epochs=30, eval_strategy="no",
               save_strategy="no", load_best_model_at_end=False, **options)  # fmt: skip
    run.train()
    assert (rank_head(run.head, rounds.examples("test"), exclude_seen=False).ranks == 1).mean() > 0.8


class StopAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_training_stop = state.global_step >= self.step


@pytest.mark.parametrize("encoder", SEQUENCE_ENCODERS)
def test_resume_in_the_middle_of_an_epoch_equals_an_unbroken_run(rounds, tmp_path, encoder):
    def start(folder):
        return make(
            rounds, tmp_path / folder, encoder, num_train_epochs=3, save_strategy="steps", save_steps=5,
            eval_strategy="steps", eval_steps=5, logging_strategy="steps", logging_steps=1,
        )  # fmt: skip

    whole = start("whole")
    whole.train()
    broken = start("broken")
    assert len(broken.get_train_dataloader()) not in (5, 10)  # the checkpoints are inside an epoch
    broken.add_callback(StopAt(11))
    broken.train()
    assert broken.state.global_step == 11
    resumed = start("broken")
    resumed.train(resume_from_checkpoint=True)
    assert log_of(resumed, "loss") == log_of(whole, "loss")
    assert log_of(resumed, "eval_ndcg@10") == log_of(whole, "eval_ndcg@10")
    theirs = whole.head.state_dict()
    assert all(torch.equal(value, theirs[name]) for name, value in resumed.head.state_dict().items())


def test_the_same_seed_gives_the_same_head_and_another_one_another(rounds, tmp_path):
    weights = []
    for folder, seed in (("a", 1), ("b", 1), ("c", 2)):
        run = make(rounds, tmp_path / folder, seed=seed, num_train_epochs=1)
        run.train()
        weights.append(run.head.item_embedding.weight.detach())
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_bucketing_does_not_change_the_loss(rounds, tmp_path):
    """Summed over an epoch, every place counts once, in whatever company its row comes."""
    totals = {}
    for bucketed in (True, False):
        run = make(rounds, tmp_path, bucket_by_length=bucketed, per_device_train_batch_size=7)
        run.head.eval()
        total, places = 0.0, 0
        for batch in run.get_train_dataloader():
            n = int((batch["labels"] != PADDING).sum())
            total += float(run.compute_loss(run.head, batch).detach()) * n
            places += n
        totals[bucketed] = (total / places, places)
    sequences = rounds.sequences()
    assert totals[True][1] == totals[False][1] == int((sequences.split == 0).sum()) - sequences.n_users
    assert totals[True][0] == pytest.approx(totals[False][0], rel=1e-5)
    model = run.head  # and it is the plain mean of the negative log-likelihoods
    expected = []
    for user in range(sequences.n_users):
        row = sequences.items[sequences.offsets[user] : sequences.offsets[user + 1] - 2].astype(np.int64)
        states = model(torch.from_numpy(row[None, :-1])).last_hidden_state[0].detach()
        logs = (states @ model.item_vectors().detach().T).log_softmax(dim=1)
        expected += (-logs[torch.arange(len(row) - 1), torch.from_numpy(row[1:])]).tolist()
    assert totals[True][0] == pytest.approx(float(np.mean(expected)), rel=1e-5)


def test_validation_is_the_full_ranking_of_the_chosen_users(rounds, tmp_path):
    run = make(rounds, tmp_path, validation_users=20)
    metrics = run.evaluate()
    examples = run.validation
    assert len(examples) == 20
    ranks, table = [], run.head.item_vectors().detach().double()
    for row in range(20):
        history = examples.history(row).astype(np.int64)
        scores = table @ run.head.encode_histories([history])[0].double()
        target = examples.targets_at(row)
        rivals = np.setdiff1d(np.setdiff1d(np.arange(len(table)), history), [target])
        ranks.append(1 + sum(float(scores[i]) >= float(scores[target]) for i in rivals))
    assert metrics["eval_hit@10"] == pytest.approx(np.mean([rank <= 10 for rank in ranks]))
    assert metrics["eval_ndcg@10"] == pytest.approx(np.mean([1 / math.log2(r + 1) if r <= 10 else 0 for r in ranks]))


def test_popularity_counts_exactly_what_was_trained_on(rounds, tmp_path):
    sequences = rounds.sequences()
    run = make(rounds, tmp_path / "a")
    assert np.array_equal(run.head.catalogue.popularity.numpy(), sequences.train_counts())
    assert run.head.catalogue.ids == list(rounds.item_ids)
    some = make(rounds, tmp_path / "b", validation_users=20)
    held = set(some.validation.user.tolist())
    user = np.repeat(np.arange(sequences.n_users), np.diff(sequences.offsets))
    trained = (sequences.split == 0) | ((sequences.split == 1) & ~np.isin(user, list(held)))
    expected = np.bincount(sequences.items[trained], minlength=rounds.n_items)
    assert np.array_equal(some.head.catalogue.popularity.numpy(), expected)


def test_cold_items_stay_cold_and_every_number_counts_what_was_trained_on(tmp_path, caplog):
    whole = walks(120)
    shop = whole.hold_out_cold_items(0.2)
    sequences = shop.sequences()
    cold = sequences.train_counts() == 0
    of_validation = sequences.items[sequences.split == 1]
    assert cold[of_validation].sum() > 3  # there is something to go wrong
    run = make(shop, tmp_path, validation_users=20, num_train_epochs=1)
    for batch in run.get_train_dataloader():
        read = torch.cat([batch["input_ids"].flatten(), batch["labels"].flatten()])
        assert not cold[read[read >= 0].numpy()].any()
    run.train()
    run.save_model(str(tmp_path / "head"))
    user = np.repeat(np.arange(sequences.n_users), np.diff(sequences.offsets))
    held = np.isin(user, run.validation.user)
    trained = (sequences.split == 0) | ((sequences.split == 1) & ~held & ~cold[sequences.items])
    counts = np.bincount(sequences.items[trained], minlength=shop.n_items)
    assert (counts != sequences.train_counts()).any() and np.array_equal(counts == 0, cold)
    for head in (run.head, str(tmp_path / "head")):  # in this process as from the disk
        report = evaluate(head, shop)
        assert "all but 20 users" in report.facts["trained_on"]
        examples = shop.examples("test", max_history=12)
        ours = make_slices(examples, has_image=shop.item_has_image, train_counts=counts)
        assert report.slices.keys() == ours.keys()
        assert all(np.array_equal(report.slices[name], ours[name]) for name in ours)
        ranking = rank_head(run.head, examples)
        assert report.metrics["sasrec"]["both"]["novelty@10"]["mean"] == pytest.approx(
            np.nanmean(novelty_at_k(ranking.top_items, counts, 10))
        )
        ranks = [
            1 + sum(counts[i] >= counts[t] for i in range(len(counts)) if i != t and i not in examples.seen(row))
            for row, t in enumerate(examples.targets)
        ]
        assert report.ranks("popularity", "floor").tolist() == ranks
    assert not caplog.records
    joined = join_reports({"head": report, "other": evaluate(make(shop, tmp_path / "b").head, shop)})
    assert {"popularity", "popularity, trained as other"} <= set(joined.floors)
    assert "cold_item" in joined.slices  # the same to both


def test_what_was_trained_on_is_not_validated_on(rounds, tmp_path, caplog):
    head = make(rounds, tmp_path, validation_users=20).head
    report = evaluate(head, rounds, split="validation")
    assert len(report) == 20 and "100 of 120 examples are left out" in caplog.text
    caplog.clear()
    assert len(evaluate(make(rounds, tmp_path, validation_users=None).head, rounds, split="validation")) == 120
    head.set_catalogue(head.catalogue.ids, head.catalogue.popularity + 1)
    assert not caplog.records
    evaluate(head, rounds)
    assert "other counts than this dataset" in caplog.text


def test_training_stops_early_and_the_best_head_remains(rounds, tmp_path, monkeypatch):
    run = make(rounds, tmp_path, num_train_epochs=20, early_stopping_patience=2)
    scores, seen = iter([0.1, 0.5, 0.3, 0.2, 0.1]), []

    def metrics(ranking):
        seen.append(run.head.item_embedding.weight.detach().clone())
        return {"ndcg@10": next(scores)}

    monkeypatch.setattr("vlm2rec_hf.trainers.seqrec_trainer.ranking_metrics", metrics)
    run.train()
    assert len(seen) == 4 and run.state.best_metric == 0.5
    assert torch.equal(run.head.item_embedding.weight, seen[1])
    assert len(list(Path(run.args.output_dir).glob("checkpoint-*"))) == 2  # the best one and the newest


def test_a_resumed_run_keeps_counting_its_patience(rounds, tmp_path, monkeypatch):
    def start(scores, patience=3):
        values = iter(scores)
        monkeypatch.setattr(
            "vlm2rec_hf.trainers.seqrec_trainer.ranking_metrics", lambda ranking: {"ndcg@10": next(values)}
        )
        return make(rounds, tmp_path, num_train_epochs=20, early_stopping_patience=patience)

    first = start([0.5, 0.3, 0.2])
    first.add_callback(StopAt(3 * len(first.get_train_dataloader())))
    first.train()
    second = start([0.4, 0.4, 0.4])
    second.train(resume_from_checkpoint=True)
    assert second.state.best_metric == 0.5
    assert len(log_of(second, "eval_ndcg@10")) == 4  # the fourth evaluation is the third without a better one
    third = start([0.4, 0.4], patience=5)  # what a resumed run is given counts, not what the checkpoint's had
    third.train(resume_from_checkpoint=True)
    assert len(log_of(third, "eval_ndcg@10")) == 6


def test_a_checkpoint_is_a_head_of_its_own(rounds, tmp_path):
    run = make(rounds, tmp_path, num_train_epochs=1)
    run.train()
    (folder,) = tmp_path.glob("checkpoint-*")
    head = AutoModel.from_pretrained(folder)
    ours, theirs = run.head.recommend([["i01"]], k=3)[0], head.recommend([["i01"]], k=3)[0]
    assert ours.item_ids == theirs.item_ids and ours.scores == pytest.approx(theirs.scores, abs=1e-5)


def test_content_heads_train_their_projection_and_leave_content_alone(rounds, tmp_path):
    config = SeqRecConfig(
        n_items=rounds.n_items, hidden_size=16, max_length=12, item_representation="content", content_dims={"both": 24}
    )
    torch.manual_seed(0)
    model = SequentialRecommender(config)
    with pytest.raises(ValueError, match="'both'.*set_content"):
        make(rounds, tmp_path, model=model)
    content = torch.eye(24)
    model.set_content({"both": content})
    run = make(rounds, tmp_path, model=model, num_train_epochs=30, early_stopping_patience=0)
    before = model.projections["both"].weight.detach().clone()
    run.train()
    assert torch.equal(model.content_both, content) and not torch.equal(model.projections["both"].weight, before)
    assert (rank_head(run.head, rounds.examples("test"), exclude_seen=False).ranks == 1).mean() > 0.8


def test_masking_hides_items_only_and_asks_for_what_it_hid():
    torch.manual_seed(0)
    lengths = torch.randint(1, 40, (400,))
    places = torch.arange(40)[None, :]
    row = torch.where(places < lengths[:, None], torch.randint(0, 9, (400, 40)), PADDING)
    inputs, labels = mask_items(row, 0.2)
    hidden = inputs == MASK
    assert torch.equal(labels[hidden], row[hidden]) and (row[hidden] != PADDING).all()
    assert (labels[~hidden] == PADDING).all() and torch.equal(inputs[~hidden], row[~hidden])
    last = places == lengths[:, None] - 1
    others = (row != PADDING) & ~last
    assert float(hidden[others].float().mean()) == pytest.approx(0.2, abs=0.02)
    assert float(hidden[last].float().mean()) == pytest.approx(1 - 0.8 * 0.5, abs=0.08)
    for _ in range(20):
        assert (mask_items(torch.tensor([[4]]), 1e-9)[0] == MASK).any()


def test_bad_arguments_are_named(rounds, tmp_path):
    with pytest.raises(ValueError, match="n_items=5.*24 items"):
        make(rounds, tmp_path, model=SequentialRecommender(SeqRecConfig(n_items=5)))
    with pytest.raises(ValueError, match="`train_dataset`"):
        SeqRecTrainer(SequentialRecommender(SeqRecConfig(n_items=5)))
    with pytest.raises(ValueError, match="`model`.*Linear"):
        SeqRecTrainer(torch.nn.Linear(1, 1), None, rounds)
    unsplit = RecDataset.from_tables([{"user_id": "u", "item_id": f"i{n}", "position": n} for n in range(4)])
    with pytest.raises(ValueError, match="split"):
        make(unsplit, tmp_path)
    for options, message in [
        ({"loss": "hinge"}, "`loss`.*'hinge'"),
        ({"windows": "some"}, "`windows`.*'some'"),
        ({"mask_probability": 0.0}, "`mask_probability`"),
        ({"validation_users": 0}, "`validation_users`"),
        ({"validation_users": 10_000}, "`validation_users`.*120"),
        ({"early_stopping_patience": -1}, "`early_stopping_patience`"),
        ({"block_scores": 0}, "`block_scores`"),
        ({"n_negatives": 0}, "`n_negatives`"),
        ({"per_device_train_batch_size": 0}, "`per_device_train_batch_size`"),
    ]:
        with pytest.raises(ValueError, match=message):
            make(rounds, tmp_path, **options)


def test_what_cannot_be_ranked_is_refused(rounds, tmp_path):
    from vlm2rec_hf import make_demo_shop

    run = make(rounds, tmp_path)
    with pytest.raises(ValueError, match=r"`eval_dataset` must be `Examples`.* got RecDataset"):
        run.evaluate(rounds)
    elsewhere = make_demo_shop(60, n_users=40).dataset().examples("test")
    with pytest.raises(ValueError, match="`eval_dataset` counts 60 items, which are not those"):
        run.evaluate(elsewhere)
    examples = rounds.examples("test")
    assert run.evaluate(examples)["eval_hit@20"] >= 0
    ids = rounds.item_ids.copy()
    ids[0] += "\0"  # a fixed-width array would lose it
    with pytest.raises(ValueError, match="`eval_dataset` counts"):
        run.evaluate(replace(examples, sequences=replace(examples.sequences, item_ids=ids)))
