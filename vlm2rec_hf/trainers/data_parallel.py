"""What data-parallel wrappers ask of a training step."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from transformers import TrainingArguments

logger = logging.getLogger(__name__)


def settle_batches(args: TrainingArguments) -> None:
    """Settings that every method's batches ask for, whose rows belong together and hold no labels of the library's.

    A process keeps to one GPU, as `torch.nn.DataParallel` would cut a batch apart. Memory is pinned for accelerators
    only; without one the data loader would warn about it.
    """
    args.label_names = []
    args.dataloader_pin_memory = args.dataloader_pin_memory and args.device.type not in ("cpu", "mps")
    if args.n_gpu > 1:
        logger.warning("Training on one of %d GPUs; start with `accelerate launch` to use all.", args.n_gpu)
        args._n_gpu = 1


def needs_every_parameter(model: nn.Module) -> bool:
    """Whether a wrapper waits for the gradient of every trainable parameter before a step is complete."""
    return isinstance(model, DistributedDataParallel) and not model.find_unused_parameters


def zero_of(model: nn.Module) -> Tensor:
    """A zero that depends on every trainable parameter: propagated back, it adds a gradient of zero to each."""
    # The sum of nothing: no parameter is read, and one that holds infinity makes no NaN.
    parts = [parameter.flatten()[:0].sum().float() for parameter in model.parameters() if parameter.requires_grad]
    return torch.stack(parts).sum()


def with_all_gradients(loss: Tensor, model: nn.Module) -> Tensor:
    """A loss whose backward pass reaches every trainable parameter where a wrapper waits for that.

    A loss that reaches none, say of images alone where no item has one, makes a step of zero gradients.
    """
    return loss + zero_of(model) if not loss.requires_grad or needs_every_parameter(model) else loss
