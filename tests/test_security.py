"""What comes from outside is data, never code to run: no pickles, and no code of a repo unasked."""

import ast
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from vlm2rec_hf.modeling.modeling_vlm2rec import VLM2RecEmbedder

PACKAGE = Path(__file__).parents[1] / "vlm2rec_hf"
FILES = sorted([*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "metrics").rglob("*.py")])


# ---- the code

UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "jsonpickle"}
SHELLS = {"os.system", "os.popen", "subprocess.getoutput", "subprocess.getstatusoutput", "commands.getoutput"}


def dotted(node):
    """`a.b.c` of an expression, "" of others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def constant(call, name):
    """A keyword's literal value; None where it is absent or computed."""
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value.value if isinstance(keyword.value, ast.Constant) else None
    return None


def dangers(source):
    """What a file does that could run foreign code, as (line, what)."""
    aliases = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                aliases[alias.asname or alias.name.split(".")[0]] = alias.name
                if alias.name.split(".")[0] in UNPICKLERS:
                    yield node.lineno, f"import {alias.name}"
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                aliases[alias.asname or alias.name] = f"{node.module}.{alias.name}"
            if node.module.split(".")[0] in UNPICKLERS:
                yield node.lineno, f"from {node.module}"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            spec = node.args
            defaults = [*zip(reversed(spec.posonlyargs + spec.args), reversed(spec.defaults), strict=False),
                        *zip(spec.kwonlyargs, spec.kw_defaults, strict=True)]  # fmt: skip
            for argument, value in defaults:
                if argument.arg == "trust_remote_code" and getattr(value, "value", False) is True:
                    yield node.lineno, "trust_remote_code=True by default"
        if not isinstance(node, ast.Call):
            continue
        head, _, rest = dotted(node.func).partition(".")
        name = f"{aliases.get(head, head)}.{rest}".rstrip(".")
        if name in ("eval", "exec", "compile", "__import__", "builtins.eval", "builtins.exec"):
            yield node.lineno, name
        if name == "torch.load" and constant(node, "weights_only") is not True:
            yield node.lineno, "torch.load"
        if name == "numpy.load" and constant(node, "allow_pickle") is not False:
            yield node.lineno, "numpy.load"
        if name in ("pandas.read_pickle", "torch.hub.load", "numpy.core.multiarray._reconstruct"):
            yield node.lineno, name
        if name in ("yaml.load", "yaml.load_all", "yaml.unsafe_load", "yaml.full_load"):
            loader = [dotted(k.value) for k in node.keywords if k.arg == "Loader"] + [
                dotted(a) for a in node.args[1:2]
            ]
            if not any(one.split(".")[-1] in ("SafeLoader", "CSafeLoader") for one in loader):
                yield node.lineno, name
        if name in SHELLS or (name.startswith("subprocess.") and constant(node, "shell") not in (None, False)):
            yield node.lineno, name
        if constant(node, "trust_remote_code") is True:
            yield node.lineno, "trust_remote_code=True"
        if constant(node, "use_safetensors") is False or constant(node, "safe_serialization") is False:
            yield node.lineno, "weights without safetensors"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE.parent)))
def test_no_file_can_run_what_it_reads(path):
    assert list(dangers(path.read_text(encoding="utf-8"))) == []


def test_the_walk_sees_every_danger_it_looks_for():
    bad = [
        "import pickle", "from dill import loads", "import joblib as j", "import marshal", "import shelve",
        "eval('1')", "exec(text)", "import torch\ntorch.load(p)", "import torch as t\nt.load(p, weights_only=False)",
        "from torch import load\nload(p)", "import numpy as np\nnp.load(p)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import yaml\nyaml.load(s)", "import yaml\nyaml.load(s, Loader=yaml.Loader)",
        "import yaml\nyaml.unsafe_load(s)",
        "import os\nos.system(x)", "import subprocess\nsubprocess.run(x, shell=True)", "f(trust_remote_code=True)",
        "def f(*, trust_remote_code=True): pass", "def f(a, trust_remote_code=True): pass",
        "m.save_pretrained(p, safe_serialization=False)",
        "import pandas\npandas.read_pickle(p)", "def g():\n    from cloudpickle import load",
    ]  # fmt: skip
    for source in bad:
        assert list(dangers(source)), source
    good = [
        "model.eval()", "re.compile(x)", "import re\nre.compile(x)", "import torch\ntorch.load(p, weights_only=True)",
        "import numpy as np\nnp.load(p, allow_pickle=False)", "import yaml\nyaml.load(s, Loader=yaml.SafeLoader)",
        "import yaml\nyaml.safe_load(s)", "import subprocess\nsubprocess.run([x])", "f(trust_remote_code=flag)",
        "def f(trust_remote_code=False): pass",
    ]  # fmt: skip
    for source in good:
        assert not list(dangers(source)), source


# ---- weights and repo code


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A saved model with its processor and the code files that go with them."""
    from vlm2rec_hf.tiny.backbones import tiny_vlm

    folder = tmp_path_factory.mktemp("model") / "saved"
    model, processor = tiny_vlm("qwen2_vl", ["red tent"], hidden_size=32, vision_hidden_size=32)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_models_are_saved_as_safetensors_only(saved):
    suffixes = {path.suffix for path in saved.rglob("*") if path.is_file()}
    assert ".safetensors" in suffixes
    assert not suffixes & {".bin", ".pt", ".pth", ".pkl", ".ckpt", ".npy", ".npz"}


class Bomb:
    """An object whose unpickling leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def load_by_command(folder):
    from vlm2rec_hf.cli.arguments import EncoderModelArguments
    from vlm2rec_hf.cli.evaluate import load

    return load(EncoderModelArguments(model=str(folder)))


@pytest.mark.parametrize("load", [VLM2RecEmbedder.from_pretrained, AutoModel.from_pretrained, load_by_command])
def test_pickled_weights_are_refused_unopened(saved, tmp_path, load):
    folder, mark = tmp_path / "model", tmp_path / "exploded"
    shutil.copytree(saved, folder)
    weights = next(folder.glob("*.safetensors"))
    weights.unlink()
    torch.save({"weight": Bomb(mark)}, folder / "pytorch_model.bin")
    with pytest.raises(Exception, match="safetensors|pytorch_model.bin|weights_only|Weights only"):
        load(folder)
    assert not mark.exists()
    torch.load(folder / "pytorch_model.bin", weights_only=False)  # the trap works: this is what must not happen
    assert mark.exists()


def spring(folder, mark):
    """Replace every code file of a saved model by one that leaves a mark when it is run."""
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(mark)!r}, 'w').close()\nraise SystemExit('repo code was run')\n")
    assert list(folder.glob("*.py"))


def test_repo_code_is_never_run_unasked(saved, tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(saved, folder)
    spring(folder, mark)
    for auto in (AutoConfig, AutoModel, AutoProcessor):
        loaded = auto.from_pretrained(folder, trust_remote_code=False)
        # The package's own class, not the folder's.
        assert type(loaded).__module__.startswith("vlm2rec_hf.modeling")
        auto.from_pretrained(folder)
    load_by_command(folder)
    assert not mark.exists()


def test_unknown_repo_code_is_refused(saved, tmp_path):
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(saved, folder)
    spring(folder, mark)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"model_type": "vlm2rec"', '"model_type": "somebody_elses"'))
    for auto in (AutoConfig, AutoModel):
        with pytest.raises(ValueError, match="trust_remote_code|custom code"):
            auto.from_pretrained(folder, trust_remote_code=False)
    assert not mark.exists()
