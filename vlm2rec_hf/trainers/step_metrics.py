"""What training steps measure, kept until the next log and then averaged over steps and processes."""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.distributed as dist
from torch import Tensor

from ..losses.gather import is_distributed

GRADIENT_NORM = "grad_norm_"


class StepMetrics:
    """Scalars recorded under names, without waiting for the device until their means are wanted."""

    def __init__(self) -> None:
        self._recorded: dict[str, list[Tensor]] = defaultdict(list)

    def add(self, name: str, value: Tensor | float) -> None:
        """Record a scalar."""
        self._recorded[name].append(value.detach() if isinstance(value, Tensor) else torch.tensor(value))

    def add_to_newest(self, name: str, value: float) -> None:
        """Add to the scalar recorded last under a name; the first one is recorded."""
        values = self._recorded[name]
        values[-1:] = [values[-1] + value if values else torch.tensor(value)]

    def means(self) -> dict[str, float]:
        """Means since the last call, over steps and processes, and forget. A collective where there are several.

        A process holds the gradient of its own users' mean at its own rows; the norm at the rows of all processes,
        under the mean of their losses, is the root of the sum of squares divided by the number of processes. (An item
        that is a target in two processes is two rows then, so the number of processes shows a little.)
        """
        own = {name: torch.stack(values).float().cpu() for name, values in self._recorded.items() if values}
        self._recorded.clear()
        everywhere: list[dict[str, Tensor]] = [own]
        if is_distributed():
            everywhere = [{} for _ in range(dist.get_world_size())]
            dist.all_gather_object(everywhere, own)
        means = {}
        for name in sorted({name for one in everywhere for name in one}):
            values = [one[name] for one in everywhere if name in one]
            if name.startswith(GRADIENT_NORM) and len({len(part) for part in values}) == 1:
                steps = torch.stack(values).square().nansum(0).sqrt() / len(everywhere)
            else:
                steps = torch.cat(values)
            means[name] = float(steps.nanmean())
        return means
