"""Files and folders appear whole or not at all, whoever is killed when; what the killed leave is cleared up."""

import os
import signal
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm2rec_hf import files
from vlm2rec_hf.files import is_being_written, remove_folder, remove_leftovers, whole_file, whole_folder

from .forks import child, ended


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_at_the_end_and_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "deep" / "file.txt"
    with whole_file(path) as partial:
        assert not path.exists() and partial.name == "file.txt"  # writers that look at the ending see the right one
        partial.write_text("old")
    assert path.read_text() == "old" and names(path.parent) == ["file.txt"]
    with pytest.raises(RuntimeError), whole_file(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "old" and names(path.parent) == ["file.txt"]
    with pytest.raises(FileNotFoundError), whole_file(path):
        pass  # nothing was written
    assert path.read_text() == "old" and names(path.parent) == ["file.txt"]
    with whole_file(str(path)) as partial:
        partial.write_text("new")
    assert path.read_text() == "new" and names(path.parent) == ["file.txt"]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(handle):
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", lambda *args: (calls.append("rename"), replace(*args)))
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_users_umask_decides_who_may_read(tmp_path, mask):
    """The writer of safetensors makes its files private."""
    before = os.umask(mask)
    try:
        with whole_file(tmp_path / "a.safetensors") as partial:
            save_file({"a": torch.ones(2)}, partial)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.safetensors").stat().st_mode) == 0o666 & ~mask
    assert load_file(tmp_path / "a.safetensors")["a"].tolist() == [1, 1]


def test_a_folder_appears_at_the_end_and_an_error_leaves_the_old_one(tmp_path):
    path = tmp_path / "deep" / "data"
    for text in ("old", "new"):
        with whole_folder(path) as partial:
            (partial / "part").mkdir()
            (partial / "part" / "a.txt").write_text(text)
            assert not path.exists() or (path / "part" / "a.txt").read_text() == "old"
        assert (path / "part" / "a.txt").read_text() == text and names(path.parent) == ["data"]
    with pytest.raises(RuntimeError), whole_folder(path) as partial:
        (partial / "b.txt").write_text("half")
        raise RuntimeError
    assert names(path) == ["part"] and names(path.parent) == ["data"]


def test_a_folder_that_cannot_be_renamed_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "data"
    with whole_folder(path) as partial:
        (partial / "old").touch()
    rename = os.rename

    def refuse(source, target):
        if Path(source).parent.name == "new":
            raise OSError("no")
        rename(source, target)

    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(OSError, match="no"), whole_folder(path) as partial:
        (partial / "new").touch()
    assert names(path) == ["old"] and names(tmp_path) == ["data"]


def test_a_folder_whose_writer_is_killed_between_two_renames_comes_back(tmp_path):
    path = tmp_path / "data"
    with whole_folder(path) as partial:
        (partial / "old").touch()

    def killed(write):
        rename = os.rename

        def deadly(source, target):
            if Path(source).parent.name == "new":
                os.kill(os.getpid(), signal.SIGKILL)
            rename(source, target)

        os.rename = deadly
        with whole_folder(path) as partial:
            (partial / "new").touch()

    assert ended(*child(killed)) == (-signal.SIGKILL, "")
    assert not path.exists()
    with whole_file(tmp_path / "other.txt") as partial:
        partial.write_text("x")
    assert names(path) == ["old"] and names(tmp_path) == ["data", "other.txt"]


def test_leftovers_of_the_dead_go_and_those_of_the_living_stay(tmp_path):
    stop, go = os.pipe()

    def writing(write):
        with whole_file(tmp_path / "file") as partial:
            partial.write_text("half")
            os.write(write, f"{partial.parents[1]}\n".encode())
            os.read(stop, 1)

    writers = [child(writing) for _ in range(2)]
    dead, alive = (Path(os.read(read, 1000).decode().strip()) for _, read in writers)
    os.kill(writers[0][0], signal.SIGKILL)
    assert ended(*writers[0])[0] == -signal.SIGKILL
    assert dead.exists() and alive.exists() and is_being_written(dead)
    assert remove_leftovers(tmp_path) == [dead]
    assert not dead.exists() and alive.exists()
    os.write(go, b".")
    assert ended(*writers[1]) == (0, "") and names(tmp_path) == ["file"]


def test_the_next_writer_clears_up_after_the_dead(tmp_path):
    def killed(write):
        with whole_file(tmp_path / "one") as partial:
            partial.write_text("half")
            os.kill(os.getpid(), signal.SIGKILL)

    assert ended(*child(killed))[0] == -signal.SIGKILL and len(names(tmp_path)) == 1
    with whole_file(tmp_path / "two") as partial:
        partial.write_text("x")
    assert names(tmp_path) == ["two"]


def test_only_our_folders_are_taken_for_leftovers(tmp_path):
    (tmp_path / ".writing-x.parquet").write_text("a file that copied code of a model writes")
    (tmp_path / "writing-y").mkdir()
    assert remove_leftovers(tmp_path) == []
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("x")
    assert names(tmp_path) == [".writing-x.parquet", "file", "writing-y"]


def test_many_writers_of_one_file_leave_one_of_their_versions(tmp_path):
    def writing(number):
        def work(write):
            for _ in range(25):
                with whole_file(tmp_path / "file") as partial:
                    partial.write_text(str(number) * 10_000)

        return work

    writers = [child(writing(number)) for number in range(4)]
    assert [ended(*writer) for writer in writers] == [(0, "")] * 4
    assert (tmp_path / "file").read_text() in {str(number) * 10_000 for number in range(4)}
    assert names(tmp_path) == ["file"]


def test_a_writer_whose_folder_is_taken_for_a_leftover_makes_another(tmp_path, monkeypatch):
    """In the moment between making its folder and locking it."""
    mkdir, taken = Path.mkdir, []

    def and_gone(self, *args, **options):
        mkdir(self, *args, **options)
        if is_being_written(self) and not taken:
            taken.extend(remove_leftovers(tmp_path))

    monkeypatch.setattr(Path, "mkdir", and_gone)
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("x")
    assert len(taken) == 1 and names(tmp_path) == ["file"]


def test_without_locks_all_but_clearing_up_works(tmp_path, monkeypatch):
    (tmp_path / ".writing-0").mkdir()
    monkeypatch.setattr(files, "fcntl", None)
    with whole_file(tmp_path / "file") as partial:
        partial.write_text("x")
    assert names(tmp_path) == [".writing-0", "file"] and remove_leftovers(tmp_path) == []


def test_a_removed_folder_vanishes_at_once(tmp_path, monkeypatch):
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "a").touch()
    with monkeypatch.context() as patched:
        patched.setattr(files.shutil, "rmtree", lambda *args, **options: None)  # killed before anything is deleted
        remove_folder(tmp_path / "work")
    (leftover,) = tmp_path.iterdir()
    assert is_being_written(leftover) and remove_leftovers(tmp_path) == [leftover] and names(tmp_path) == []
    remove_folder(tmp_path / "work")  # nothing to do
    assert names(tmp_path) == []
