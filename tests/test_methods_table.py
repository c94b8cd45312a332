"""Every cell of the table methods x verbs in docs/concepts/methods.md runs; tests/cli/test_verbs.py checks results."""

import re
import shlex
from pathlib import Path

import pytest

from vlm2rec_hf import make_demo_shop
from vlm2rec_hf.cli.main import main
from vlm2rec_hf.tiny.backbones import save_tiny_backbone

PAGE = (Path(__file__).parents[1] / "docs" / "concepts" / "methods.md").read_text(encoding="utf-8")
METHODS = ("vlm2rec", "pixrec", "seqrec", "dmesr")
VERBS = ("train", "evaluate", "recommend", "embed", "push")
SHORT = {
    "vlm2rec": "--max_steps 2 --per_device_train_batch_size 16 --use_cpu true --lora false",
    "pixrec": "--max_steps 2 --per_device_train_batch_size 16 --use_cpu true --lora false --save_strategy no",
    "seqrec": "--num_train_epochs 1 --use_cpu true",
    "dmesr": "--num_train_epochs 1 --use_cpu true",
}


def cells():
    """(method, verb) -> the command in the docs."""
    table = PAGE.split("On the command line:\n\n")[1].split("\n\n")[0].splitlines()
    header = [re.search(r"`(\w+)`", cell).group(1) for cell in table[0].strip("|").split("|")[1:]]
    found = {}
    for line in table[2:]:
        verb, *row = (cell.strip() for cell in line.strip("|").split("|"))
        for method, cell in zip(header, row, strict=True):
            command = re.search(r"`(vlm2rec .+?)`", cell)
            assert command or cell.startswith("the same"), cell
            found[method, verb] = command.group(1) if command else found[header[0], verb]
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    dataset = make_demo_shop(n_items=60, n_users=60).dataset()
    dataset.save(folder / "shop")
    save_tiny_backbone(folder / "backbone", "qwen2_vl", dataset.item_texts(), hidden_size=32, vision_hidden_size=32)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        columns = "--text_column title --image_column description --both_column text"
        command = (
            f"encode-descriptions --dataset shop --text_encoder lsa --lsa_dim 16 {columns} --output items.safetensors"
        )
        assert main(shlex.split(command)) == 0
    return folder, dataset


def test_the_table_is_whole():
    assert set(cells()) == {(method, verb) for method in METHODS for verb in VERBS}


@pytest.mark.parametrize("method", METHODS)
def test_every_cell_runs(method, place, hub, monkeypatch, capsys):
    folder, dataset = place
    monkeypatch.chdir(folder)
    trained, report = folder / method, folder / f"{method}-report"
    names = {
        "D": "shop", "M": "backbone", "DIR": method, "R": report.name, "FILE": "items.safetensors",
        "FILE.parquet": f"{method}.parquet", "ID,ID": "p000003,p000001", "org/name": f"org/{method}",
    }  # fmt: skip
    for verb in VERBS:
        words = [names.get(word, word) for word in shlex.split(cells()[method, verb])]
        if verb == "train":
            words += SHORT[method].split()
        assert main(words[1:]) == 0, words
    assert (trained / "evaluation" / "report.json").is_file() and (report / "report.json").is_file()
    assert (folder / f"{method}.parquet").is_file()
    assert set(hub.repo(f"org/{method}").tags) == {"v1.0"}
    assert re.search(r"^  #  item +score  title$", capsys.readouterr().out, flags=re.MULTILINE)
