"""The documentation: its snippets run, its links lead somewhere, no page is lost, and the API pages are complete."""

import argparse
import ast
import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import vlm2rec_hf
from vlm2rec_hf.cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
REPOSITORY = "https://github.com/vlm2rec/vlm2rec-hf"
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
TESTED_ELSEWHERE = {"start/your_shop.md": "tests/test_your_shop.py"}
"""Pages whose snippets need the command lines between them."""


def name_of(page):
    return page.relative_to(DOCS).as_posix()


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if "```python\n" in page.read_text() and name_of(page) not in TESTED_ELSEWHERE],
    ids=name_of,
)
def test_snippets_run_in_order(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scope: dict = {}
    for snippet in SNIPPET.findall(page.read_text(encoding="utf-8")):
        exec(compile(snippet, page.name, "exec"), scope)


def test_every_page_with_code_is_run():
    names = {name_of(page) for page in PAGES}
    assert {"index.md", "guides/data.md", "guides/evaluation.md", "guides/training.md", "concepts/views.md"} <= names
    for page, test in TESTED_ELSEWHERE.items():
        assert page in names and Path(page).name in (ROOT / test).read_text(encoding="utf-8")


# Links


def without_code(text):
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))


def anchors_of(page):
    """Anchors that both GitHub and mkdocs give a page's headings, and those of its API entries."""
    text = page.read_text(encoding="utf-8")
    titles = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE), re.MULTILINE)
    words = [re.sub(r"[^\w\s-]", "", re.sub(r"\[(.*?)\]\(.*?\)", r"\1", title)).strip().lower() for title in titles]
    github, mkdocs = (
        {rule(word) for word in words} for rule in (lambda w: w.replace(" ", "-"), lambda w: re.sub(r"[-\s]+", "-", w))
    )
    return (github & mkdocs) | set(re.findall(r"^::: (\S+)$", text, re.MULTILINE))


def links_of(page):
    text = without_code(page.read_text(encoding="utf-8"))
    return re.findall(r"\]\(([^)\s]+)\)", text)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=lambda p: p.stem
)
def test_links_lead_somewhere(page):
    for link in links_of(page):
        target, _, anchor = link.partition("#")
        if target.startswith(f"{REPOSITORY}/blob/main/") or target.startswith(f"{REPOSITORY}/tree/main/"):
            there = ROOT / target.split("/main/")[1]
        elif "://" in target:
            assert target.startswith("https://"), link
            continue
        else:
            there = (page.parent / target).resolve() if target else page
            if DOCS in page.parents:
                assert there.is_relative_to(DOCS), f"{link}: the rendered pages hold docs/ only; name {REPOSITORY}/..."
        assert there.exists(), link
        if anchor:
            assert anchor in anchors_of(there), f"{link}: {sorted(anchors_of(there))}"


def test_links_are_found_and_anchors_are_right(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A `b` (c)\n[x](other.md#y) `[no](code)`\n```\n[no](block)\n# no\n```\n## It's *d*\n::: pkg.Name\n"
    )
    assert links_of(page) == ["other.md#y"]
    assert anchors_of(page) == {"a-b-c", "its-d", "pkg.Name"}


# The map


class _Loader(yaml.SafeLoader):
    """Reads `mkdocs.yml`, tags of other programs included."""


def navigation():
    def pages(node):
        if isinstance(node, str):
            yield node
        elif isinstance(node, dict):
            for inner in node.values():
                yield from pages(inner)
        else:
            for inner in node:
                yield from pages(inner)

    return list(pages(yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), _Loader)["nav"]))  # noqa: S506


def test_every_page_is_in_the_navigation():
    listed = navigation()
    assert len(listed) == len(set(listed))
    assert set(listed) == {name_of(page) for page in PAGES}


