"""Change and rebuild an index in process after process, each killed (SIGKILL) right before another file operation.

Every round starts with the same index, puts items in, takes items out, folds, rebuilds and switches, and is killed at
its k-th file operation (or, with a random seed, at a random moment). What was acknowledged is then there, once, with
the vectors of the version in use, whose reader of before goes on; and the work can be done to its end. Prints one
JSON line.

    python -m tests.indexing.kill_everywhere FOLDER STORE STEP RANDOM_ROUNDS
"""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

from tests.forks import fork, killed_at
from tests.indexing.small_index import put, small, vector
from vlm2rec_hf.indexing import item_index
from vlm2rec_hf.indexing.item_index import ItemIndex

FIRST = [f"a{i}" for i in range(12)]
FINGERPRINTS = ("one", "two")


def acknowledged(log):
    """The changes that were acknowledged, and the one that had begun; as `(what, item)`."""
    lines = log.read_text().split()
    begun = [line[1:] for line in lines if line[0] == "?"]
    done = [line[1:] for line in lines if line[0] == "!"]
    return done, begun[-1] if len(begun) > len(done) else None


def work(folder, log, store):
    """Everything that changes an index; says before and after each change what it is."""
    item_index.FOLD_AFTER_FILES = 4
    with log.open("a") as file:

        def say(text):
            os.write(file.fileno(), f"{text} ".encode())

        def change(index, what, item):
            say(f"?{what}{item}")
            put(index, item) if what == "+" else index.delete([item])
            say(f"!{what}{item}")

        index = ItemIndex.open(folder)
        for i in range(3):
            change(index, "+", f"new{i}")
            change(index, "-", f"a{i}")
        small(folder, FIRST, store, FINGERPRINTS[1])
        index = ItemIndex.open(folder)
        change(index, "+", "a0")
        change(index, "-", "new0")
        change(index, "+", "last")


def state_after(changes):
    items = set(FIRST)
    for change in changes:
        (items.add if change[0] == "+" else items.discard)(change[1:])
    return items


def check(folder, log):
    """What a process that opens the index now finds."""
    done, begun = acknowledged(log)
    index = ItemIndex.open(folder)
    ids = index.item_ids()
    assert len(ids) == len(set(ids)) == len(index), ids
    possible = [state_after(done)] + ([state_after([*done, begun])] if begun else [])
    assert set(ids) in possible, (sorted(ids), done, begun)
    found = index.vectors(ids)["both"]
    for item, row in zip(ids, found, strict=True):
        assert (row == vector(item, index.facts.fingerprint)["both"]).all(), item
    return ids


def child(task):
    """Run something in a process of its own; 0 well, -9 killed."""
    pid = fork()
    if pid == 0:
        try:
            task()
            os._exit(0)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            os._exit(1)
    return pid


def ended(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def finish(folder, log, store):
    """Check, put in what was under way, and go on to the end."""
    check(folder, log)
    index = ItemIndex.open(folder)
    put(index, "after")
    small(folder, FIRST, store, FINGERPRINTS[1])
    done, begun = acknowledged(log)
    ids = set(ItemIndex.open(folder).item_ids())
    possible = [state_after(done)] + ([state_after([*done, begun])] if begun else [])
    assert ids in [{*one, "after"} for one in possible], (sorted(ids), done, begun)
    left = [path.name for path in folder.iterdir() if path.name.startswith(".writing-")]
    assert not left, left


def round_of(folder, number, begin, store, kill):
    here, log = folder / f"round-{number}", folder / f"log-{number}"
    shutil.copytree(begin, here)
    log.write_text("")
    if store == "exact":
        reader = ItemIndex.open(here)
        before = reader.search(None, 5)
    code = kill(lambda: work(here, log, store), here)
    assert code in (0, -9), (number, code)
    if store == "exact":  # who had the index open goes on with what it has, or with what is new, never with less
        assert reader.search(None, 5) == before
        done, begun = acknowledged(log)
        reader.refresh()
        if not reader.superseded:
            assert set(reader.item_ids()) in [state_after(done), state_after([*done, *([begun] if begun else [])])]
    assert ended(child(lambda: finish(here, log, store))) == 0, number
    shutil.rmtree(here)
    return code


def main(folder, store, step, random_rounds):
    begin = folder / "begin"
    assert ended(child(lambda: small(begin, FIRST, store))) == 0
    operations = 0
    for number in range(0, 10_000, step):

        def at(task, here, number=number):
            def killed():
                killed_at(number, str(here))
                task()

            return ended(child(killed))

        if round_of(folder, number, begin, store, at) == 0:
            break
        operations += 1
    draw, kills = random.Random(0), 0
    for trial in range(random_rounds):

        def sometime(task, here):
            pid = child(task)
            time.sleep(draw.uniform(0, 3 if store == "lance" else 0.4))
            os.kill(pid, signal.SIGKILL)
            return ended(pid)

        kills += round_of(folder, f"random-{trial}", begin, store, sometime) == -9
    print(json.dumps({"operations": operations, "random_kills": kills}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:]))
