"""Import torch, bitsandbytes, transformers and PEFT in less time.

Imported plainly, a worker's 3,500 modules take 6.1 to 6.7 CPU seconds; imported here, 4.6 to 4.9 (three starts each on
two busy cores; torch 2.13, transformers 5.24, PEFT 0.21, bitsandbytes 0.50). Both leave out what bitsandbytes imports
of torch's compiler; deferring the rest of it is not part of these times.

- Without garbage collection: what an import creates stays, and the collector examines all of it again and again.
- Without torch's compiler, see `deferred_compiler`: and bitsandbytes decorates fallback kernels with `torch.compile`,
  whose call imports it. A function that compiles at its first call stands in for it.
- Without datasets and pandas: transformers' Trainer imports them to recognize rows in their format. Ours are not.
- Without scipy: transformers' losses of object detection import it.
- Without source text: torch notes where each custom operator is registered, and `inspect` looks for the lines of code
  around each of these 157 places, which takes 0.06 to 0.09 CPU seconds. torch uses only file and line number.
- With one search for the names of transformers' models: it reads the 1,700 files of all models, 0.16 CPU seconds, when
  `transformers` is imported, and again when `transformers.models` is.

Processes that only need tokenizers and configurations call `import_without_torch`: 0.45 CPU seconds instead of 1.35.

OpenMP threads of torch's operators spin only shortly while they wait for each other, unless GOMP_SPINCOUNT or
OMP_WAIT_POLICY is set: where other processes use the CPUs too, a spinning thread keeps the one that it waits for from
running (times in tests/bench/RESULTS.md).
"""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from engine.methods.deferred_compiler import defer_compiler

NOT_NEEDED = ("is_datasets_available", "is_scipy_available")
"""Functions by which transformers decides whether to import a package."""
SPIN_COUNT = "1000"
"""Spin iterations before a waiting OpenMP thread sleeps; libgomp's default is 300,000 (manual, `GOMP_SPINCOUNT`)."""


def import_libraries() -> None:
    """Import them unless they are imported already. If bitsandbytes cannot be imported, the code that needs it says so.

    Raises ImportError, RuntimeError and others if torch, transformers or PEFT cannot be imported.
    """
    if "transformers.trainer" in sys.modules:
        return
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # libgomp reads it when torch loads it
    with without_garbage_collection(), _without_source_lines():
        import torch

        defer_compiler()
        _import_bitsandbytes(torch)  # before transformers and PEFT, which import it slowly
        _import_models()
        _import_trainer()
        import peft  # noqa: F401


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


@contextlib.contextmanager
def _without_source_lines() -> Iterator[None]:
    """For imports: `inspect.getframeinfo` returns no lines of code around a frame's line."""
    original = inspect.getframeinfo
    inspect.getframeinfo = lambda frame, context=1: original(frame, context=0)
    try:
        yield
    finally:
        inspect.getframeinfo = original


def _import_bitsandbytes(torch: Any) -> None:
    if "bitsandbytes" in sys.modules:
        return
    original = torch.compile
    torch.compile = _compiling_later(original)
    try:
        with contextlib.suppress(ImportError, OSError, RuntimeError, AttributeError):
            import bitsandbytes  # noqa: F401
    finally:
        torch.compile = original


def _import_models() -> None:
    """Import `transformers.models` with the names that `import transformers` found."""
    import transformers
    from transformers.utils import import_utils

    search = import_utils.define_import_structure
    folder = Path(transformers.__file__).parent / "models"

    def names(path: Any, prefix: str | None = None) -> Any:
        if prefix is not None or Path(path).parent != folder:
            return search(path, prefix)
        found = search(folder, prefix="models")  # the call of `import transformers`, which adds its own modules to it
        return {
            needed: {name.removeprefix("models."): all_ for name, all_ in modules.items() if name.startswith("models.")}
            for needed, modules in found.items()
        }

    import_utils.define_import_structure = names
    try:
        import transformers.models
    finally:
        import_utils.define_import_structure = search


def _import_trainer() -> None:
    from transformers import utils

    originals = {name: getattr(utils, name) for name in NOT_NEEDED}
    for name in NOT_NEEDED:
        setattr(utils, name, lambda: False)
    try:
        import transformers.trainer  # noqa: F401
    finally:
        for name, original in originals.items():
            setattr(utils, name, original)


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
