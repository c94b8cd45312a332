"""`vlm2rec quickstart`: watch a vision-language model learn to recommend, with and without the paper's losses.

A generated shop, a tiny Qwen2-VL built from config, a warm-up, then plain contrastive fine-tuning (SFT) and VLM2Rec
(WPCL + CRTR) on the same budget, a report by view, and a sequential head over the item vectors that recommends to one
user. Nothing is downloaded; it takes a few minutes on two cores.
"""

from __future__ import annotations

import copy
import json
import resource
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..files import whole_folder
from .arguments import check_at_least
from .common import named_as_options, say
from .parsing import check_options_early, parse
from .places import check_folder

if TYPE_CHECKING:
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.dataset import RecDataset
    from ..data.demo_shop import DemoShop
    from ..evaluation.report import Report
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer

HISTORY = 6
FLOORS = {"popularity": "popularity", "repeat_last": "repeat_last", "transitions": "transition"}


@dataclass
class QuickstartArguments:
    """Size of the quickstart; the defaults are what the README promises."""

    _argument_group_name = "quickstart"

    output: str = field(default="runs/quickstart", metadata={"help": "Folder of the results."})
    seed: int = field(default=0, metadata={"help": "Of the shop, the weights and the training."})
    json: bool = field(default=False, metadata={"help": "Print the results as one JSON object on the last line."})
    items: int = field(default=600, metadata={"help": "Products in the shop, 60 to 100,000."})
    users: int = field(default=1200, metadata={"help": "Users of the shop."})
    warm_up_backbone: int = field(default=120, metadata={"help": "Steps of the warm-up."})
    steps: int = field(default=300, metadata={"help": "Training steps of each method."})
    batch_size: int = field(default=64, metadata={"help": "Users per step."})

    def __post_init__(self) -> None:
        from ..data.demo_shop import DemoShopConfig

        with named_as_options(n_items="--items", n_users="--users"):
            DemoShopConfig(n_items=self.items, n_users=self.users)
        check_at_least(self, 1, "warm_up_backbone", "steps", "batch_size", "users")


def main(argv: Sequence[str]) -> None:
    """Run the command."""
    check_options_early(argv, (QuickstartArguments,))
    (options,) = parse("quickstart", __doc__ or "", (QuickstartArguments,), argv)
    output = check_folder(options.output)
    start = time.perf_counter()
    with whole_folder(output) as partial:  # a killed run leaves no folder that looks whole
        report, shown = run(options, partial)
        seconds = time.perf_counter() - start
        report.facts["seconds"] = round(seconds, 1)
        report.save(partial)
        set_aside(output)
    index_items(output)
    print(summary_table(report))
    print(shown)
    say(
        f"\n{seconds:.0f} s. In {output}: embedder/ and head/ (model folders), report.json, per_user.parquet, "
        f"margins.png, views.png, recommendations.html; shop/ and index/ to serve from.\n{_what_next(output)}"
        f"Next, try your own data:  vlm2rec prepare "
        f"--dataset YOUR_DATA --output runs/data  and then  vlm2rec train --dataset runs/data --tiny qwen2_vl "
        f"--warm_up_backbone 350 --max_steps 500 --output_dir runs/mine"
    )
    if options.json:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({
            "results": results_of(report),
            "seconds": round(seconds, 1),
            "peak_rss_mb": round(peak, 1),
            "embedder": str(output / "embedder"),
            "head": str(output / "head"),
        }))  # fmt: skip


def run(options: QuickstartArguments, folder: Path) -> tuple[Report, str]:
    """The whole study; models, plots and page are written into `folder`.

    Returns:
        The report, and one user's history and recommendations as text.
    """
    import torch
    from transformers import set_seed

    from ..catalogues.item_vectors import ItemVectors
    from ..catalogues.prepared_catalogue import PreparedCatalogue
    from ..data.demo_shop import make_demo_shop
    from ..evaluation.embedder import evaluate_embedder
    from ..evaluation.plots import plot_margins, plot_views
    from ..evaluation.start_report import add_embedder, start_report
    from ..hub_cards.model_card import write_model_card
    from ..loading import model_version, weight_files_fingerprint
    from ..losses.vlm2rec import DEFAULT_OBJECTIVE
    from ..recommending.opening import SHOP
    from ..tiny.backbones import tiny_vlm
    from ..trainers.warm_up import warm_up_backbone
    from .quickstart_head import show_user, train_small_head

    # One thread: sums in another order give other numbers, and a seed should mean the same on every number of cores.
    torch.set_num_threads(1)
    set_seed(options.seed)
    say("1/6 A shop is generated: products with a title and an image, and users with a taste for both.")
    shop = make_demo_shop(options.items, seed=options.seed, n_users=options.users)
    dataset = shop.dataset()
    say(f"    {dataset!r}")
    say("2/6 A tiny Qwen2-VL without pretrained weights is warmed up on captions of the products.")
    model, processor = tiny_vlm(
        "qwen2_vl",
        [text for text in dataset.item_texts() if text],
        seed=options.seed,
        hidden_size=64,
        vision_hidden_size=64,
        processor_options={
            "item_instruction": "Item: ",
            "user_instruction": "History: ",
            "max_history": HISTORY,
        },
    )
    catalogue = PreparedCatalogue(dataset.catalogue_items(), processor)
    warm_up_backbone(
        model,
        catalogue,
        dataset.items["description"],
        steps=options.warm_up_backbone,
        batch_size=min(96, options.items),
        seed=options.seed,
        show_progress=True,
    )
    catalogue.cache_features(model)
    examples = dataset.examples("test", max_history=HISTORY)
    facts = {"seed": options.seed, "arguments": {key: value for key, value in vars(options).items()}}
    report = start_report(dataset, examples, facts=facts)
    _add_oracle(report, shop, dataset, examples)
    add_embedder(report, "zero_shot", evaluate_embedder(model, catalogue, examples), examples)
    start = copy.deepcopy(model.state_dict())
    logs: dict[str, list[dict[str, Any]]] = {}
    for number, (method, objective) in enumerate((("sft", "sft"), ("vlm2rec", DEFAULT_OBJECTIVE)), start=3):
        what = (
            "plain contrastive fine-tuning (SFT)"
            if method == "sft"
            else "VLM2Rec: WPCL, CRTR and a loss for each view"
        )
        say(f"{number}/6 Training: {what}.")
        model.load_state_dict(start)
        trainer = _train(options, objective, model, dataset, catalogue, folder)
        logs[method] = [dict(record) for record in trainer.state.log_history]
        evaluation = evaluate_embedder(model, catalogue, examples)
        add_embedder(report, method, evaluation, examples)
    say("5/6 Model folder, report and plots.")
    trainer.save_model(str(folder / "embedder"))
    dataset.save(folder / SHOP)
    report.facts["weights"] = weight_files_fingerprint(folder / "embedder")
    report.save(folder / "embedder" / "evaluation")
    write_model_card(folder / "embedder", report_name="vlm2rec")
    plot_margins(logs, folder / "margins.png")
    plot_views(report, folder / "views.png")
    say("6/6 A sequential head (SASRec) learns from ids and VLM2Rec's item vectors together.")
    head, ranking = train_small_head(
        dataset,
        ItemVectors(
            [str(item) for item in dataset.item_ids],
            {"both": evaluation.items.both},
            str(Path(options.output) / "embedder"),
            model_version(folder / "embedder"),
        ),
        examples,
        folder / "head",
        batch_size=min(options.batch_size, options.users),
        seed=options.seed,
    )
    report.add("head", ranking, train_counts=dataset.popularity())
    return report, show_user(head, dataset, folder / "recommendations.html", last=HISTORY)


