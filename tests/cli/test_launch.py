"""`vlm2rec train` through `accelerate launch`: two processes, one set of files, the numbers of one process."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from vlm2rec_hf.data.demo_shop import make_demo_shop

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "recipes" / "accelerate"


@pytest.mark.parametrize("name", ["ddp", "ddp_cpu", "fsdp"])
def test_recipes_are_what_accelerate_reads(name):
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.utils import FullyShardedDataParallelPlugin

    config = load_config_from_file(str(RECIPES / f"{name}.yaml"))
    assert config.num_processes == 2 and config.use_cpu == (name == "ddp_cpu")
    raw = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    if name == "fsdp":
        options = {key.removeprefix("fsdp_"): value for key, value in raw["fsdp_config"].items()}
        plugin = FullyShardedDataParallelPlugin(
            fsdp_version=options["version"],
            auto_wrap_policy=options["auto_wrap_policy"],
            state_dict_type=options["state_dict_type"],
            reshard_after_forward=options["reshard_after_forward"],
        )
        assert plugin.fsdp_version == 2 and "FULL" in str(plugin.state_dict_type)


@pytest.mark.parametrize("family", ["qwen2_vl", "qwen2_5_vl", "qwen3_vl"])
def test_the_model_names_the_layers_that_are_sharded(tiny, family):
    """What FSDP's policy falls back on: all decoder layers and vision blocks, also behind an adapter."""
    from peft import get_peft_model

    from vlm2rec_hf import default_lora_config

    model, _ = tiny(family)
    layers = {type(layer).__name__ for layer in (model.vlm.language_model.layers[0], model.vlm.visual.blocks[0])}
    assert (
        layers == set(model._no_split_modules) == set(get_peft_model(model, default_lora_config(2))._no_split_modules)
    )


@pytest.mark.slow
def test_two_launched_processes_train_and_write_as_one(tmp_path):
    make_demo_shop(60, n_users=60).dataset().save(tmp_path / "shop")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = ["-m", "accelerate.commands.launch", "--config_file", str(RECIPES / "ddp_cpu.yaml")]
    launch += ["--main_process_port", str(port)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    logs = {}
    for name, start, batch in (("one", [], 12), ("two", launch, 6)):
        words = ["-m", "vlm2rec_hf.cli.main", "--debug", "train", "--dataset", str(tmp_path / "shop")]
        words += "--tiny qwen2_vl --hidden_size 32 --vision_hidden_size 32 --image_size 56 --max_history 3".split()
        words += "--max_steps 4 --logging_steps 1 --save_strategy steps --save_steps 4 --use_cpu true".split()
        words += ["--output_dir", str(tmp_path / name), "--per_device_train_batch_size", str(batch)]
        subprocess.run([sys.executable, *start, *words], check=True, env=environment, capture_output=True)
        state = json.loads((tmp_path / name / "checkpoint-4" / "trainer_state.json").read_text())
        logs[name] = [record["loss"] for record in state["log_history"] if "loss" in record]
    assert len(logs["one"]) == 4 and logs["two"] == pytest.approx(logs["one"], rel=2e-4)
    files = {name: {str(path.relative_to(tmp_path / name)) for path in (tmp_path / name).rglob("*")} for name in logs}
    random_states = {f"checkpoint-4/rng_state{suffix}.pth" for suffix in ("", "_0", "_1")}
    assert files["one"] - random_states == files["two"] - random_states
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("one", "two")]
    assert weights[0].keys() == weights[1].keys()
    assert all((weights[0][key] - weights[1][key]).abs().max() < 1e-3 for key in weights[0])
    reports = [json.loads((tmp_path / name / "evaluation" / "report.json").read_text()) for name in ("one", "two")]
    assert reports[0].keys() == reports[1].keys()
    assert json.loads((tmp_path / "two" / "training.json").read_text())["processes"] == 2
