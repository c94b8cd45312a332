"""Clicks on the disk: killed anywhere, torn, damaged, compacted, written by several; and the memory's budget."""

import os
import shutil
import threading

import pytest

from tests.forks import child, ended, killed_at
from tests.waiting import PATIENCE_S
from vlm2rec_hf.serving.click_log import ClickLog
from vlm2rec_hf.serving.user_clicks import PER_USER, UserClicks


def over(folder, **options):
    return UserClicks(1e9, log=ClickLog(folder, **options))


def test_clicks_outlive_the_process_and_others_see_them(tmp_path):
    one, other = over(tmp_path), over(tmp_path)
    assert one.add([("a\ud800", ["1"]), ("b", ["2", "3"]), ("a\ud800", ["4"])]) == [2, 2, 2]
    assert other.of("a\ud800") == ["1", "4"]
    assert other.add([("b", ["5"])]) == [3]
    assert one.of("b") == ["2", "3", "5"] == over(tmp_path).of("b")
    assert one.of("nobody") == [] and UserClicks(1e9).add([("a", ["1"])]) == [1]


def test_a_torn_line_is_cut_off_kept_aside_and_counted(tmp_path):
    over(tmp_path).add([("a", ["1"])])
    (log,) = tmp_path.glob("clicks-0*.log")
    whole = log.read_bytes()
    for cut in range(1, len(whole)):
        log.write_bytes(whole + whole[:cut])
        again = over(tmp_path)
        assert again.torn == 1 and again.of("a") == ["1"] and log.read_bytes() == whole
    assert (tmp_path / "clicks-torn.log").read_bytes().splitlines()[-1] == whole[:-1]
    running = over(tmp_path)
    log.write_bytes(whole + b"torn by another")
    assert running.add([("a", ["2"])]) == [2] and running.torn == 1
    assert over(tmp_path).of("a") == ["1", "2"]


def test_a_damaged_line_costs_only_itself(tmp_path):
    over(tmp_path).add([("a", ["1"])])
    over(tmp_path).add([("a", ["2"])])
    (log,) = tmp_path.glob("clicks-0*.log")
    log.write_bytes(log.read_bytes().replace(b'["1"]', b'["7"]') + b"\x00\x00\n")
    again = over(tmp_path)
    assert again.of("a") == ["2"] and again.torn == 2


def test_the_log_is_compacted_under_others(tmp_path):
    one, other = over(tmp_path, compact_bytes=500), over(tmp_path, compact_bytes=500)
    for i in range(60):
        (one if i % 3 else other).add([("u", [str(i)])])
    (log,) = tmp_path.glob("clicks-0*.log")
    assert log.name != "clicks-00000001.log" and log.stat().st_size < 1500
    assert one.of("u") == other.of("u") == over(tmp_path).of("u") == [str(i) for i in range(60)]


def test_a_thread_that_reads_while_another_compacts_misses_no_click_after(tmp_path):
    renamed, begun, compacted = (threading.Event() for _ in range(3))

    class Halting(ClickLog):
        """The compacting thread waits before it deletes the earlier log, the reading one in the middle of `news`."""

        def _path(self, number):
            found = super()._path(number)
            if threading.current_thread() is compacting and number == 1 and super()._path(2).exists():
                renamed.set()
                begun.wait(PATIENCE_S)
            return found

        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "_compacted" and threading.current_thread() is reading:  # the offset was set just before
                begun.set()
                compacted.wait(PATIENCE_S)

    def compact():
        log.compact(clicks._everything)
        compacted.set()

    def read():
        renamed.wait(PATIENCE_S)
        clicks.of("a")

    compacting, reading = threading.Thread(target=compact), threading.Thread(target=read)
    log = Halting(tmp_path)
    clicks = UserClicks(1e9, log=log)
    clicks.add([("a", ["1"])])
    for thread in (compacting, reading):
        thread.start()
    for thread in (compacting, reading):
        thread.join()
    assert renamed.is_set() and begun.is_set()
    assert clicks.add([("a", ["2"])]) == [2] and clicks.of("a") == ["1", "2"]
    log.compact(clicks._everything)
    assert clicks.of("a") == over(tmp_path).of("a") == ["1", "2"]


def test_killed_before_any_file_operation_nothing_acknowledged_is_lost(tmp_path):
    for number in range(200):
        folder = tmp_path / str(number)
        over(folder).add([("u", ["0"])])

        def work(write, folder=folder, number=number):
            clicks = over(folder, compact_bytes=60)
            killed_at(number, str(folder))
            for i in range(1, 4):
                clicks.add([("u", [str(i)])])
                os.write(write, b"%d\n" % i)

        code, written = ended(*child(work))
        acknowledged = ["0", *written.split()]
        found = over(folder).of("u")
        assert found[: len(acknowledged)] == acknowledged and len(found) <= len(acknowledged) + 1, number
        assert over(folder).add([("u", ["x"])]) == [len(found) + 1]
        assert len(list(folder.glob("clicks-0*.log"))) == 1
        shutil.rmtree(folder)
        if code == 0:
            assert number > 20
            return
        assert code == -9
    pytest.fail("the work never ended")


def test_a_budget_forgets_who_was_not_seen_for_longest(tmp_path):
    clicks = UserClicks(5 * (PER_USER + 70), length=3)
    for i in range(5):
        clicks.add([(f"user {i}", ["1"])])
    assert len(clicks) == 5
    assert clicks.of("user 0") == ["1"]  # used again
    clicks.add([("user 5", ["1", "2", "3", "4"])])
    assert clicks.of("user 5") == ["2", "3", "4"]
    assert clicks.of("user 1") == [] and clicks.of("user 0") == ["1"] and clicks.forgotten >= 1