def _train(
    options: QuickstartArguments,
    objective: str,
    model: Any,
    dataset: RecDataset,
    catalogue: PreparedCatalogue,
    folder: Path,
) -> VLM2RecTrainer:
    """One method on the common budget; returns the trainer."""
    from ..trainers.progress_bar import show_only
    from ..trainers.vlm2rec_args import VLM2RecTrainingArguments
    from ..trainers.vlm2rec_trainer import VLM2RecTrainer

    training = VLM2RecTrainingArguments(
        output_dir=str(folder / ".training"),
        objective=objective,
        max_steps=options.steps,
        per_device_train_batch_size=min(options.batch_size, options.users),
        learning_rate=1e-3,
        warmup_steps=max(options.steps // 10, 1),
        max_history=HISTORY,
        save_strategy="no",
        seed=options.seed,
        disable_tqdm=True,
    )
    trainer = VLM2RecTrainer(
        model, training, train_dataset=dataset, processing_class=catalogue.processor, catalogue=catalogue
    )
    show_only(trainer, "    SFT    " if objective == "sft" else "    VLM2Rec")
    trainer.warm_up = {"steps": options.warm_up_backbone, "batch_size": min(96, options.items)}
    trainer.train()
    shutil.rmtree(folder / ".training", ignore_errors=True)
    return trainer


def _add_oracle(report: Report, shop: DemoShop, dataset: RecDataset, examples: Any) -> None:
    """What a model that knew the true choice probabilities would score."""
    from ..evaluation.ranking import rank_targets

    ranking = rank_targets(shop.oracle(examples), examples, k=max(report.protocol.k))
    report.add_floor("oracle", ranking, train_counts=dataset.popularity())


def results_of(report: Report) -> dict[str, dict[str, dict[str, float]]]:
    """Hit@10 and NDCG@10 of every method and view; floors and oracle stand under `both`."""

    def two(summaries: Any) -> dict[str, float]:
        return {name: round(float(summaries[name]["mean"]), 6) for name in ("hit@10", "ndcg@10")}

    results = {
        method: {view: two(report.metrics[method][view]) for view in report.views(method)} for method in report.methods
    }
    results.update({FLOORS.get(name, name): {"both": two(summaries)} for name, summaries in report.floors.items()})
    return results


def summary_table(report: Report) -> str:
    """The results as a plain table."""
    lines = ["", f"{'Hit@10 / NDCG@10':<16}{'text':>18}{'image':>18}{'both':>18}"]
    for method, views in results_of(report).items():
        cells = [
            f"{views[view]['hit@10']:.4f} / {views[view]['ndcg@10']:.4f}" if view in views else ""
            for view in ("text", "image", "both")
        ]
        lines.append(f"{method:<16}" + "".join(f"{cell:>18}" for cell in cells))
    return "\n".join(lines)


def _what_next(output: Path) -> str:
    """How to serve what was made, and look at it."""
    from .main import COMMANDS

    lines = {"serve": "Serve it", "demo": "Look at what it made"}
    return "".join(f"{text}:  vlm2rec {name} {output}\n" for name, text in lines.items() if name in COMMANDS)


def index_items(output: Path) -> None:
    """Put the shop's items into an index, so that what was made can be served."""
    from ..recommending.opening import open_recommender

    open_recommender(output)


def set_aside(output: Path) -> None:
    """Keep the results of an earlier run under another name."""
    if not output.exists() or not any(output.iterdir()):
        return
    number = 1
    while (older := output.with_name(f"{output.name}.old-{number}")).exists():
        number += 1
    output.rename(older)
    say(f"    {output} existed; the earlier results are now in {older}.")
