"""What the benchmarks of the embedder's training share: a small, vision-heavy Qwen2-VL on a generated shop."""

from __future__ import annotations

import argparse
import functools
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Sizes of shop and model."""
    parser.add_argument("--json", action="store_true", help="print nothing but the JSON line")
    parser.add_argument("--items", type=int, default=400)
    parser.add_argument("--history", type=int, default=10)
    parser.add_argument("--hidden", type=int, default=64)
    parser.add_argument("--vision-hidden", type=int, default=256)
    parser.add_argument("--vision-layers", type=int, default=4)
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--seed", type=int, default=0)


@functools.lru_cache(maxsize=1)
def shop(items: int, seed: int) -> Any:
    """A generated shop with images."""
    from vlm2rec_hf.data.demo_shop import make_demo_shop

    return make_demo_shop(items, seed=seed).dataset()


def make_trainer(
    options: argparse.Namespace,
    batch: int,
    scratch: str,
    dataset: Any = None,
    history: int | None = None,
    **arguments: Any,
) -> Any:
    """A trainer with a fresh model, ready for `train_step`; on the generated shop and its history by default."""
    from vlm2rec_hf import VLM2RecTrainer, VLM2RecTrainingArguments
    from vlm2rec_hf.tiny.backbones import tiny_vlm

    dataset = shop(options.items, options.seed) if dataset is None else dataset
    model, processor = tiny_vlm(
        texts=[text for text in dataset.item_texts() if text],
        image_size=options.image_size,
        seed=options.seed,
        processor_options={"max_history": history or options.history},
        hidden_size=options.hidden,
        vision_hidden_size=options.vision_hidden,
        vision_layers=options.vision_layers,
    )
    trainer = VLM2RecTrainer(
        model,
        VLM2RecTrainingArguments(
            output_dir=scratch,
            per_device_train_batch_size=batch,
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            seed=options.seed,
            max_steps=1000,
            **arguments,
        ),
        train_dataset=dataset,
        processing_class=processor,
    )
    trainer.current_gradient_accumulation_steps = 1
    trainer.create_optimizer_and_scheduler(num_training_steps=1000)
    return trainer


def batch_of(trainer: Any, users: int, number: int = 0) -> dict[str, Any]:
    """The `number`-th batch of some users, in the dataset's order, from the start again where it ends."""
    rows = range(number * users, (number + 1) * users)
    return trainer.data_collator([trainer.train_dataset[row % len(trainer.train_dataset)] for row in rows])


def train_step(trainer: Any, batch: dict[str, Any]) -> float:
    """One step on a batch, the optimizer's part included; returns the loss."""
    loss = trainer.training_step(trainer.model, batch)
    trainer.optimizer.step()
    trainer.model.zero_grad()
    return float(loss)
