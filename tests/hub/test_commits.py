"""One commit, one tag: found again when an answer is lost, never made twice, and no day spent waiting."""

import hashlib

import pytest
from huggingface_hub import HfApi

from vlm2rec_hf.hub.commits import (
    Head,
    commit_files,
    content_hashes,
    is_at,
    make_tag,
    open_repo,
    read_head,
    tagged_commit,
)

REPO = "org/thing"


@pytest.fixture
def head(hub):
    return open_repo(HfApi(), REPO, "model", None)


def put(head, files, deleted=()):
    return commit_files(HfApi(), REPO, "model", head, files, deleted, message="m")


def test_hashes_are_those_of_git_and_of_large_files(tmp_path):
    content = b"x" * 3_000_000
    (tmp_path / "f").write_bytes(content)
    known = {hashlib.sha256(content).hexdigest(), hashlib.sha1(b"blob 3000000\0" + content).hexdigest()}
    assert content_hashes(content) == content_hashes(tmp_path / "f") == known
    assert "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391" in content_hashes(b"")  # git's id of an empty file


def test_what_is_there_already_makes_no_commit(hub, head, tmp_path):
    (tmp_path / "big.bin").write_bytes(b"b" * 20_000)
    files = {"a.txt": b"a", "sub/big.bin": tmp_path / "big.bin"}
    first = put(head, files)
    now = read_head(HfApi(), REPO, "model")
    assert now.commit == first and set(now.files) == {".gitattributes", *files}
    assert put(now, files) == first and len(hub.history(REPO)) == 2
    assert is_at(HfApi(), REPO, "model", first, files) and not is_at(HfApi(), REPO, "model", first, {"a.txt": b"b"})
    # A file to delete that is not there is no reason for a commit; one that is there is.
    assert put(now, files, ["gone.txt"]) == first
    second = put(now, {"a.txt": b"a"}, ["sub/big.bin"])
    assert second != first and set(hub.files(REPO)) == {".gitattributes", "a.txt"}


def test_a_commit_of_somebody_else_with_the_same_files_will_do(hub, head):
    other = HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"a", path_in_repo="a.txt").oid
    assert put(head, {"a.txt": b"a"}) == other
    with pytest.raises(
        ValueError, match=f"got another commit \\({other[:8]}\\).*{head.commit[:8]}; nothing was published"
    ):
        put(head, {"a.txt": b"b"})


@pytest.mark.parametrize(("asked", "waits"), [("300", [300.0]), ("0", [1.0]), ("nonsense", [1.0])])
def test_a_wait_that_may_be_asked_for_is_kept(hub, head, no_waiting, asked, waits):
    hub.fail("POST", "/commit/main", 429, headers={"Retry-After": asked})
    put(head, {"a.txt": b"a"})
    hub.fail("POST", "/tag/", 503, headers={"Retry-After": asked})
    make_tag(HfApi(), REPO, "model", "v1", "main", "m")
    assert no_waiting == [*waits, *waits]


@pytest.mark.parametrize("status", [429, 503])
def test_a_day_is_not_waited(hub, head, no_waiting, status):
    hub.fail("POST", "/commit/main", status, times=9, headers={"Retry-After": "86400"})
    with pytest.raises(ConnectionError, match=rf"\({status}\); try again in 86400 seconds, for which the Hub asks"):
        put(head, {"a.txt": b"a"})
    hub.fail("POST", "/tag/", status, times=9, headers={"Retry-After": "301"})
    with pytest.raises(ConnectionError, match="in 301 seconds"):
        make_tag(HfApi(), REPO, "model", "v1", head.commit, "m")
    asked = [path for method, path, _ in hub.requests if method == "POST" and ("/commit/" in path or "/tag/" in path)]
    assert no_waiting == [] and len(asked) == 2 and hub.history(REPO) == [head.commit]


def test_waits_grow_and_the_tries_end(hub, head, no_waiting):
    hub.fail("POST", "/tag/", 500, times=100)
    with pytest.raises(ConnectionError, match="could not write"):
        make_tag(HfApi(), REPO, "model", "v1", head.commit, "m")
    assert no_waiting == [1.0, 2.0, 4.0, 8.0]


def test_a_look_that_fails_too_ends_no_tries(hub, head, no_waiting):
    """The Hub is away for tags and for reading: commit and tag wait alike, and find what a lost answer had made."""
    api = HfApi()
    hub.fail("POST", "/tag/", 503, times=2)
    hub.fail("GET", "/refs", 503, times=2)
    make_tag(api, REPO, "model", "v1", head.commit, "m")
    assert no_waiting == [1.0, 2.0] and tagged_commit(api, REPO, "model", "v1") == head.commit
    other = put(head, {"a.txt": b"a"})
    hub.fail("POST", "/tag/", 503)
    hub.fail("GET", "/refs", 503)
    with pytest.raises(ValueError, match=f"`tag` 'v1' already names commit {head.commit[:8]}"):
        make_tag(api, REPO, "model", "v1", other, "m")


def test_a_tag_is_made_once_and_never_moved(hub, head):
    api = HfApi()
    assert tagged_commit(api, REPO, "model", "v1") is None and tagged_commit(api, "org/none", "model", "v1") is None
    make_tag(api, REPO, "model", "v1", head.commit, "m")
    make_tag(api, REPO, "model", "v1", head.commit, "m")
    assert tagged_commit(api, REPO, "model", "v1") == head.commit
    other = put(head, {"a.txt": b"a"})
    with pytest.raises(ValueError, match=f"`tag` 'v1' already names commit {head.commit[:8]}"):
        make_tag(api, REPO, "model", "v1", other, "m")
    assert hub.repo(REPO).tags == {"v1": head.commit}


def test_the_name_of_a_branch_is_no_tag(hub, head):
    HfApi().create_branch(REPO, branch="next")
    with pytest.raises(ValueError, match="`tag` 'next' is the name of a branch of 'org/thing'; choose another"):
        tagged_commit(HfApi(), REPO, "model", "next")


def test_heads_of_what_is_not_there(hub, head):
    with pytest.raises(ValueError, match="`revision` 'v9'"):
        read_head(HfApi(), REPO, "model", "v9")
    with pytest.raises(ValueError, match="`repo_id` 'org/none'.*no such dataset"):
        read_head(HfApi(), "org/none", "dataset")
    assert open_repo(HfApi(), REPO, "model", None) == head == Head(head.commit, head.files)
