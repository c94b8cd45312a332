"""A saved head on its own and on the Hub: remote code without this package, revisions, pushing."""

import os
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoModel

from vlm2rec_hf import SequentialRecommender
from vlm2rec_hf.modeling.configuration_seqrec import SEQUENCE_ENCODERS

from .test_seqrec import make

# `import vlm2rec_hf` fails here on purpose: only the files beside the weights may be used.
STRANGER = """
import json, sys
sys.modules["vlm2rec_hf"] = None
from transformers import AutoModel

where, revision = sys.argv[1:]
head = AutoModel.from_pretrained(where, revision=revision, trust_remote_code=True)
assert type(head).__module__.startswith("transformers_modules."), type(head).__module__
found = head.recommend([["i1", "i2", "i3"], []], k=5)
print(json.dumps([[one.item_ids, one.scores, one.titles, one.source] for one in found]))
"""
HISTORIES = [["i1", "i2", "i3"], []]


def as_stranger(where, revision, environment, folder):
    import json

    run = subprocess.run(
        [sys.executable, "-c", STRANGER, str(where), revision],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    return json.loads(run.stdout.splitlines()[-1])


def expected(model):
    return [[one.item_ids, one.scores, one.titles, one.source] for one in model.recommend(HISTORIES, k=5)]


@pytest.mark.parametrize(
    "encoder", ["sasrec", *(pytest.param(e, marks=pytest.mark.slow) for e in SEQUENCE_ENCODERS[1:])]
)
def test_a_stranger_without_the_package_gets_the_same_recommendations(encoder, tmp_path):
    model = make(encoder, "content+id" if encoder == "sasrec" else "id")
    model.save_pretrained(tmp_path / "head")
    environment = {
        **os.environ, "HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "modules"),
        "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    result = as_stranger(tmp_path / "head", "main", environment, tmp_path)
    for ours, theirs in zip(expected(model), result, strict=True):
        assert ours[0] == theirs[0] and ours[2:] == theirs[2:]
        assert ours[1] == pytest.approx(theirs[1], abs=1e-5)


def test_all_that_a_push_takes_is_handed_on(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(SequentialRecommender, "push_to_hub", lambda self, name, **more: told.update(more, name=name))
    options = {"token": "hf_x", "create_pr": True, "revision": "dev", "private": True, "commit_message": "m"}
    make().save_pretrained(tmp_path / "head", push_to_hub=True, repo_id="org/head", **options)
    assert told == {"name": "org/head", **options}


def test_heads_travel_through_the_hub_by_revision(hub, hub_environment, tmp_path):
    first = make(representation="content")
    first.push_to_hub("org/head")
    api = HfApi()
    api.create_tag("org/head", tag="v1.0")
    second = make(representation="content")
    second.add_items(torch.randn(2, 6), ["new1", "new2"])
    second.save_pretrained(tmp_path / "second", push_to_hub=True, repo_id="org/head")
    assert "catalogue.parquet" in api.list_repo_files("org/head")
    newest = AutoModel.from_pretrained("org/head")
    tagged = SequentialRecommender.from_pretrained("org/head", revision="v1.0")
    assert len(newest.catalogue) == 32 and len(tagged.catalogue) == 30
    assert newest.recommend(HISTORIES, k=5) == second.recommend(HISTORIES, k=5)
    assert tagged.recommend(HISTORIES, k=5) == first.recommend(HISTORIES, k=5)
    result = as_stranger("org/head", "v1.0", hub_environment, tmp_path)
    assert [one[0] for one in result] == [one[0] for one in expected(first)]


def test_a_repo_without_a_catalogue_loads_and_says_what_is_missing(hub, tmp_path):
    model = make()
    model.catalogue = None
    model.push_to_hub("org/bare")
    again = AutoModel.from_pretrained("org/bare")
    assert again.catalogue is None
    with pytest.raises(ValueError, match="set_catalogue"):
        again.recommend([["i1"]])
