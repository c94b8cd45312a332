"""What each process of `test_two_processes.py` runs, and the same in one process; results go to a file per rank."""

import os
import socket

import torch
from transformers import TrainerCallback

from vlm2rec_hf import PreparedCatalogue, VLM2RecTrainer, VLM2RecTrainingArguments, default_lora_config
from vlm2rec_hf.data.demo_shop import make_demo_shop
from vlm2rec_hf.tiny.backbones import tiny_vlm

USERS = 12
RUNS = {
    "plain": {"objective": "wpcl+crtr"},
    "cached": {"objective": "wpcl+crtr", "gradient_cache_tokens": 80, "lora": True},
    # Images of some items only: each process skips another number of users, and trains the tower or not.
    "skipped": {"objective": "sft+unimodal", "freeze_vision": False, "images": 36},
    "skipped-cached": {
        "objective": "sft+unimodal",
        "freeze_vision": False,
        "images": 36,
        "gradient_cache_tokens": 80,
        "gradient_accumulation_steps": 2,
    },
    "alone": {"objective": "sft", "gather_negatives": False},
}


class FewerImages:
    """The shop's items; only the first `count` keep their image."""

    def __init__(self, items, count):
        self.items, self.count = items, count

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        item = dict(self.items[index])
        return {"text": item["text"], "image": item["image"] if index < self.count else None}


class Watch(TrainerCallback):
    """Keeps the gradients of every step and the distinct items of every batch."""

    def __init__(self):
        self.gradients = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})


def train(folder, name, processes):
    """One run; `processes` share the global batch."""
    options = dict(RUNS[name])
    dataset = make_demo_shop(60, n_users=60).dataset()
    model, processor = tiny_vlm(
        "qwen2_vl", ["red tent"], processor_options={"max_history": 3}, hidden_size=32, vision_hidden_size=32
    )
    items = FewerImages(dataset.catalogue_items(), options.pop("images", 60))
    lora = default_lora_config(2, dropout=0.0) if options.pop("lora", False) else None
    args = VLM2RecTrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=USERS // processes,
        logging_steps=1, save_strategy="no", disable_tqdm=True, use_cpu=True, learning_rate=1e-3, validation_users=20,
        cache_vision_features=name == "plain", **options,
    )  # fmt: skip
    run = VLM2RecTrainer(
        model, args, train_dataset=dataset, processing_class=processor, peft_config=lora,
        catalogue=PreparedCatalogue(items, processor),
    )  # fmt: skip
    watch, distinct, collate = Watch(), [], run.data_collator

    class Counting(type(collate)):
        def __call__(self, examples):
            distinct.append(len({int(target) for window in examples for target in window["targets"]}))
            return super().__call__(examples)

    run.data_collator = Counting(**vars(collate))
    run.add_callback(watch)
    run.train()
    metrics = run.evaluate() if name == "plain" else {}
    return {
        "logs": [record for record in run.state.log_history if "loss" in record],
        "gradients": watch.gradients,
        "weights": {n: p.detach().clone() for n, p in run.model.named_parameters()},
        "distinct": distinct,
        "metrics": {n: value for n, value in metrics.items() if "runtime" not in n},
    }


def sharded_step(rank, folder, cache_tokens):
    """One training step of a model whose layers are spread over the processes (FSDP 2); whole gradients."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    run = step_trainer(folder, 2, cache_tokens)
    mesh = init_device_mesh("cpu", (2,))
    for module in list(run.model.modules()):
        if type(module).__name__ in run.model._no_split_modules:
            fully_shard(module, mesh=mesh)
    fully_shard(run.model, mesh=mesh)
    return first_step(run, range(rank * USERS // 2, (rank + 1) * USERS // 2))


def step_trainer(folder, processes, cache_tokens=None):
    """A trainer over raw images, so that the tower's blocks take part."""
    dataset = make_demo_shop(60, n_users=60).dataset()
    model, processor = tiny_vlm(
        "qwen2_vl", ["red tent"], processor_options={"max_history": 3}, hidden_size=32, vision_hidden_size=32
    )
    args = VLM2RecTrainingArguments(
        output_dir=str(folder), max_steps=3, per_device_train_batch_size=USERS // processes,
        save_strategy="no", disable_tqdm=True, use_cpu=True, cache_vision_features=False, freeze_vision=False,
        gradient_cache_tokens=cache_tokens,
    )  # fmt: skip
    return VLM2RecTrainer(model, args, train_dataset=dataset, processing_class=processor)


def first_step(run, rows):
    """Loss and gradients of a step on some examples."""
    run.current_gradient_accumulation_steps = 1
    loss = run.training_step(run.model, run.data_collator([run.train_dataset[i] for i in rows]))
    grads = {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}
    return float(loss), {name: getattr(g, "full_tensor", lambda g=g: g)().clone() for name, g in grads.items()}


def found_by_two(work, folder):
    """Run `work(rank, folder, port)` in two processes; what each saved as `rank0.pt` and `rank1.pt`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(work, args=(str(folder), port), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


def assert_equal_gradients(found, expected, tolerance):
    """Equal up to a part of the largest entry; a gradient that is not there counts as zero."""
    largest = max(gradient.abs().max() for gradient in expected.values())
    zero = torch.zeros(())
    for key in expected.keys() | found.keys():
        difference = (found.get(key, zero) - expected.get(key, zero)).abs().max()
        assert difference <= tolerance * max(largest, 1), (key, difference)


def assert_same_course(whole, parts):
    """Both processes had the gradients of one process at every step, and end with its weights."""
    for step, expected in enumerate(whole["gradients"]):
        for part in parts:
            # The first step sees equal weights; then AdamW turns rounding into differences of a part of its step.
            assert_equal_gradients(part["gradients"][step], expected, 1e-5 if step == 0 else 5e-3)
    assert all(torch.equal(parts[0]["weights"][key], parts[1]["weights"][key]) for key in whole["weights"])
    for key, expected in whole["weights"].items():
        assert (parts[0]["weights"][key] - expected).abs().max() < 1e-3, key


def become(rank, port):
    """Make this process one of two that train together."""
    torch.set_num_threads(1)
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip


def work(rank, folder, port):
    become(rank, port)
    found = {name: train(f"{folder}/run", name, 2) for name in RUNS}
    found["sharded"] = {size: sharded_step(rank, folder, size) for size in (None, 2)}
    torch.save(found, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()
