"""Imports point one way, copied files stand alone, and importing the package stays cheap."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "vlm2rec_hf"
NOTHING_BELOW = ("columns", "files", "processes", "quiet", "version")
ALLOWED = {
    "columns": set(),
    "files": set(),
    "processes": set(),
    "quiet": set(),
    "version": set(),
    "hub": set(),
    "losses": set(),
    "modeling": set(),
    "auto": {"modeling"},
    "tiny": {"modeling"},
    "data": {"hub", "modeling"},
    "catalogues": {"modeling", "data"},
    "histories": {"modeling"},
    "descriptions": {"modeling", "data", "loading", "catalogues"},
    "sentence_transformers": {"modeling", "data", "losses", "evaluation"},
    "loading": {"hub", "modeling"},
    "merging": {"modeling"},
    "evaluation": {"data", "modeling", "catalogues", "loading"},
    "indexing": set(),
    "recommending": {"data", "modeling", "catalogues", "histories", "loading", "evaluation", "indexing"},
    "serving": {"data", "modeling", "catalogues", "loading", "evaluation", "indexing", "recommending"},
    "page": {"data", "indexing", "recommending"},
    "jobs": {"modeling", "data", "catalogues", "evaluation"},
    "hub_cards": {"hub", "modeling", "data", "evaluation", "loading", "recommending", "sentence_transformers"},
    "trainers": {
        "losses", "modeling", "data", "catalogues", "descriptions", "evaluation", "loading", "hub", "hub_cards",
        "sentence_transformers",
    },
    "studies": {
        "catalogues", "data", "evaluation", "loading", "losses", "tiny", "trainers",
    },
}  # fmt: skip
THIRD_PARTY_OF_COPIED = {"torch", "transformers", "numpy", "PIL", "tqdm", "huggingface_hub", "safetensors", "pyarrow"}
ROOTS_OF_COPIED = (
    "configuration_vlm2rec", "modeling_vlm2rec", "processing_vlm2rec", "configuration_seqrec", "modeling_seqrec",
    "configuration_dmesr", "modeling_dmesr",
    "configuration_pixrec", "modeling_pixrec", "processing_pixrec",
)  # fmt: skip


def imports_of(path):
    """Dotted names of everything a file imports, relative ones resolved; type-checking blocks included."""
    package = ("vlm2rec_hf", *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            # `from .. import data` and `from vlm2rec_hf import RecDataset` name what they reach only after `import`.
            yield from ([f"{module}.{alias.name}" for alias in node.names] if module == "vlm2rec_hf" else [module])


def test_every_way_to_write_an_import_is_seen():
    path = PACKAGE / "losses" / "imagined.py"

    class Written:
        relative_to = path.relative_to

        def read_text(self, encoding):
            return """
from .. import data
from ..auto import x
from . import wpcl
from vlm2rec_hf import RecDataset
import vlm2rec_hf.cli.main
def late():
    from ...tests import y
    import torch.nn as nn
"""

    assert set(imports_of(Written())) == {
        "vlm2rec_hf.data", "vlm2rec_hf.auto", "vlm2rec_hf.losses", "vlm2rec_hf.RecDataset",
        "vlm2rec_hf.cli.main", "tests", "torch.nn",
    }  # fmt: skip


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path):
    parts = path.relative_to(PACKAGE).parts
    part = parts[0].removesuffix(".py")
    if part not in ALLOWED:
        assert part in ("__init__", "cli", "hub_cards")
        return
    allowed = {part, *NOTHING_BELOW, *ALLOWED[part]} if parts[-2:] != ("evaluation", "metrics.py") else set()
    for name in imports_of(path):
        if (".".join(("vlm2rec_hf", *parts)).removesuffix(".py"), name) == PUBLISHES_ITSELF:
            continue
        if name.split(".")[0] == "vlm2rec_hf" and len(name.split(".")) > 1:
            assert name.split(".")[1] in allowed, f"{path.name} imports {name}"


PUBLISHES_ITSELF = ("vlm2rec_hf.data.dataset", "vlm2rec_hf.hub_cards.publish_dataset")
"""`RecDataset.push_to_hub`: Hugging Face's convention, and the only import that may close a circle."""


def import_graph():
    """Module -> modules of ours that it imports anywhere: at its top, in functions, for type checkers."""
    names = {path: ".".join(("vlm2rec_hf", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph = {name: set() for name in names.values()}
    for path, name in names.items():
        package = ("vlm2rec_hf", *path.relative_to(PACKAGE).parent.parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names} & set(graph)
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else ()
                module = ".".join([*base, *([node.module] if node.module else [])])
                for alias in node.names:  # `from .room import module` reaches the module, else what `room` itself is
                    reached = f"{module}.{alias.name}"
                    graph[name] |= {reached if reached in graph else module} & set(graph)
    return {name: reached - {name} for name, reached in graph.items()}


def circles(graph):
    """The strongly connected components of more than one module (Tarjan, 1972)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            start = stack.index(node)
            component = sorted(stack[start:])
            del stack[start:]
            if len(component) > 1:
                found.append(component)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set()}) == [["a", "b", "c"]]
    assert circles({"a": {"b"}, "b": set(), "c": {"d", "a"}, "d": {"c"}}) == [["c", "d"]]
    assert circles({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}) == []


def test_there_is_no_import_circle():
    graph = import_graph()
    publishes, publication = PUBLISHES_ITSELF
    assert publication in graph[publishes]
    graph[publishes].remove(publication)
    assert circles(graph) == []


def test_only_commands_start_jobs():
    for path in FILES:
        if path.relative_to(PACKAGE).parts[0] not in ("jobs", "cli"):
            assert not [name for name in imports_of(path) if name.startswith("vlm2rec_hf.jobs")], path.name


def test_copied_files_stand_alone():
    waiting, copied = [PACKAGE / "modeling" / f"{name}.py" for name in ROOTS_OF_COPIED], set()
    while waiting:
        path = waiting.pop()
        if path in copied:
            continue
        copied.add(path)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and node.module and "." not in node.module, f"{path.name}: not a sibling"
                waiting.append(path.with_name(f"{node.module}.py"))
            elif isinstance(node, (ast.Import, ast.ImportFrom)):
                names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
                for name in names:
                    top = name.split(".")[0]
                    assert top in THIRD_PARTY_OF_COPIED or top in sys.stdlib_module_names, f"{path.name}: {name}"
    assert copied == {path for path in (PACKAGE / "modeling").glob("*.py") if path.name != "__init__.py"}


def test_importing_the_package_is_cheap_and_its_names_are_real():
    code = (
        "import sys, vlm2rec_hf;"
        "print([m for m in ('peft', 'trl', 'sentence_transformers', 'sklearn', 'matplotlib', 'datasets', 'ray')"
        " if m in sys.modules]);"
        "assert vlm2rec_hf.__all__ == sorted(vlm2rec_hf.__all__);"
        "[getattr(vlm2rec_hf, name) for name in vlm2rec_hf.__all__]"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == "[]"


def test_every_export_is_missed_clearly():
    import vlm2rec_hf

    with pytest.raises(AttributeError, match="No vlm2rec_hf attribute Nothing"):
        vlm2rec_hf.Nothing  # noqa: B018
