"""Which Python files of a model repo are ours: that follows from the code, never from what a file is called."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .. import modeling
from ..hub.commits import Head
from ..hub.errors import explained
from .model_folder import read_json
from .model_kinds import MODEL_KINDS

if TYPE_CHECKING:
    from huggingface_hub import HfApi

OWN_CODE = frozenset(path.name for path in Path(modeling.__file__).parent.glob("*.py")) - {"__init__.py"}
"""What this version of the package copies beside weights, over all kinds of models."""
MAPS = ("config.json", "processor_config.json", "tokenizer_config.json")
"""Files whose `auto_map` names classes in Python files."""


def code_files(folder: Path) -> tuple[set[str], set[str]]:
    """The Python files that the `auto_map`s of a model folder name and all that those import from their folder.

    Args:
        folder: of a saved model, or a downloaded one.

    Returns:
        Names of the files that are there, and of those that are missing.

    Raises:
        ValueError: a configuration is damaged.
    """
    from transformers.dynamic_module_utils import get_relative_imports

    maps = [(read_json(folder / name) or {}).get("auto_map") for name in MAPS]
    classes = [str(value) for each in maps if isinstance(each, dict) for value in each.values()]
    # With "--" in its name, a class comes from another repo.
    waiting = {name.split(".")[0] for name in classes if "--" not in name}
    present, missing = set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        path = folder / f"{module}.py"
        if path.name in present | missing:
            continue
        if module.isidentifier() and path.is_file():  # never a path that leads out of the folder
            present.add(path.name)
            waiting |= set(get_relative_imports(path))
        else:
            missing.add(path.name)
    return present, missing


def earlier_code(api: HfApi, repo_id: str, head: Head) -> set[str]:
    """The code of the version that a repo holds now, as its own `auto_map`s and imports name it.

    Files of this version's names are known to be ours without looking. Others are only looked for in the repo of a
    model that this package publishes: there they are ours if the model's code uses them, and somebody else's if not.

    Args:
        api: the client.
        repo_id: `owner/name`.
        head: where main stands.

    Raises:
        ConnectionError: the Hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    code = {name for name in head.files if "/" not in name and name.endswith(".py")}
    if code <= OWN_CODE:
        return set()
    with tempfile.TemporaryDirectory() as cache, explained(repo_id, revision=head.commit):
        folder = Path(
            snapshot_download(
                repo_id, revision=head.commit, token=api.token, cache_dir=cache, allow_patterns=[*MAPS, *sorted(code)]
            )
        )
        try:
            config = read_json(folder / "config.json") or {}
            return code_files(folder)[0] if config.get("model_type") in MODEL_KINDS else set()
        except ValueError:  # a damaged configuration names no code, so none but files of our names are deleted
            return set()
