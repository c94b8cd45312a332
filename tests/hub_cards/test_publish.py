"""Publishing to a Hub that stumbles: whole or not at all, tagged only once seen to work."""

import dataclasses
import hashlib
import json
import math
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi, snapshot_download
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from vlm2rec_hf import VLM2RecEmbedder, VLM2RecProcessor, as_queries
from vlm2rec_hf.hub_cards import publish
from vlm2rec_hf.hub_cards.card import is_ours
from vlm2rec_hf.hub_cards.probes import largest_difference
from vlm2rec_hf.hub_cards.publish import publish_model
from vlm2rec_hf.sentence_transformers import write_sentence_transformer_files

REPO = "org/embedder"


@pytest.fixture
def folder(tiny, tmp_path):
    model, processor = tiny()
    model.save_pretrained(tmp_path / "embedder")
    processor.save_pretrained(tmp_path / "embedder")
    return tmp_path / "embedder"


def state(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*")) if path.is_file()
    }  # fmt: skip


def change(folder, scale=1.5):
    """The same model with other weights: a next version."""
    model = VLM2RecEmbedder.from_pretrained(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(scale)
    model.save_pretrained(folder)


def test_published_tagged_and_loaded_back(hub, folder, items):
    (folder / "training_args.bin").write_bytes(b"a pickle")
    (folder / "checkpoint-3").mkdir()
    (folder / "checkpoint-3" / "optimizer.pt").write_bytes(b"a pickle")
    (folder / "notes.txt").write_text("for me alone")
    before, said = state(folder), []
    done = publish_model(folder, REPO, tag="v1.0", say=said.append)
    assert state(folder) == before  # not even a card is written into it
    assert done.new and done.difference == 0.0 and len(said) == 2
    assert done.left_out == ("checkpoint-3/", "notes.txt", "training_args.bin")
    assert set(hub.files(REPO, "v1.0")) == {*done.files, ".gitattributes"} and "README.md" in done.files
    assert not any(name.endswith((".bin", ".pt", ".txt")) and "merges" not in name for name in done.files)
    assert hub.files(REPO, "v1.0")["model.safetensors"] == (folder / "model.safetensors").read_bytes()
    processor = VLM2RecProcessor.from_pretrained(REPO, revision="v1.0")
    found = AutoModel.from_pretrained(REPO, revision="v1.0").encode_items(items, processor).both
    expected = VLM2RecEmbedder.from_pretrained(folder).encode_items(items, processor).both
    assert torch.equal(found, expected)
    transformer = SentenceTransformer(REPO, revision="v1.0")
    assert (transformer.encode(items, convert_to_tensor=True) - expected).abs().max() < 1e-5
    assert "SentenceTransformer(" in hub.files(REPO, "v1.0")["README.md"].decode()


def test_a_second_version_leaves_the_first_as_it_was(hub, folder, items):
    first = publish_model(folder, REPO, tag="v1.0")
    expected = (
        VLM2RecEmbedder.from_pretrained(folder).encode_items(items, VLM2RecProcessor.from_pretrained(folder)).both
    )
    VLM2RecEmbedder.from_pretrained(folder).save_pretrained(folder, max_shard_size="60KB")
    (folder / "model.safetensors").unlink()
    change_shards = sorted(folder.glob("model-*.safetensors"))
    assert len(change_shards) > 1
    second = publish_model(folder, REPO, tag="v2.0")
    assert second.oid != first.oid and second.removed == ("model.safetensors",)
    assert "model.safetensors" not in hub.files(REPO, "main") and "model.safetensors.index.json" in hub.files(
        REPO, "main"
    )
    processor = VLM2RecProcessor.from_pretrained(REPO, revision="v1.0")
    for revision in ("v1.0", first.oid, "v2.0", "main"):  # sharded or not, the same weights here
        again = VLM2RecEmbedder.from_pretrained(REPO, revision=revision)
        assert torch.equal(again.encode_items(items, processor).both, expected)
    change(folder)
    for shard in folder.glob("model-*"):
        shard.unlink()
    publish_model(folder, REPO, tag="v3.0")
    again = VLM2RecEmbedder.from_pretrained(REPO, revision="v1.0")
    assert torch.equal(again.encode_items(items, processor).both, expected)
    newest = VLM2RecEmbedder.from_pretrained(REPO)
    assert not torch.allclose(newest.encode_items(items, processor).both, expected, atol=1e-3)


def test_doing_it_again_changes_nothing(hub, folder):
    first = publish_model(folder, REPO, tag="v1.0")
    again = publish_model(folder, REPO, tag="v1.0")
    assert again.oid == first.oid and not again.new
    assert len(hub.history(REPO, "models")) == 2  # the Hub's own first commit, and one publication
    change(folder)
    with pytest.raises(ValueError, match="`tag` 'v1.0' already names commit"):
        publish_model(folder, REPO, tag="v1.0")
    assert len(hub.history(REPO, "models")) == 2


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        ({"status": 401}, ValueError, r"`token`: the Hub does not know .* \(401\)"),
        ({"status": 403}, ValueError, r"`token` gives no right to write .* \(403\)"),
        ({"status": 412}, ValueError, "changed while this was under way"),
        ({"status": 400, "message": "no such thing"}, ValueError, r"refused to write .* \(400\): .*no such thing"),
        ({"status": 429}, ConnectionError, r"at the moment \(429\)"),
        ({"status": 500}, ConnectionError, r"at the moment \(500\)"),
        ({"drop": "before"}, ConnectionError, "connection to the Hub failed"),
        ({"drop": "half"}, ConnectionError, "connection to the Hub failed"),
    ],
)  # fmt: skip
def test_a_commit_that_never_works_leaves_nothing(hub, folder, no_waiting, fault, kind, says):
    publish_model(folder, REPO, tag="v1.0", verify=False)
    files, commits = hub.files(REPO, "main"), hub.history(REPO, "models")
    change(folder)
    before = state(folder)
    hub.fail("POST", "/commit/main", times=100, **fault)
    with pytest.raises(kind, match=says) as caught:
        publish_model(folder, REPO, tag="v2.0", verify=False)
    assert hub.token not in str(caught.value) and state(folder) == before
    assert hub.files(REPO, "main") == files and hub.history(REPO, "models") == commits
    assert [ref.name for ref in HfApi().list_repo_refs(REPO).tags] == ["v1.0"]
    asked = [entry for entry in hub.requests if entry[0] == "POST" and entry[1].endswith("/commit/main")]
    assert len(asked) == 1 + (5 if kind is ConnectionError else 1)


