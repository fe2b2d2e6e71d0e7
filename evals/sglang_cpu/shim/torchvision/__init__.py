"""Stands in for torchvision, which SGLang imports for images and a language model never calls."""

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

__path__: list[str] = []
__version__ = "0.0"


class Absent:
    """Whatever is asked of it, it is another one."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __getattr__(self, name: str) -> "Absent":
        return Absent()

    def __call__(self, *_: Any, **__: Any) -> "Absent":
        return Absent()


def __getattr__(name: str) -> Absent:
    if name.startswith("__"):
        raise AttributeError(name)
    return Absent()


class Submodules(MetaPathFinder, Loader):
    """Finds every submodule, and nothing in it."""

    def find_spec(self, name: str, *_: Any) -> ModuleSpec | None:
        return ModuleSpec(name, self, is_package=True) if name.startswith("torchvision.") else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = __getattr__  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None: ...


sys.meta_path.insert(0, Submodules())
