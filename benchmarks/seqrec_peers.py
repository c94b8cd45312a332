"""The peers of `seqrec_epoch.py`: run by it, with the Python of an environment that has one of them.

Imports nothing of this package. Reads `train.npz` (user, item, position), trains SASRec, writes `top.npy`
`(n_users, 10)` item indices without seen items, prints the seconds of each epoch.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch


def work_rectools(frame: pd.DataFrame, args: argparse.Namespace) -> dict[str, Any]:
    """RecTools' SASRecModel."""
    from pytorch_lightning import Callback, Trainer, seed_everything
    from rectools import Columns
    from rectools.dataset import Dataset
    from rectools.models import SASRecModel

    clock = make_clock(Callback)
    seed_everything(args.seed)
    rows = frame.rename(columns={"user": Columns.User, "item": Columns.Item})
    rows = rows.assign(**{Columns.Weight: 1.0, Columns.Datetime: pd.to_datetime(rows["position"], unit="s")})
    dataset = Dataset.construct(rows[[Columns.User, Columns.Item, Columns.Weight, Columns.Datetime]])

    def make_trainer() -> Trainer:
        return Trainer(
            max_epochs=args.epochs, callbacks=[clock], logger=False, enable_checkpointing=False, accelerator="cpu",
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip

    model = SASRecModel(
        n_blocks=2, n_heads=2, n_factors=64, dropout_rate=0.2, session_max_len=50, loss="softmax", lr=1e-3,
        batch_size=128, get_trainer_func=make_trainer, recommend_torch_device="cpu",
    )  # fmt: skip
    model.fit(dataset)
    users = frame["user"].unique()
    found = model.recommend(users, dataset, k=10, filter_viewed=True)
    top = np.full((int(users.max()) + 1, 10), -1, dtype=np.int64)
    top[found[Columns.User].to_numpy(), found[Columns.Rank].to_numpy() - 1] = found[Columns.Item].to_numpy()
    np.save(args.folder / "top.npy", top)
    return {"epoch_seconds": clock.seconds}


def work_replay(frame: pd.DataFrame, args: argparse.Namespace) -> dict[str, Any]:
    """RePlay's SasRec (the Lightning module of `replay.models.nn.sequential`)."""
    import lightning
    from replay.data import Dataset, FeatureHint, FeatureInfo, FeatureSchema, FeatureSource, FeatureType
    from replay.data.nn import SequenceTokenizer, TensorFeatureInfo, TensorFeatureSource, TensorSchema
    from replay.models.nn.optimizer_utils import FatOptimizerFactory
    from replay.models.nn.sequential import SasRec
    from replay.models.nn.sequential.sasrec import SasRecPredictionDataset, SasRecTrainingDataset
    from torch.utils.data import DataLoader

    clock = make_clock(lightning.Callback)
    lightning.seed_everything(args.seed)
    rows = frame.rename(columns={"user": "user_id", "item": "item_id", "position": "timestamp"})
    schema = FeatureSchema(
        [
            FeatureInfo("user_id", FeatureType.CATEGORICAL, FeatureHint.QUERY_ID),
            FeatureInfo("item_id", FeatureType.CATEGORICAL, FeatureHint.ITEM_ID),
            FeatureInfo("timestamp", FeatureType.NUMERICAL, FeatureHint.TIMESTAMP),
        ]
    )
    feature = TensorFeatureInfo(
        name="item_id", is_seq=True, feature_type=FeatureType.CATEGORICAL, feature_hint=FeatureHint.ITEM_ID,
        feature_sources=[TensorFeatureSource(FeatureSource.INTERACTIONS, "item_id")], embedding_dim=64,
    )  # fmt: skip
    tensors = TensorSchema(feature)
    tokenizer = SequenceTokenizer(tensors, allow_collect_to_master=True)
    sequences = tokenizer.fit_transform(Dataset(feature_schema=schema, interactions=rows))
    model = SasRec(
        tensors, block_count=2, head_count=2, hidden_size=64, max_seq_len=50, dropout_rate=0.2,
        optimizer_factory=FatOptimizerFactory(learning_rate=1e-3),
    )  # fmt: skip
    loader = DataLoader(SasRecTrainingDataset(sequences, max_sequence_length=50), batch_size=128, shuffle=True)
    lightning.Trainer(
        max_epochs=args.epochs, callbacks=[clock], logger=False, enable_checkpointing=False, accelerator="cpu",
        enable_progress_bar=False, enable_model_summary=False,
    ).fit(model, loader)  # fmt: skip
    items = _in_order(tokenizer.item_id_encoder.inverse_mapping["item_id"])
    place = {int(item): code for code, item in enumerate(items)}
    users = _in_order(tokenizer.query_id_encoder.inverse_mapping["user_id"])
    seen = frame.groupby("user")["item"].agg(list)
    top = np.full((int(frame["user"].max()) + 1, 10), -1, dtype=np.int64)
    model.eval()
    with torch.no_grad():
        for batch in DataLoader(SasRecPredictionDataset(sequences, max_sequence_length=50), batch_size=512):
            scores = model.predict_step(batch, 0)
            for row, code in enumerate(batch["query_id"].flatten().tolist()):
                user = int(users[code])
                scores[row, [place[item] for item in seen[user]]] = -torch.inf
                top[user] = items[scores[row].topk(10).indices.numpy()]
    np.save(args.folder / "top.npy", top)
    return {"epoch_seconds": clock.seconds}


def _in_order(decoded: Any) -> np.ndarray:
    """RePlay's code -> id, a mapping or a list, as an array."""
    return np.asarray([decoded[code] for code in range(len(decoded))], dtype=np.int64)


def work_recbole(frame: pd.DataFrame, args: argparse.Namespace) -> dict[str, Any]:
    """RecBole's SASRec: it trains on every prefix of every sequence, so only a share of an epoch is timed."""
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    folder = args.folder / "recbole" / "rows"
    folder.mkdir(parents=True, exist_ok=True)
    named = {"user": "user_id:token", "item": "item_id:token", "position": "timestamp:float"}
    frame.rename(columns=named).to_csv(folder / "rows.inter", sep="\t", index=False)
    config = Config(
        model="SASRec",
        dataset="rows",
        config_dict={
            "data_path": str(folder.parent), "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
            "MAX_ITEM_LIST_LENGTH": 50, "n_layers": 2, "n_heads": 2, "hidden_size": 64, "inner_size": 64,
            "hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "loss_type": "CE", "train_neg_sample_args": None,
            "train_batch_size": 2048, "learning_rate": 1e-3, "use_gpu": False, "seed": args.seed, "state": "ERROR",
            "eval_args": {"split": {"LS": "valid_and_test"}, "group_by": "user", "order": "TO", "mode": "full"},
            "checkpoint_dir": str(folder), "show_progress": False,
        },
    )  # fmt: skip
    init_seed(config["seed"], config["reproducibility"])
    rows = create_dataset(config)
    train, _, _ = data_preparation(config, rows)
    model = get_model(config["model"])(config, train.dataset).to(config["device"])
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    model.train()
    start, done = time.perf_counter(), 0
    for batch in train:
        trainer.optimizer.zero_grad()
        model.calculate_loss(batch.to(config["device"])).backward()
        trainer.optimizer.step()
        done += 1
        if time.perf_counter() - start > args.recbole_seconds:
            break
    seconds = (time.perf_counter() - start) * len(train) / done
    note = f"timed for {done} of {len(train)} batches of 2048 prefixes and scaled; not trained to the end"
    return {"epoch_seconds": [seconds], "note": note}


def make_clock(base: Any) -> Any:
    """A Lightning callback that keeps the seconds of each epoch; its copies (RecTools makes one) share the list."""

    class Clock(base):  # type: ignore[misc,valid-type]
        seconds: list[float] = []
        _start = 0.0

        def on_train_epoch_start(self, *_: Any) -> None:
            self._start = time.perf_counter()

        def on_train_epoch_end(self, *_: Any) -> None:
            self.seconds.append(time.perf_counter() - self._start)

    return Clock()


def main() -> None:
    """Parse the command line, train, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", choices=["rectools", "replay", "recbole"], required=True)
    parser.add_argument("--data", type=Path, help="not used: the rows stand in the folder")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--recbole_seconds", type=float, default=60.0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with np.load(args.folder / "train.npz") as rows:
        frame = pd.DataFrame({name: rows[name] for name in ("user", "item", "position")})
    work = {"rectools": work_rectools, "replay": work_replay, "recbole": work_recbole}[args.worker]
    print(json.dumps(work(frame, args)))


if __name__ == "__main__":
    main()