@pytest.mark.parametrize(
    "fault", [{"status": 503}, {"status": 429, "headers": {"Retry-After": "7"}}, {"drop": "before"}]
)
def test_a_commit_that_works_at_last(hub, folder, no_waiting, fault):
    hub.fail("POST", "/commit/main", times=2, **fault)
    done = publish_model(folder, REPO, tag="v1.0", verify=False)
    assert hub.files(REPO, "v1.0").keys() >= set(done.files) and len(hub.history(REPO, "models")) == 2
    assert no_waiting[-2:] == ([7.0, 7.0] if "headers" in fault else [1.0, 2.0])


def test_a_commit_whose_answer_is_lost_is_found(hub, folder, no_waiting):
    hub.fail("POST", "/commit/main", times=1, drop="after")
    done = publish_model(folder, REPO, tag="v1.0", verify=False)
    assert len(hub.history(REPO, "models")) == 2 and done.new
    hub.fail("POST", "/tag/", times=1, drop="after")
    change(folder)
    again = publish_model(folder, REPO, tag="v2.0", verify=False)
    assert HfApi().repo_info(REPO, revision="v2.0").sha == again.oid != done.oid


def test_somebody_else_was_faster(hub, folder):
    publish_model(folder, REPO, verify=False)
    change(folder)
    meanwhile = []

    def publish_between(method, path, status):
        if method == "POST" and path.endswith("/preupload/main") and not meanwhile:
            meanwhile.append(True)
            HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"{}", path_in_repo="config.json")

    hub.after_request = publish_between
    with pytest.raises(ValueError, match="got another commit .* while this one was prepared"):
        publish_model(folder, REPO, tag="v2.0", verify=False)
    assert meanwhile and hub.files(REPO, "main")["config.json"] == b"{}"
    assert HfApi().list_repo_refs(REPO).tags == []


