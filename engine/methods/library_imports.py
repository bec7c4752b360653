"""Import torch, bitsandbytes, transformers and PEFT in less time.

A worker imports them and itself in 2.6 CPU seconds here and in 6.9 plainly (medians of 5, alternating, 339 instead of
441 MiB; torch 2.13, transformers 5.24, PEFT 0.21, bitsandbytes 0.50): more than half of the time from a launch to the
end of the first step on the embedded model (tools/RESULTS.md). CPU seconds saved by each part:

- 0.6 without garbage collection: what an import creates stays, and the collector examines all of it again and again.
- Much of it without scipy, which transformers' losses of object detection import.
- 1.0 without the compilation of bitsandbytes' fallback kernels: it decorates them with `torch.compile`, whose call
  imports the compiler. A function that compiles at its first call stands in for it.
- 0.3 with one search for the names of transformers' models: it reads the 1,700 files of all models when `transformers`
  is imported, and again when `transformers.models` is.
- 0.7 and 31 MiB on a CPU by loading torch's compiler, `torch._dynamo`, only once something is compiled. torch itself
  imports the package on first use. But transformers and torch's attention over segments mark functions for it when they
  are imported, torch's optimizers exclude themselves from it in every step, and accelerate asks it whether a model is
  compiled. A process that compiles nothing would load its 210 modules for that. A dry run needs it: torch names the
  sources of fake tensors with it. With a GPU the compiler is imported as torch does: loading a model there takes
  longer, and the stand-in is in the way of every step.

Processes that only need tokenizers and configurations call `import_without_torch`: 0.8 CPU seconds.

OpenMP threads of torch's operators spin only shortly while they wait for each other, unless GOMP_SPINCOUNT or
OMP_WAIT_POLICY is set: where other processes use the CPUs too, a spinning thread keeps the one that it waits for from
running (times in tools/RESULTS.md).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

from engine.config.http_client import bound_hub_client

SPIN_COUNT = "1000"
"""Spin iterations before a waiting OpenMP thread sleeps; libgomp's default is 300,000 (manual, `GOMP_SPINCOUNT`)."""


def import_libraries() -> None:
    """Import them unless they are imported already. If bitsandbytes cannot be imported, the code that needs it says so.

    Raises ImportError, RuntimeError and others if torch, transformers or PEFT cannot be imported.
    """
    if "peft" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # libgomp reads it when torch loads it
    with without_garbage_collection():
        import torch

        if not torch.cuda.is_available() and PACKAGE not in sys.modules:
            stand_in = DeferredCompiler(Path(torch.__file__).with_name("_dynamo"))
            sys.modules[PACKAGE] = torch._dynamo = stand_in
            sys.meta_path.insert(0, _package_first)
        # before transformers and PEFT, which import it slowly
        later = mock.patch.object(torch, "compile", _compiling_later(torch.compile))
        with later, contextlib.suppress(ImportError, OSError, RuntimeError, AttributeError):
            import bitsandbytes  # noqa: F401
        _import_models()
        from transformers import utils

        # Import losses as if SciPy were not installed: those of object detection would import it.
        with mock.patch.object(utils, "is_scipy_available", lambda: False):
            import transformers.modeling_utils  # noqa: F401
        import peft  # noqa: F401

    bound_hub_client()
    # Keep progress bars and advice of the libraries out of logs and errors.
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)


def import_without_torch() -> None:
    """Import what loads tokenizers and configurations, for a process that never imports torch.

    From now on, transformers does not find torch in this process. All of its configurations and tokenizers can be
    loaded without it. Nothing is changed if torch is imported already.
    """
    if "torch" in sys.modules:
        return
    with without_garbage_collection():
        from transformers import utils
        from transformers.utils import import_utils

        for module in (utils, import_utils):
            module.is_torch_available = lambda: False
        _import_models()
        from transformers.models.auto import configuration_auto, tokenization_auto  # noqa: F401
    bound_hub_client()


@contextlib.contextmanager
def without_garbage_collection() -> Iterator[None]:
    """For imports. What exists at the end is never examined by later collections."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if collects:
            gc.enable()


def _import_models() -> None:
    """Import `transformers.models` with the names that `import transformers` found."""
    import transformers
    from transformers.utils import import_utils

    search = import_utils.define_import_structure
    folder = Path(transformers.__file__).parent / "models"

    def names(path: Any, prefix: str | None = None) -> Any:
        if prefix is not None or Path(path).parent != folder:
            return search(path, prefix)
        structure = search(folder, prefix="models")  # as `import transformers`, which adds its own modules to it
        return {
            needed: {name.removeprefix("models."): all_ for name, all_ in modules.items() if name.startswith("models.")}
            for needed, modules in structure.items()
        }

    with mock.patch.object(import_utils, "define_import_structure", names):
        import transformers.models


def _compiling_later(compile_: Callable[..., Any]) -> Callable[..., Any]:
    """`torch.compile` for functions, called with the function or as a decorator with options."""

    def later(function: Callable[..., Any] | None = None, **options: Any) -> Any:
        if function is None:
            return functools.partial(later, **options)
        compiled: list[Callable[..., Any]] = []

        @functools.wraps(function)
        def call(*arguments: Any, **named: Any) -> Any:
            if not compiled:
                compiled.append(compile_(function, **options))
            return compiled[0](*arguments, **named)

        return call

    return later


PACKAGE = "torch._dynamo"
PLAIN = f"{PACKAGE}._trace_wrapped_higher_order_op"
"""A module of the package that needs no other, and that transformers' masks import."""


def _unmarked(function: Any) -> Any:
    return function


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
    "disable": lambda function=None, *_, **__: _unmarked if function is None else function,
    "graph_break": lambda *_, **__: None,
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


def load_compiler() -> ModuleType:
    """The package itself. Call it before anything is compiled, so that functions are marked from then on."""
    if isinstance(sys.modules.get(PACKAGE), DeferredCompiler):
        sys.meta_path.remove(_package_first)
        del sys.modules[PACKAGE], sys.modules["torch"]._dynamo
    return import_module(PACKAGE)
