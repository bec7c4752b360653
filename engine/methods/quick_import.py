"""Import bitsandbytes without importing torch's compiler.

bitsandbytes decorates fallback kernels with `torch.compile`, whose call imports torch._dynamo and torch._inductor: 1.3
of the 5.6 CPU seconds in which a worker imports its libraries (EPYC, torch 2.13, bitsandbytes 0.50). While bitsandbytes
is imported here, `torch.compile` returns a function that compiles at its first call instead.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable
from typing import Any

import torch


def import_bitsandbytes() -> None:
    """Import it unless it is imported already. If it cannot be imported, the code that needs it says so later."""
    if "bitsandbytes" in sys.modules:
        return
    original = torch.compile
    torch.compile = _compiling_later(original)
    try:
        with contextlib.suppress(ImportError, OSError, RuntimeError, AttributeError):
            import bitsandbytes  # noqa: F401
    finally:
        torch.compile = original


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
