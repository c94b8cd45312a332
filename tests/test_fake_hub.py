"""The loopback Hub answers the real client as the Hub does; what the other tests rely on is held here."""

import pytest
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# hello\n")
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 100)
    (folder / "inner" / "note.txt").write_text("first")
    return folder


@pytest.mark.parametrize("kind", ["model", "dataset", "space"])
def test_what_goes_up_comes_down_at_every_revision(hub, folder, tmp_path, kind):
    api = HfApi()
    api.create_repo("org/thing", repo_type=kind, space_sdk="static" if kind == "space" else None)
    first = api.upload_folder(repo_id="org/thing", folder_path=folder, repo_type=kind).oid
    api.create_tag("org/thing", tag="v1.0", revision=first, repo_type=kind)
    api.create_branch("org/thing", branch="dev", repo_type=kind)
    (folder / "inner" / "note.txt").write_text("second")
    second = api.upload_folder(
        repo_id="org/thing", folder_path=folder, repo_type=kind, delete_patterns=["*.safetensors"], revision="dev"
    ).oid
    for revision, note in (
        ("main", "first"),
        ("v1.0", "first"),
        (first, "first"),
        ("dev", "second"),
        (second, "second"),
    ):
        got = snapshot_download("org/thing", revision=revision, repo_type=kind, cache_dir=tmp_path / "cache")
        with open(f"{got}/inner/note.txt") as file:
            assert file.read() == note
    path = hf_hub_download("org/thing", "model.safetensors", repo_type=kind, cache_dir=tmp_path / "cache")
    with open(path, "rb") as file:
        assert file.read() == (folder / "model.safetensors").read_bytes()
    assert {ref.name for ref in api.list_repo_refs("org/thing", repo_type=kind).tags} == {"v1.0"}
    assert [c.commit_id for c in api.list_repo_commits("org/thing", repo_type=kind)][0] == first
    assert api.repo_info("org/thing", repo_type=kind, revision="v1.0").sha == first


def test_listing_tells_files_folders_and_sizes(hub, folder):
    api = HfApi()
    api.create_repo("org/thing")
    api.upload_folder(repo_id="org/thing", folder_path=folder)
    tree = {entry.path: entry for entry in api.list_repo_tree("org/thing", recursive=True)}
    assert set(tree) == {".gitattributes", "README.md", "model.safetensors", "inner", "inner/note.txt"}
    assert tree["model.safetensors"].lfs.size == tree["model.safetensors"].size == 25_600
    assert [entry.path for entry in api.list_repo_tree("org/thing", path_in_repo="inner")] == ["inner/note.txt"]
    assert [entry.path for entry in api.get_paths_info("org/thing", ["inner", "README.md", "no"])] == [
        "inner",
        "README.md",
    ]
    assert api.file_exists("org/thing", "README.md") and not api.file_exists("org/thing", "no.md")


def test_refuses_what_the_hub_refuses(hub, folder, monkeypatch):
    api = HfApi()
    first = api.create_repo("org/thing")
    head = api.repo_info("org/thing").sha
    api.upload_folder(repo_id="org/thing", folder_path=folder, parent_commit=head)
    with pytest.raises(HfHubHTTPError, match="412"):
        api.upload_file(repo_id="org/thing", path_or_fileobj=b"x", path_in_repo="x.txt", parent_commit=head)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo("org/thing")
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("somebody/thing")
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("org/absent")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info("org/thing", revision="v9")
    with pytest.raises(EntryNotFoundError):
        hf_hub_download("org/thing", "absent.txt")
    api.create_repo("org/secret", private=True)
    assert api.repo_info("org/secret").private
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info("org/secret")
    with pytest.raises(HfHubHTTPError, match="401|Invalid"):
        api.upload_file(repo_id="org/thing", path_or_fileobj=b"x", path_in_repo="x.txt")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_wrong").whoami()
    assert str(first) == f"{hub.endpoint}/org/thing"


def test_faults_hit_as_often_as_said(hub, folder, no_waiting):
    api = HfApi()
    api.create_repo("org/thing")
    hub.fail("POST", "/preupload/", 503, times=2)
    api.upload_folder(repo_id="org/thing", folder_path=folder)
    assert [status for _, path, status in hub.requests if "preupload" in path] == [503, 503, 200]
    assert len(no_waiting) == 2
    hub.fail("PUT", "/lfs/", drop="half")
    (folder / "model.safetensors").write_bytes(b"other" * 5000)
    api.upload_folder(repo_id="org/thing", folder_path=folder)
    assert hub.files("org/thing")["model.safetensors"] == b"other" * 5000
    assert [status for method, path, status in hub.requests if method == "PUT"] == [200, 0, 200]
    hub.fail("POST", "/commit/", drop="after")
    with pytest.raises(Exception, match="disconnected|closed|reset"):
        api.upload_file(repo_id="org/thing", path_or_fileobj=b"x", path_in_repo="x.txt")
    assert hub.files("org/thing")["x.txt"] == b"x"  # done, though the client never heard of it


def test_a_tag_is_given_once(hub):
    api = HfApi()
    api.create_repo("org/thing")
    api.create_tag("org/thing", tag="v1.0")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("org/thing", tag="v1.0")
    api.delete_tag("org/thing", tag="v1.0")
    assert api.list_repo_refs("org/thing").tags == []