def test_images_are_shown():
    shown = {
        (page.parent / link).resolve()
        for page in [*PAGES, ROOT / "README.md"]
        for link in re.findall(r"!\[[^\]]+\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert shown == set((DOCS / "img").glob("*.png"))


def test_it_builds(tmp_path):
    pytest.importorskip("mkdocs", reason="mkdocs is not installed: pip install -c constraints.txt '.[docs]'")
    pytest.importorskip(
        "mkdocstrings", reason="mkdocstrings is not installed: pip install -c constraints.txt '.[docs]'"
    )
    pytest.importorskip(
        "material", reason="mkdocs-material is not installed: pip install -c constraints.txt '.[docs]'"
    )
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    models = (tmp_path / "site" / "reference" / "api" / "models" / "index.html").read_text(encoding="utf-8")
    assert 'id="vlm2rec_hf.VLM2RecEmbedder"' in models and "encode_histories" in models


# The API pages


DOCUMENTED_WHERE_THEY_ARE = {
    "vlm2rec_hf.catalogues.item_vectors.read_item_vectors",
    "vlm2rec_hf.data.images.decode_image",
    "vlm2rec_hf.data.images.try_decode_image",
    "vlm2rec_hf.data.sequences.Sequences",
    "vlm2rec_hf.data.sequences.make_examples",
    "vlm2rec_hf.hub_cards.model_card.render_model_card",
    "vlm2rec_hf.hub_cards.publish_space.PublishedSpace",
    "vlm2rec_hf.hub_cards.publish_space.push_space",
    "vlm2rec_hf.indexing.conditions.parse_condition",
    "vlm2rec_hf.indexing.rows.IndexFacts",
    "vlm2rec_hf.indexing.scoring.Query",
    "vlm2rec_hf.page.shop_window.Shelf",
    "vlm2rec_hf.page.shop_window.ShopWindow",
    "vlm2rec_hf.recommending.cards.ShownItem",
    "vlm2rec_hf.recommending.explaining.Pull",
    "vlm2rec_hf.recommending.list_rules.diversified",
    "vlm2rec_hf.tiny.backbones.save_tiny_backbone",
}
"""Few need them, so no list of exports has them; the guides use them."""
CONSTANTS = {"TRAIN", "VALIDATION", "TEST"}


def exported():
    """Dotted names of everything that is public, each once: by its name in `vlm2rec_hf` where it has one."""
    seen, names = {}, []
    for module_name in ("", ".losses", ".evaluation", ".sentence_transformers", ".descriptions"):
        module = importlib.import_module(f"vlm2rec_hf{module_name}")
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            key = id(thing) if callable(thing) else f"{module_name}.{name}"
            if key not in seen:
                seen[key] = thing
                names.append(f"vlm2rec_hf{module_name}.{name}")
    return names


def test_the_api_pages_hold_every_public_name_once():
    found = [
        entry
        for page in sorted((DOCS / "reference" / "api").glob("*.md"))
        for entry in re.findall(r"^::: (\S+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    ]
    assert len(found) == len(set(found)), "named twice"
    expected = set(exported())
    assert not expected - set(found), "add them to a page of docs/reference/api"
    assert set(found) - expected == DOCUMENTED_WHERE_THEY_ARE
    assert len(expected) > 80


def test_the_pages_use_public_names_only():
    public = {*exported(), *DOCUMENTED_WHERE_THEY_ARE}
    things = {id(_thing(name)) for name in public}
    seen = 0
    for page in [*PAGES, ROOT / "README.md"]:
        for block in re.findall(
            r"^```python[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
        ):
            for node in ast.walk(ast.parse(block)):
                if not (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vlm2rec_hf"):
                    continue
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    assert (
                        node.module == "vlm2rec_hf.cli.main"
                        or alias.name in CONSTANTS
                        or name in public
                        or (id(_thing(name)) in things and node.module.count(".") <= 1)
                    ), f"{page.name}: {name}"
                    seen += 1
    assert seen > 60


def _thing(name):
    module, _, last = name.rpartition(".")
    return getattr(importlib.import_module(module), last)


def test_every_public_name_is_documented():
    for name in exported():
        thing = _thing(name)
        if callable(thing):
            text = thing.__dict__.get("__doc__") if isinstance(thing, type) else thing.__doc__
            assert text and len(text.strip()) > 20, name
            assert text.strip().split("\n\n")[0].endswith((".", ":")), name
    assert vlm2rec_hf.__version__


# The options pages


@pytest.fixture(scope="module")
def generate_options():
    spec = importlib.util.spec_from_file_location("generate_options", DOCS / "generate_options.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_options_pages_are_the_parsers(generate_options):
    made = generate_options.pages()
    assert len(made) == len(COMMANDS) + 4  # train has a page per method; index.md
    there = {path.name: path.read_text(encoding="utf-8") for path in generate_options.FOLDER.glob("*.md")}
    assert made == there, "run python docs/generate_options.py --write"
    assert (
        "| `--mask_row_targets` | `true` |" in made["train_vlm2rec.md"]
    )  # on by default, so it has a twin `--no_...`


def test_an_option_is_shown_with_its_default_and_choices(generate_options):
    parser = argparse.ArgumentParser()
    number = parser.add_argument("-k", "--k", type=int, default=10, help="How many | 5%%.")
    kind = parser.add_argument("--card", choices=("write", "keep"), default="", help="The card.")
    assert generate_options.row(number) == "| `-k`, `--k` | `10` | How many \\| 5%. |"
    assert generate_options.row(kind) == "| `--card` |  | The card. (`write`, `keep`) |"
    assert not generate_options.shown(parser.add_argument("--hidden", help=argparse.SUPPRESS))


# CONTRIBUTING


def test_the_direction_table_is_the_one_that_is_held():
    from .test_imports import ALLOWED

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split("| package | may import |")[1].split("\n\n")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE))
    assert rows.pop("cli") == "everything, inside functions"
    assert {name: set(re.findall(r"`(\w+)`", cell)) for name, cell in rows.items()} == ALLOWED


def test_the_recipes_name_files_that_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    recipes = text.split("\n## Add a backbone\n")[1]
    named = {
        name
        for row in re.findall(r"^\| (`.+?`.*?) \| ", recipes, re.MULTILINE)
        for name in re.findall(r"`([\w/.]+)`", row)
    }
    assert len(named) >= 25
    for name in named:
        if "NAME" not in name:
            assert (ROOT / "vlm2rec_hf" / name).exists() or (ROOT / name).exists(), name
