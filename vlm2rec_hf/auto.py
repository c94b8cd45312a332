"""Make the library's Auto classes know ours: `AutoModel.from_pretrained("org/vlm2rec-...")` after one import.

Registering a class means importing it, and ours import torch and most of transformers. So `import vlm2rec_hf` only
notes that they wait, and they are registered as soon as somebody imports transformers' Auto classes.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, cast

AUTO_CLASSES = "transformers.models.auto.configuration_auto"
"""Every Auto class imports this module."""
LIBRARY = "transformers."
"""What our classes import. While a part of it is being imported, ours cannot be."""


def register_auto_classes() -> None:
    """Register every config, model and processor of this package, for loading and for saving their code.

    `register_for_auto_class` makes `save_pretrained` copy the flat files beside the weights and write `auto_map`, so
    that a repo also loads with `trust_remote_code=True` where this package is not installed.
    """
    importlib.import_module("vlm2rec_hf.modeling")


def register_auto_classes_lazily() -> None:
    """Register now where transformers' Auto classes are imported already, else when they are."""
    if AUTO_CLASSES in sys.modules:
        register_auto_classes()
    elif not any(isinstance(finder, _AfterImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _AfterImport())


class _AfterImport:
    """Finds the library's modules with the other finders, and registers our classes once none is half-imported."""

    def __init__(self) -> None:
        self.depth = 0
        self.finding = False

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The usual spec of a module of the library, with its import watched; `None` for all others."""
        if not name.startswith(LIBRARY) or self.finding:
            return None
        self.finding = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.finding = False
        if spec is not None and spec.loader is not None:
            spec.loader = cast(Any, _WatchedLoader(spec.loader, self))
        return spec

    def begin(self) -> None:
        """One of the modules is being imported."""
        self.depth += 1

    def end(self) -> None:
        """One is whole; the end of the outermost one is when none is half-imported."""
        self.depth -= 1
        if self.depth == 0 and AUTO_CLASSES in sys.modules and self in sys.meta_path:
            sys.meta_path.remove(self)
            register_auto_classes()


class _WatchedLoader:
    """A module's own loader, which reports the beginning and the end of the import."""

    def __init__(self, loader: Any, watcher: _AfterImport) -> None:
        self.loader, self.watcher = loader, watcher

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """As the loader does."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """As the loader does, reported before and after."""
        self.watcher.begin()
        try:
            self.loader.exec_module(module)
        except BaseException:
            self.watcher.depth -= 1
            raise
        self.watcher.end()
