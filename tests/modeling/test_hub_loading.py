"""AutoModel, AutoConfig, AutoProcessor by Hub id: every kind of revision, whole and sharded, with and without us."""

import json
import subprocess
import sys

import pytest
import torch
from huggingface_hub import HfApi
from transformers import AutoConfig, AutoModel, AutoProcessor

from vlm2rec_hf import VLM2RecConfig, VLM2RecEmbedder, VLM2RecProcessor

REPO = "org/vlm2rec-qwen2vl"
STRANGER = """
import json, sys
sys.modules["vlm2rec_hf"] = None
import torch
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoProcessor

items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
found = {}
for revision in json.loads(sys.argv[1]):
    where = dict(pretrained_model_name_or_path="org/vlm2rec-qwen2vl", revision=revision, trust_remote_code=True)
    config, model = AutoConfig.from_pretrained(**where), AutoModel.from_pretrained(**where)
    processor = AutoProcessor.from_pretrained(**where)
    assert {type(each).__module__.split(".")[0] for each in (config, model, processor)} == {"transformers_modules"}
    assert config.max_history_of_this_version == processor.max_history
    found[str(revision)] = model.encode_items(items, processor).both
torch.save(found, "found.pt")
"""


@pytest.fixture
def versions(hub, tiny):
    """Two versions pushed by the library's own `push_to_hub`, the second one sharded; revision -> vectors."""
    from PIL import Image

    items = ["red tent", {"text": "blue mug", "image": Image.new("RGB", (60, 50), "navy")}]
    expected, commits = {}, {}
    for number, shard in ((1, "5GB"), (2, "60KB")):
        model, processor = tiny()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1 + 0.3 * number)
        model.config.max_history_of_this_version = processor.max_history = 3 + number
        model.push_to_hub(REPO, max_shard_size=shard)
        processor.push_to_hub(REPO)
        commits[number] = HfApi().repo_info(REPO).sha
        vectors = model.encode_items(items, processor).both
        expected |= {commits[number]: vectors, f"v{number}.0": vectors}
        HfApi().create_tag(REPO, tag=f"v{number}.0")
        if number == 1:
            HfApi().create_branch(REPO, branch="first/line")
            HfApi().delete_file("model.safetensors", REPO)
    expected |= {"first/line": expected["v1.0"], "main": expected["v2.0"], None: expected["v2.0"]}
    assert (expected["v1.0"] - expected["v2.0"]).abs().max() > 1e-3
    assert "model.safetensors.index.json" in hub.files(REPO, "v2.0")
    return items, expected


def test_with_the_package_no_flag_is_needed(versions):
    items, expected = versions
    for revision, vectors in expected.items():
        options = {} if revision is None else {"revision": revision}
        config, processor = AutoConfig.from_pretrained(REPO, **options), AutoProcessor.from_pretrained(REPO, **options)
        model = AutoModel.from_pretrained(REPO, **options)
        assert type(config) is VLM2RecConfig and type(processor) is VLM2RecProcessor and type(model) is VLM2RecEmbedder
        assert config.max_history_of_this_version == processor.max_history
        assert torch.equal(model.encode_items(items, processor).both, vectors), revision
        assert not model.training
    with pytest.raises(OSError, match="no-such-tag"):
        AutoModel.from_pretrained(REPO, revision="no-such-tag")


def test_without_the_package_the_repos_own_code_does_it(versions, hub_environment, tmp_path):
    _, expected = versions
    command = [sys.executable, "-c", STRANGER, json.dumps(list(expected))]
    run = subprocess.run(command, cwd=tmp_path, env=hub_environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    result = torch.load(tmp_path / "found.pt", weights_only=True)
    assert result.keys() == {str(revision) for revision in expected}
    for revision, vectors in expected.items():
        assert torch.equal(result[str(revision)], vectors), revision