@pytest.mark.parametrize("drop", ["before", "half"])
def test_uploads_that_break_off_are_taken_up_again(hub, folder, no_waiting, drop):
    hub.fail("PUT", ".*", times=2, drop=drop)
    publish_model(folder, REPO, tag="v1.0")
    assert hub.files(REPO, "v1.0")["model.safetensors"] == (folder / "model.safetensors").read_bytes()


def test_uploads_that_always_break_off_publish_nothing(hub, folder, no_waiting):
    hub.fail("PUT", ".*", times=1000, drop="half")
    with pytest.raises(ConnectionError, match="connection to the Hub failed"):
        publish_model(folder, REPO, tag="v1.0", verify=False)
    assert len(hub.history(REPO, "models")) == 1


def test_a_copy_that_answers_otherwise_is_not_tagged(hub, folder, monkeypatch):
    publish_model(folder, REPO, tag="v1.0")
    change(folder)
    honest = publish.kind_of("vlm2rec")

    def bent(where, hub):
        return {n: v + (0.01 if "snapshots" in where else 0.0) for n, v in honest.probe(where, hub).items()}

    monkeypatch.setattr(publish, "kind_of", lambda model_type: dataclasses.replace(honest, probe=bent))
    with pytest.raises(ValueError, match=r"gives other vectors \(difference 0.01, .*not tagged"):
        publish_model(folder, REPO, tag="v2.0")
    assert [ref.name for ref in HfApi().list_repo_refs(REPO).tags] == ["v1.0"]


def test_an_answer_of_nan_is_a_difference_wherever_it_stands():
    good, bad = torch.zeros(2), torch.tensor([0.0, math.nan])
    for names in ("ab", "ba"):
        after = {name: {"a": good, "b": bad}[name] for name in names}
        assert math.isnan(largest_difference(dict.fromkeys(names, good), after))
        assert math.isnan(largest_difference(after, after)) and largest_difference({"a": good}, {"a": good}) == 0


def test_refuses_what_would_not_load_or_would_give_secrets_away(hub, folder, tmp_path):
    def broken(name):
        copy = tmp_path / name
        shutil.copytree(folder, copy)
        return copy

    def refused(where, says, **options):
        with pytest.raises(ValueError, match=says):
            publish_model(where, REPO, verify=False, **options)

    refused(tmp_path / "absent", "`folder` .* is no folder")
    refused(folder, "`card` must be", card="perhaps")
    for name in ("embedder", "a/b/c", "org/em bedder"):
        with pytest.raises(ValueError, match="`repo_id`"):
            publish_model(folder, name)
    with pytest.raises(ValueError, match="`tag` 'v 1' is no name for a tag"):
        publish_model(folder, REPO, tag="v 1")
    (broken("no-config") / "config.json").unlink()
    refused(tmp_path / "no-config", "has no config.json")
    (broken("pickle") / "model.safetensors").rename(tmp_path / "pickle" / "pytorch_model.bin")
    refused(tmp_path / "pickle", "has no adapter_config.json: it is no weights")
    cut = broken("cut") / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[:-100])
    refused(tmp_path / "cut", "model.safetensors is damaged")
    (broken("no-code") / "hub_loading.py").unlink()
    refused(tmp_path / "no-code", "lacks hub_loading.py")
    sharded = broken("sharded")
    VLM2RecEmbedder.from_pretrained(sharded).save_pretrained(sharded, max_shard_size="60KB")
    (sharded / "model.safetensors").unlink(missing_ok=True)
    sorted(sharded.glob("model-*.safetensors"))[0].unlink()
    refused(sharded, "lacks model-00001-of-")
    leaky = broken("leaky")
    (leaky / "training.json").write_text(json.dumps({"arguments": {"note": "hf_" + "a" * 34}}))
    refused(leaky, "training.json holds what looks like a Hub token")
    assert hub.repos == {}


