"""Load `torch._dynamo`, torch's compiler, once something is compiled.

torch itself imports the package on first use. But transformers and torch's attention over segments mark functions for
it when they are imported, torch's optimizers exclude themselves from it in every step, and accelerate asks it whether a
model is compiled. A process that compiles nothing would load its 210 modules for that, 0.4 of the 3.2 CPU seconds of a
worker's imports (medians of five, alternating; a core with AVX2). A dry run needs it: torch names the sources of fake
tensors with it.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PACKAGE = "torch._dynamo"
PLAIN = f"{PACKAGE}._trace_wrapped_higher_order_op"
"""A module of the package that needs no other, and that transformers' masks import."""


def _unmarked(function: Any) -> Any:
    return function


def _not_disabled(function: Any = None, *_: Any, **__: Any) -> Any:
    return _unmarked if function is None else function


def _no_break(*_: Any, **__: Any) -> None:
    pass


class _Frames:
    """Stands in for `torch._dynamo.eval_frame`: accelerate compares every model with its class of compiled ones."""

    class OptimizedModule:
        """No model has this class without the compiler."""

    def __getattr__(self, name: str) -> Any:
        return getattr(load_compiler().eval_frame, name)


WITHOUT_COMPILER: dict[str, Any] = {
    "allow_in_graph": _unmarked,
    "assume_constant_result": _unmarked,
    "disallow_in_graph": _unmarked,
    "disable": _not_disabled,
    "graph_break": _no_break,
    "eval_frame": _Frames(),
}
"""Stand-ins for names of the package, without an effect: enough for a process that compiles nothing."""


class DeferredCompiler(ModuleType):
    """Stands in for the package. Any name that is not in WITHOUT_COMPILER loads it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(PACKAGE)
        self.__path__ = [str(folder)]
        self.__spec__ = ModuleSpec(PACKAGE, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if sys.modules.get(PACKAGE) is self:
            if name in WITHOUT_COMPILER:
                return WITHOUT_COMPILER[name]
            if name.startswith("__"):
                raise AttributeError(name)
        return getattr(load_compiler(), name)


class _Loaded(Loader):
    """Returns a module that is already loaded."""

    def __init__(self, module: ModuleType) -> None:
        self._module, self._spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec


class _PackageFirst(MetaPathFinder):
    """Loads the package before one of its modules."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(f"{PACKAGE}.") or fullname == PLAIN:
            return None
        load_compiler()
        module = sys.modules.get(fullname)
        return ModuleSpec(fullname, _Loaded(module)) if module else None


_package_first = _PackageFirst()


def defer_compiler() -> None:
    """Put the stand-in into the place of the package, unless it is loaded already. Imports torch."""
    import torch

    if PACKAGE not in sys.modules:
        stand_in = DeferredCompiler(Path(torch.__file__).with_name("_dynamo"))
        sys.modules[PACKAGE] = torch._dynamo = stand_in
        sys.meta_path.insert(0, _package_first)


def load_compiler() -> ModuleType:
    """The package itself. Call it before anything is compiled, so that functions are marked from then on."""
    if isinstance(sys.modules.get(PACKAGE), DeferredCompiler):
        sys.meta_path.remove(_package_first)
        del sys.modules[PACKAGE], sys.modules["torch"]._dynamo
    return import_module(PACKAGE)
