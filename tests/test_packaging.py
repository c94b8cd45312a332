"""What the wheel says about itself, and what lies in it, on the package index as on a user's machine."""

import email
import re
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
REPOSITORY = "https://github.com/vlm2rec/vlm2rec-hf"
NEWEST_MINIMA = {"torch": "2.11", "transformers": "5.17", "sentence-transformers": "6.0", "huggingface-hub": "1.33"}
"""Minima may not be above these: users have such versions."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    build = pytest.importorskip("hatchling.build", reason="the build backend hatchling is not installed")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="hatch-fancy-pypi-readme is not installed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        folder = tmp_path_factory.mktemp("wheel")
        with zipfile.ZipFile(folder / build.build_wheel(str(folder))) as file:
            yield file


@pytest.fixture(scope="module")
def metadata(wheel):
    (name,) = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_bytes(wheel.read(name))


def test_names_its_authors_and_addresses(metadata):
    assert metadata["Author"] == "The vlm2rec-hf authors"
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL"))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog"}
    assert urls["Homepage"] == REPOSITORY
    for name in ("Documentation", "Changelog"):
        assert (ROOT / urls[name].removeprefix(f"{REPOSITORY}/blob/main/")).is_file(), urls[name]


def test_the_description_works_outside_a_checkout(metadata):
    text = metadata.get_payload(decode=True).decode()
    assert text.startswith("# vlm2rec-hf")
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert len(targets) >= 10
    for target in targets:
        assert target.startswith("https://"), target
        for address in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY.replace('github', 'raw.githubusercontent')}/main/"):
            if target.startswith(address):
                assert (ROOT / target.removeprefix(address).split("#")[0]).exists(), target
    assert "https://raw.githubusercontent.com/vlm2rec/vlm2rec-hf/main/docs/" in text, "the figure is shown"
    assert "pip install vlm2rec-hf && vlm2rec quickstart" in text
    for line in text.splitlines():
        if "constraints.txt" in line:
            assert line.startswith(f"git clone {REPOSITORY} && cd vlm2rec-hf && pip install"), line


def test_holds_all_of_the_package(wheel):
    names = set(wheel.namelist())
    files = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "vlm2rec_hf").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert {"vlm2rec_hf/__init__.pyi", "vlm2rec_hf/py.typed", "vlm2rec_hf/descriptions/prompts.yaml"} <= files
    assert {"embedder.md", "head.md", "pixrec.md", "dmesr.md"} <= {Path(name).name for name in files}
    assert files <= names
    assert {name for name in names if ".dist-info/" not in name} == files, "nothing else"


def test_the_source_distribution_lists_what_exists():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    included = settings["targets"]["sdist"]["include"]
    assert {"vlm2rec_hf", "docs", "mkdocs.yml", "tests"} <= set(included)
    for name in included:
        assert (ROOT / name).exists(), name


def minimum(name):
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        if requirement.name.lower() == name:
            return Version(next(iter(requirement.specifier)).version)
    raise AssertionError(name)


@pytest.mark.parametrize("name", NEWEST_MINIMA)
def test_minima_are_not_too_new(name):
    assert minimum(name) <= Version(NEWEST_MINIMA[name])


def test_minima_can_be_installed_together():
    """Transformers 5.17 and tokenizers name the lowest versions of each other and of huggingface_hub.

    The whole set was resolved once (see pyproject.toml); resolving it again needs the package index.
    """
    assert minimum("tokenizers") >= Version("0.23.1")  # 0.22 wants huggingface_hub below 1.0
    assert minimum("huggingface-hub") >= Version("1.5")  # asked for by transformers 5.17
    assert minimum("safetensors") >= Version("0.8")  # the same
    assert minimum("tqdm") >= Version("4.66.3")  # asked for by datasets 4.7
    for text in PROJECT["dependencies"]:
        requirement = Requirement(text)
        assert [part.operator for part in requirement.specifier] == [">="], text
        assert requirement.specifier.contains(distribution(requirement.name).version), text


def test_tested_versions_meet_the_minima():
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {line.partition("==")[0].lower(): line.partition("==")[2] for line in lines if "==" in line}
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    for text in [*PROJECT["dependencies"], *extras]:
        requirement = Requirement(text)
        version = tested.get(requirement.name.lower())
        assert version is None or requirement.specifier.contains(version), text