def test_a_card_somebody_wrote_is_kept(hub, folder):
    publish_model(folder, REPO, verify=False)
    text = hub.files(REPO, "main")["README.md"].decode()
    publish_model(folder, REPO, verify=False)
    HfApi().upload_file(
        repo_id=REPO, path_or_fileobj=text.replace("# ", "# My own ", 1).encode(), path_in_repo="README.md"
    )
    with pytest.raises(ValueError, match="`card`: README.md of 'org/embedder' was written or changed by hand"):
        publish_model(folder, REPO, verify=False)
    change(folder)
    publish_model(folder, REPO, verify=False, card="keep")
    assert "# My own " in hub.files(REPO, "main")["README.md"].decode()
    publish_model(folder, REPO, verify=False, card="replace")
    assert is_ours(hub.files(REPO, "main")["README.md"].decode())
    (folder / "README.md").write_text("---\nlicense: mit\n---\nMine.\n")
    publish_model(folder, REPO, verify=False)
    assert hub.files(REPO, "main")["README.md"].decode().endswith("Mine.\n")


def test_hand_written_cards_never_replace_each_other_and_hold_no_token(hub, folder):
    (folder / "README.md").write_text("Mine.\n")
    publish_model(folder, REPO, verify=False)
    publish_model(folder, REPO, verify=False)  # the same one again is no conflict
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"Edited on the Hub.\n", path_in_repo="README.md")
    with pytest.raises(ValueError, match="`card`: README.md of 'org/embedder' was written or changed by hand"):
        publish_model(folder, REPO, verify=False)
    (folder / "README.md").write_text(f"Log in with hf_{'k' * 34}.\n")
    with pytest.raises(ValueError, match=r"README.md holds what looks like a Hub token") as caught:
        publish_model(folder, "org/other", verify=False)
    assert "kkk" not in str(caught.value)


def test_a_report_of_other_weights_stays_at_home(hub, folder, demo_dataset):
    from vlm2rec_hf.evaluation.floors import rank_floors
    from vlm2rec_hf.evaluation.start_report import start_report
    from vlm2rec_hf.loading import weight_files_fingerprint

    dataset = demo_dataset.leave_one_out() if demo_dataset.split_spec["kind"] == "none" else demo_dataset
    examples = dataset.examples("test", max_history=3)
    report = start_report(dataset, examples, facts={"weights": weight_files_fingerprint(folder)})
    report.add("vlm2rec", rank_floors(examples)["transitions"], train_counts=dataset.popularity())
    report.save(folder / "evaluation")
    assert "evaluation/report.json" in publish_model(folder, REPO, verify=False).files
    assert "model-index" in hub.files(REPO, "main")["README.md"].decode()
    change(folder)
    done = publish_model(folder, REPO, verify=False)
    assert "evaluation/" in done.left_out and "evaluation/report.json" in done.removed
    assert "model-index" not in hub.files(REPO, "main")["README.md"].decode()


def test_a_whole_model_beside_an_adapter_is_ambiguous(hub, folder):
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match="holds both a whole model and an adapter"):
        publish_model(folder, REPO)


