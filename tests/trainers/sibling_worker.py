"""What each process of `test_sibling_processes.py` runs, or a single one; results go to a file per rank."""

import torch

from vlm2rec_hf import (
    DMESRConfig,
    DMESRModel,
    DMESRTrainer,
    DMESRTrainingArguments,
    PixRecTrainer,
    PixRecTrainingArguments,
    PreparedCatalogue,
    SeqRecConfig,
    SeqRecTrainer,
    SeqRecTrainingArguments,
    SequentialRecommender,
)
from vlm2rec_hf.data.demo_shop import make_demo_shop
from vlm2rec_hf.data.described_items import DescribedItems
from vlm2rec_hf.modeling.inputs_dmesr import ItemInputs
from vlm2rec_hf.tiny.pixrec import tiny_pixrec

from .process_worker import FewerImages, Watch, become
from .walks import walks

USERS = 12
PIXREC = {
    "plain": {},
    # Rows of unequal lengths, images of some items only, a trained tower, histories that spare nobody.
    "tower": {"freeze_vision": False, "images": 20, "mask_seen": False, "beta": -0.1},
    "strict": {"ddp_find_unused_parameters": False, "images": 0},
    "alone": {"gather_negatives": False},
}
HEADS = ("seqrec", "dmesr")
QUIET = {"disable_tqdm": True, "use_cpu": True, "save_strategy": "no", "logging_strategy": "steps", "logging_steps": 1}


def pixrec(folder, name, processes):
    """One run of PixRec; `processes` share the global batch."""
    options = dict(PIXREC[name])
    dataset = make_demo_shop(60, n_users=60).dataset()
    model, processor = tiny_pixrec(
        "qwen2_vl", ["red tent"], hidden_size=32, vision_hidden_size=32, image_size=28,
        config_options={"projection_dim": 12},
    )  # fmt: skip
    items = FewerImages(DescribedItems(dataset), options.pop("images", 60))
    args = PixRecTrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=USERS // processes,
        learning_rate=1e-3, validation_users=20, cache_vision_features=name == "plain", temperature=0.1, **QUIET,
        **options,
    )  # fmt: skip
    run = PixRecTrainer(
        model, args, train_dataset=dataset, processing_class=processor, catalogue=PreparedCatalogue(items, processor)
    )
    return watched(run, evaluate=name == "plain")


def head_trainer(folder, name):
    """A trainer of SASRec, or of DMESR around it, nothing in it random but the start."""
    dataset = walks(60)
    torch.manual_seed(0)
    sizes = {"n_items": dataset.n_items, "hidden_size": 16, "max_length": 12, "dropout": 0.0}
    options = {
        "output_dir": str(folder), "max_steps": 3, "per_device_train_batch_size": 6, "learning_rate": 1e-2,
        "max_grad_norm": 1e9, "warmup_steps": 0, "eval_strategy": "epoch", **QUIET, "load_best_model_at_end": False,
    }  # fmt: skip
    if name == "seqrec":
        return SeqRecTrainer(SequentialRecommender(SeqRecConfig(**sizes)), SeqRecTrainingArguments(**options), dataset)
    coarse, fine = torch.randn(dataset.n_items, 3, 12), torch.randn(dataset.n_items, 4, 10)
    there = torch.rand(dataset.n_items, 3) < 0.9, torch.ones(dataset.n_items, 4, dtype=torch.bool)
    inputs = ItemInputs(coarse.half(), there[0], fine.half(), there[1])
    model = DMESRModel(DMESRConfig(content_dims=inputs.dims, **sizes))
    model.set_inputs(inputs, embedder="org/text", embedder_revision="b" * 40, fingerprint="f")
    return DMESRTrainer(model, DMESRTrainingArguments(alignment_weight=0.5, **options), dataset)


def watched(run, evaluate=True):
    """Train; what was logged, the gradients of each step, the targets of each batch, weights and metrics."""
    watch, batches, step = Watch(), [], run.compute_loss

    def compute_loss(model, inputs, *args, **kwargs):
        if model.training:
            batches.append({key: value for key, value in inputs.items() if isinstance(value, torch.Tensor)})
        return step(model, inputs, *args, **kwargs)

    run.compute_loss = compute_loss
    run.add_callback(watch)
    run.train()
    metrics = run.evaluate() if evaluate else {}
    return {
        "logs": [record for record in run.state.log_history if "loss" in record],
        "gradients": [{plain(key): grad for key, grad in found.items()} for found in watch.gradients],
        "weights": {plain(n): p.detach().clone() for n, p in run.model.named_parameters()},
        "batches": batches,
        "metrics": {n: value for n, value in metrics.items() if "runtime" not in n},
        "facts": run.training_facts().get("processes"),
    }


def plain(name):
    """A parameter's name without the wrapper's prefix."""
    return name.removeprefix("module.")


def work(rank, folder, port):
    become(rank, port)
    found = {name: pixrec(f"{folder}/run", name, 2) for name in PIXREC}
    found |= {name: watched(head_trainer(f"{folder}/run", name)) for name in HEADS}
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()
