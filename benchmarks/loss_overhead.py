"""What WPCL and CRTR cost beside plain InfoNCE, per training step.

Steps of `VLM2RecTrainer` on a small, vision-heavy Qwen2-VL whose images pass the frozen vision tower in every step
(`--cached`: features kept, the harder case, as everything else is faster then). Both sides have a model of their own
from the same seed and see the same batches, in turn, the order changing from round to round; the figure is the median
over rounds of the ratio within a round. `cpu_ratio` is the same of processor time, which other processes disturb less.
The last line printed is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time

from embedder_training import add_options, batch_of, make_trainer, train_step

BAR = 1.03
SIDES = {"ours": "wpcl+crtr", "other": "sft"}


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_options(parser)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=21)
    parser.add_argument("--warm-up", type=int, default=2, help="rounds that are not counted")
    parser.add_argument("--cached", action="store_true", help="keep vision features")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {side: [] for side in SIDES}
    processor: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as scratch:
        trainers = {
            side: make_trainer(
                options, options.batch, scratch, objective=objective, cache_vision_features=options.cached
            )
            for side, objective in SIDES.items()
        }
        for number in range(options.warm_up + options.rounds):
            batch = batch_of(trainers["ours"], options.batch, number)
            for side in list(SIDES) if number % 2 else reversed(SIDES):
                start, cpu = time.perf_counter(), time.process_time()
                train_step(trainers[side], batch)
                if number >= options.warm_up:
                    seconds[side].append(time.perf_counter() - start)
                    processor[side].append(time.process_time() - cpu)
    ratios, cpu_ratios = (
        sorted(ours / other for ours, other in zip(took["ours"], took["other"], strict=True))
        for took in (seconds, processor)
    )
    ratio = statistics.median(ratios)
    result = {
        "benchmark": "loss_overhead",
        "claim": f"a step with WPCL and CRTR takes at most {BAR} times as long as one with InfoNCE",
        "unit": "seconds per step, median",
        "ours": round(statistics.median(seconds["ours"]), 4),
        "other": round(statistics.median(seconds["other"]), 4),
        "ratio": round(ratio, 4),
        "ratio_quartiles": [round(ratios[len(ratios) // 4], 4), round(ratios[3 * len(ratios) // 4], 4)],
        "cpu_ratio": round(statistics.median(cpu_ratios), 4),
        "bar": BAR,
        "met": ratio <= BAR,
        "vision": "frozen, features kept" if options.cached else "frozen, encoded in every step",
        "settings": {name: value for name, value in vars(options).items() if name != "json"},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
