"""Packages that a worker does without: TensorFlow imports Keras, and Arrow pandas, wherever they are installed.

Both go on without them. That takes a third off the time that a worker needs to start.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PACKAGES = ("keras", "pandas")


class _Absent(MetaPathFinder, Loader):
    """Finds the packages, and fails to load them as if they were not there."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in PACKAGES else None

    def exec_module(self, module: ModuleType) -> None:
        raise ModuleNotFoundError(f"No module named {module.__name__!r} in a worker", name=module.__name__)


def refuse() -> None:
    """From now on the packages cannot be imported in this process, unless they are already."""
    sys.meta_path.insert(0, _Absent())
