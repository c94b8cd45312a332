"""Jobs are worked on together, within bounds."""

import asyncio
import time

import pytest

from vlm2rec_hf.serving.batching import Batcher, Overloaded, TooLate
from vlm2rec_hf.serving.metrics import ListWatch, drift
from vlm2rec_hf.serving.settings import ServerSettings, Tokens, check_host


def run(use, work, **options):
    async def main():
        batcher = Batcher(work, **options)
        batcher.start()
        try:
            return await use(batcher)
        finally:
            await batcher.close()

    return asyncio.run(main())


def test_jobs_that_come_together_are_one_batch_and_errors_have_one_owner():
    batches = []

    def work(jobs):
        batches.append(list(jobs))
        return [ValueError("odd") if job % 2 else job * 10 for job in jobs]

    async def use(batcher):
        return await asyncio.gather(*(batcher.ask(i, 5) for i in range(6)), return_exceptions=True)

    found = run(use, work, size=4, wait_s=0.05)
    assert batches == [[0, 1, 2, 3], [4, 5]]
    assert found[::2] == [0, 20, 40] and [type(one) for one in found[1::2]] == [ValueError] * 3


def test_more_than_the_queue_holds_is_refused_and_what_is_late_is_never_begun():
    done = []

    def work(jobs):
        time.sleep(0.1)
        done.extend(jobs)
        return jobs

    async def use(batcher):
        first = asyncio.create_task(batcher.ask("first", 5))
        await asyncio.sleep(0.02)
        late = asyncio.create_task(batcher.ask("late", 0.03))
        kept = asyncio.create_task(batcher.ask("kept", 5))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await batcher.ask("third", 5)
        with pytest.raises(TooLate):
            await late
        assert await first == "first"
        return kept

    async def ends(batcher):
        kept = await use(batcher)
        await batcher.close()  # finishes what was accepted
        with pytest.raises(Overloaded):
            await batcher.ask("after", 5)
        return await kept

    assert run(ends, work, size=1, queue_size=2) == "kept"
    assert done == ["first", "kept"]


def test_work_that_fails_is_told_to_all_and_goes_on():
    def work(jobs):
        if "bad" in jobs:
            raise KeyError("bad")
        return jobs

    async def use(batcher):
        with pytest.raises(KeyError):
            await batcher.ask("bad", 5)
        return await batcher.ask("good", 5)

    assert run(use, work, size=2) == "good"


def test_drift_coverage_and_fallbacks():
    assert drift([1, 2, 3], [1, 2, 3]) == 0 and drift([0, 0], [1, 1]) == 1 and drift([1, 2], [2, 3]) == 0.5
    watch = ListWatch(window=2)
    watch.add("model", ["a", "b"], [0.5, 0.4])
    watch.add("popularity", ["a", "c"], [9, 8])
    assert watch.state(4) == {"coverage": 0.75, "fallback_share": 0.5, "score_drift": 0.0}
    watch.add("model", ["a"], [0.9])
    watch.add("model", ["a"], [0.9])
    assert watch.state(4) == {"coverage": 0.25, "fallback_share": 0.0, "score_drift": 0.5}


def test_tokens_and_addresses(tmp_path):
    file = tmp_path / "tokens"
    for text in ("", "# none\n", "short\n"):
        file.write_text(text)
        with pytest.raises(ValueError, match="token_file"):
            Tokens(file)
    with pytest.raises(ValueError, match="cannot be read"):
        Tokens(tmp_path / "absent")
    file.write_text("a-long-enough-token\n")
    assert Tokens(file).accept(b"Bearer a-long-enough-token") and Tokens(file).accept(b"bearer a-long-enough-token")
    assert not any(map(Tokens(file).accept, (None, b"", b"Bearer", b"a-long-enough-token", b"Bearer a-long-enough")))
    for host in ("127.0.0.1", "::1", "localhost"):
        check_host(host, ServerSettings(), False)
    for host in ("0.0.0.0", "::", "shop.example"):
        with pytest.raises(ValueError, match="`host`.*`token_file`"):
            check_host(host, ServerSettings(), False)
        check_host(host, ServerSettings(token_file=str(file)), False)
        check_host(host, ServerSettings(), True)
    for wrong in (
        {"max_batch": 0},
        {"deadline_s": 0},
        {"batch_wait_ms": -1},
        {"max_body_mb": float("nan")},
        {"kv_memory_mb": -1},
    ):
        with pytest.raises(ValueError, match=f"`{next(iter(wrong))}`"):
            ServerSettings(**wrong)