def test_prompts_are_those_of_the_processor_that_is_published(hub, folder, items):
    model, processor = VLM2RecEmbedder.from_pretrained(folder), VLM2RecProcessor.from_pretrained(folder)
    write_sentence_transformer_files(folder, processor, model.config, similarity="dot")
    processor.user_instruction = "What this user had: "
    processor.save_pretrained(folder)  # the files of sentence-transformers are older now
    publish_model(folder, REPO, tag="v1.0")
    transformer = SentenceTransformer(REPO, revision="v1.0")
    found = transformer.encode_query(as_queries([items, items[:2]]), convert_to_tensor=True)
    assert (found - model.encode_histories([items, items[:2]], processor).both).abs().max() < 1e-5
    assert transformer.similarity_fn_name == "dot"  # what else was chosen there stays


def test_local_paths_stay_at_home(hub, folder):
    (folder / "training.json").write_text(
        json.dumps({"base_model": None, "arguments": {"x": "/home/me/secret-project"}})
    )
    publish_model(folder, REPO, verify=False)
    found = json.loads(hub.files(REPO, "main")["training.json"])
    assert found == {"base_model": None, "arguments": {"x": "secret-project"}}


def test_a_copy_that_cannot_be_loaded_back_is_told_of(hub, folder, no_waiting):
    hub.fail("GET", r"model\.safetensors", status=500, times=1000)
    hub.fail("HEAD", r"model\.safetensors", status=500, times=1000)
    with pytest.raises(ConnectionError, match=r"Published as org/embedder@\w{8}, but not tagged.*Publish again"):
        publish_model(folder, REPO, tag="v1.0")
    assert HfApi().list_repo_refs(REPO).tags == [] and len(hub.history(REPO, "models")) == 2
    hub.faults.clear()
    assert publish_model(folder, REPO, tag="v1.0").difference == 0.0
    assert len(hub.history(REPO, "models")) == 2


def test_a_public_repo_does_not_become_private_by_the_way(hub, folder):
    publish_model(folder, "org/hidden", private=True, verify=False)
    assert HfApi().repo_info("org/hidden").private
    publish_model(folder, REPO, verify=False)
    with pytest.raises(ValueError, match="`private` was asked for, but 'org/embedder' is public already"):
        publish_model(folder, REPO, private=True, verify=False)


def test_files_of_other_people_stay(hub, folder):
    publish_model(folder, REPO, verify=False)
    others = ("handler.py", "examples/demo.py", "evaluation/notes.csv", "onnx/model.bin", "data/model.safetensors")
    for name in others:
        HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo=name)
    HfApi().upload_file(repo_id=REPO, path_or_fileobj=b"x", path_in_repo="pytorch_model.bin")
    change(folder)
    done = publish_model(folder, REPO, verify=False)
    assert done.removed == ("pytorch_model.bin",)
    assert set(others) <= set(hub.files(REPO, "main"))


def as_an_older_version(folder):
    """The folder as a version would have saved it that kept one of its files under another name."""
    (folder / "hub_loading.py").rename(folder / "old_loading.py")
    for path in folder.glob("*.py"):
        path.write_text(path.read_text(encoding="utf-8").replace(".hub_loading", ".old_loading"), encoding="utf-8")


def test_code_of_an_earlier_version_goes_whatever_it_is_called(hub, folder, tmp_path):
    older = shutil.copytree(folder, tmp_path / "older")
    as_an_older_version(older)
    first = publish_model(older, REPO, verify=False)
    assert "old_loading.py" in first.files and "hub_loading.py" not in first.files
    # Of today's names, but no part of an embedder: left by some other publication.
    strangers = {"handler.py": b"import old_loading", "family_mine.py": b"x", "sub/old_loading.py": b"x"}
    for name, content in {**strangers, "modeling_seqrec.py": b"x"}.items():
        HfApi().upload_file(repo_id=REPO, path_or_fileobj=content, path_in_repo=name)
    done = publish_model(folder, REPO, tag="v1.0")
    assert done.removed == ("modeling_seqrec.py", "old_loading.py")
    assert {*strangers, "hub_loading.py"} <= set(hub.files(REPO, "v1.0"))
    assert "old_loading.py" not in hub.files(REPO, "v1.0")


