"""What sequential heads reach on the public splits, against published figures. One command per table row.

    python benchmarks/seqrec_quality.py --data ../shared/data --dataset ml1m-mm --seeds 0 1 2 --output runs/seqrec

Every seed trains in a folder of its own, keeps a checkpoint per epoch and its result: run the same command again to go
on after an interruption. The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

RECIPES: dict[str, dict[str, Any]] = {
    "ml1m-mm": {
        "k_core": 5,
        "model": {"hidden_size": 128, "num_layers": 2, "num_heads": 2, "max_length": 200, "dropout": 0.25},
        "training": {
            "per_device_train_batch_size": 32,
            "learning_rate": 1e-3,
            "lr_scheduler_type": "linear",
            "warmup_steps": 200,
            "num_train_epochs": 40,
            "validation_users": 512,
            "early_stopping_patience": 12,
        },
        "bar": {"ndcg@10": 0.1726, "hit@10": 0.3003},
        "bar_is": "gSASRec's published figures on this split (SASRec there: 0.1259, 0.2392)",
    }
}
SHORT = {
    "k_core": None,
    "model": {"hidden_size": 64, "num_layers": 2, "num_heads": 2, "max_length": 50, "dropout": 0.5},
    "training": {
        "per_device_train_batch_size": 128,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant_with_warmup",
        "warmup_steps": 100,
        "num_train_epochs": 200,
        "validation_users": None,
        "early_stopping_patience": 10,
    },
}
for _name, _bar in (
    ("amazon-beauty-2014-5core", {"ndcg@10": 0.0318, "hit@10": 0.0605}),
    ("amazon-toys-2014-5core", {"ndcg@10": 0.0374, "hit@10": 0.0675}),
    ("amazon-sports-2014-5core", {"ndcg@10": 0.0192, "hit@10": 0.0350}),
):
    RECIPES[_name] = {**SHORT, "bar": _bar, "bar_is": "SASRec's published figures on this file (TIGER's paper)"}


def run_seed(args: argparse.Namespace, recipe: dict[str, Any], dataset: Any, seed: int) -> dict[str, Any]:
    """Train (or go on training) one seed and rank its test split; a finished seed is read back."""
    import torch

    from vlm2rec_hf.evaluation.heads import rank_head
    from vlm2rec_hf.evaluation.metrics import ranking_metrics
    from vlm2rec_hf.modeling.configuration_seqrec import SeqRecConfig
    from vlm2rec_hf.modeling.modeling_seqrec import SequentialRecommender
    from vlm2rec_hf.trainers.checkpoints import complete_checkpoints
    from vlm2rec_hf.trainers.seqrec_args import SeqRecTrainingArguments
    from vlm2rec_hf.trainers.seqrec_trainer import SeqRecTrainer

    folder = args.output / f"{args.dataset}-{args.encoder}{args.tag}-{seed}"
    result = folder / "result.json"
    if result.is_file():
        return json.loads(result.read_text())
    torch.manual_seed(seed)
    config = SeqRecConfig(n_items=dataset.n_items, encoder=args.encoder, **recipe["model"])
    training = SeqRecTrainingArguments(
        str(folder), seed=seed, disable_tqdm=True, use_cpu=args.cpu, **recipe["training"]
    )
    trainer = SeqRecTrainer(SequentialRecommender(config), training, dataset)
    resumed_from = [path.name for path in complete_checkpoints(folder)][-1:]
    start = time.perf_counter()
    trainer.train(resume_from_checkpoint=True)
    seconds = time.perf_counter() - start
    examples = dataset.examples("test", max_history=config.max_length)
    ranking = rank_head(trainer.head, examples)
    trainer.save_model(str(folder / "head"))
    found = {
        "seed": seed,
        "test": ranking_metrics(ranking.ranks),
        "validation": trainer.state.best_metric,
        "best_step": trainer.state.best_global_step,
        "epochs": trainer.state.epoch,
        "seconds_of_this_call": round(seconds, 1),
        "resumed_from": resumed_from,
        "model": recipe["model"],
        "training": recipe["training"],
    }
    waiting = result.with_suffix(".writing")
    waiting.write_text(json.dumps(found, indent=1))
    os.replace(waiting, result)
    return found


def main() -> None:
    """Parse the command line, train the seeds, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--data", type=Path, required=True, help="folder that holds the data sets' folders")
    parser.add_argument("--dataset", choices=sorted(RECIPES), default="ml1m-mm")
    parser.add_argument("--encoder", choices=["sasrec", "gru4rec", "bert4rec"], default="sasrec")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/seqrec"))
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--cpu", action="store_true", help="stay on the processor where there is an accelerator")
    parser.add_argument("--tag", default="", help="added to the folders' names, for other settings")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="change the recipe: dropout=0.3")
    args = parser.parse_args()

    import torch

    from vlm2rec_hf.data.readers import load_recsys

    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = json.loads(json.dumps(RECIPES[args.dataset]))
    for pair in args.set:
        name, _, value = pair.partition("=")
        part = "model" if name in recipe["model"] or name in ("intermediate_size", "initializer_range") else "training"
        try:
            recipe[part][name] = json.loads(value)
        except json.JSONDecodeError:
            recipe[part][name] = value
    dataset = load_recsys(str(args.data / args.dataset))
    if recipe["k_core"]:
        dataset = dataset.k_core(recipe["k_core"])
    dataset = dataset.leave_one_out()
    found = []
    for seed in args.seeds:
        found.append(run_seed(args, recipe, dataset, seed))
        if not args.json:
            print(f"seed {seed}: {found[-1]['test']}", flush=True)

    def spread(name: str) -> dict[str, float]:
        values = [one["test"][name] for one in found]
        return {
            "mean": round(statistics.fmean(values), 5),
            "sd": round(statistics.stdev(values), 5) if len(values) > 1 else 0.0,
        }

    names = list(found[0]["test"])
    means = {name: spread(name) for name in names}
    print(
        json.dumps(
            {
                "claim": f"{args.encoder} by id on {args.dataset}: full catalogue, leave-one-out, seen items left out",
                "test": means,
                "bar": recipe["bar"],
                "bar_is": recipe["bar_is"],
                "seeds": args.seeds,
                "epochs": [one["epochs"] for one in found],
                "fingerprint": dataset.fingerprint,
                "met": all(means[name]["mean"] >= bar for name, bar in recipe["bar"].items()),
            }
        )
    )


if __name__ == "__main__":
    main()
