"""Two processes share one study; another, alike, is killed (SIGKILL) at moment after moment until it is through.

The second has as many seeds as said. Prints one JSON line: who did which run of the first one, which steps each
attempt at the second one took, how each attempt ended, and which runs of the second one differ from those of the
first.

    python -m tests.studies.kill_study FOLDER SEEDS
"""

import json
import os
import signal
import sys
from pathlib import Path

import torch

from tests.forks import child, ended
from tests.studies.small_studies import facts_of, small_study
from vlm2rec_hf.evaluation.report import Report
from vlm2rec_hf.studies import fitting, shared_work, work
from vlm2rec_hf.studies.runs import runs_of
from vlm2rec_hf.trainers.checkpoints import COMPLETE, CompleteCheckpoints
from vlm2rec_hf.trainers.seqrec_trainer import SeqRecTrainer
from vlm2rec_hf.trainers.vlm2rec_trainer import VLM2RecTrainer

MOMENTS = ("start", "saved", "torn", "trained", "model", "report", "reported", "saved", "trained")


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def before(owner, name, condition=lambda *args: True):
    """Die instead of a call."""
    real = getattr(owner, name)
    setattr(owner, name, lambda *args, **kw: die() if condition(*args) else real(*args, **kw))


def after(owner, name):
    """Die once a call has returned."""
    real = getattr(owner, name)

    def then_die(*args, **kw):
        real(*args, **kw)
        die()

    setattr(owner, name, then_die)


def die_at(moment):
    if moment == "start":
        before(shared_work, "write_json", lambda path, values: path.name == shared_work.START_FILE)
    elif moment == "saved":
        after(CompleteCheckpoints, "_save_checkpoint")
    elif moment == "torn":
        before(Path, "touch", lambda path: path.name == COMPLETE)
    elif moment == "trained":
        after(fitting, "write_json")
    elif moment == "model":
        before(work, "drop_checkpoints")
    elif moment == "report":
        before(Report, "save")
    elif moment == "reported":
        before(work, "write_json")


def attempt(study, moment):
    """Work on a study in a process of its own, whose training steps are written to the pipe."""

    def body(pipe):
        for trainer in (VLM2RecTrainer, SeqRecTrainer):

            def noted(self, *args, real=trainer.training_step, **kw):
                key = "/".join(Path(self.args.output_dir).parts[-2:])
                os.write(pipe, f"{key} {self.state.global_step + 1}\n".encode())
                return real(self, *args, **kw)

            trainer.training_step = noted
        die_at(moment)
        work.run_study(study)

    return child(body)


def main(folder, seeds):
    torch.set_num_threads(1)
    first, second = small_study(folder / "shared_by_two"), small_study(folder / "killed", seeds=list(range(seeds)))
    pairs = [attempt(first, "end"), attempt(first, "end")]
    shares = [ended(*pair) for pair in pairs]
    attempts = [ended(*attempt(second, moment)) for moment in (*MOMENTS * seeds, "end")]
    twins = zip(runs_of(first), runs_of(second), strict=False)
    facts = {mine.key: (facts_of(one), facts_of(mine)) for one, mine in twins if mine.is_done and one.is_done}
    differ = {
        key: [name for name in one if one[name] != mine[name]] for key, (one, mine) in facts.items() if one != mine
    }
    print(
        json.dumps(
            {
                "shares": [(code, steps.splitlines()) for code, steps in shares],
                "attempts": [(code, steps.splitlines()) for code, steps in attempts],
                "compared": sorted(facts),
                "differ": differ,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