def test_a_repo_of_the_layout_before_keeps_none_of_its_code(hub, folder, tmp_path):
    """`picture_patches.py`, for one, bears none of the names that files of ours have today."""
    with zipfile.ZipFile(Path(__file__).parents[1] / "fixtures" / "saved_by_0aa0c80.zip") as saved:
        saved.extractall(tmp_path / "before")
    first = publish_model(tmp_path / "before" / "embedder", REPO, tag="v1.0")
    done = publish_model(folder, REPO, tag="v2.0")
    before, now = ({name for name in names if name.endswith(".py")} for names in (first.files, done.files))
    assert len(before) == 24 and "picture_patches.py" in before
    assert set(done.removed) == before - now and {"picture_patches.py", "history_state_vlm2rec.py"} <= before - now
    assert {name for name in hub.files(REPO, "v2.0") if name.endswith(".py")} == now


@pytest.mark.parametrize("config", [b'{"model_type": "bert", "auto_map": {"AutoModel": "mine.Mine"}}', b"{", b"[]"])
def test_code_of_somebody_elses_model_stays(hub, folder, config):
    HfApi().create_repo(REPO)
    for name, content in {"config.json": config, "mine.py": b"from .helper import x", "helper.py": b"x = 1"}.items():
        HfApi().upload_file(repo_id=REPO, path_or_fileobj=content, path_in_repo=name)
    done = publish_model(folder, REPO, verify=False)
    assert done.removed == () and {"mine.py", "helper.py"} <= set(hub.files(REPO, "main"))


def test_ordinary_publications_look_for_no_old_code(hub, folder):
    publish_model(folder, REPO, verify=False)
    change(folder)
    hub.requests.clear()
    publish_model(folder, REPO, verify=False)
    assert not [path for method, path, _ in hub.requests if method == "GET" and path.endswith(".py")]


def test_a_downloaded_version_published_again_is_the_same(hub, folder, tmp_path):
    first = publish_model(folder, REPO, tag="v1.0", license="mit")
    copy = snapshot_download(REPO, revision="v1.0", local_dir=tmp_path / "copy")
    again = publish_model(copy, REPO, tag="v1.0")
    assert again.oid == first.oid and not again.new
    publish_model(copy, REPO, tag="v2.0")  # whoever says nothing of the licence does not change it
    assert "license: mit" in hub.files(REPO, "v2.0")["README.md"].decode()
    change(folder)
    publish_model(folder, REPO, tag="v3.0", verify=False)
    assert "license: mit" in hub.files(REPO, "v3.0")["README.md"].decode()


def test_a_folder_of_the_repos_name_is_not_mistaken_for_it(hub, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, tmp_path / REPO)
    hub.requests.clear()
    assert publish_model(folder, REPO, tag="v1.0").difference == 0.0
    assert any("/resolve/" in path and path.endswith("model.safetensors") for _, path, _ in hub.requests)


def test_a_card_that_cannot_be_made_leaves_no_repo_behind(hub, folder):
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "report.json").write_text("[]")
    with pytest.raises(ValueError, match="report.json"):
        publish_model(folder, REPO)
    (folder / "evaluation" / "report.json").unlink()
    (folder / "processor_config.json").unlink()
    with pytest.raises(ValueError, match="has no processor_config.json"):
        publish_model(folder, REPO)
    assert hub.repos == {}


def test_a_token_without_rights_is_never_shown(hub, folder, monkeypatch):
    hub.read_only.add(REPO)
    with pytest.raises(ValueError, match=r"`token` gives no right to write 'org/embedder' \(403\)") as caught:
        publish_model(folder, REPO, verify=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "z" * 34)
    with pytest.raises(ValueError, match=r"\(401\)") as other:
        publish_model(folder, REPO, verify=False)
    for error in (caught.value, other.value):
        assert "hf_" not in str(error)
    assert Path(folder).is_dir()
