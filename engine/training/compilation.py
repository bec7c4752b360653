"""torch.compile for the decoder layers, in training steps only.

All layers share their graphs, with dynamic shapes, because micro-batches differ in their number of tokens; padded
batches, which also differ in their number of rows, compile a second time in one of the first steps. The
attention of packed rows stays outside the graphs: it is one kernel already, and its segments are Python objects that
would be compiled for each value. Evaluation runs the layers as they are, because the base model was evaluated so.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.modeling_layers import GradientCheckpointingLayer

from engine.config.errors import UserError
from engine.methods.library_imports import load_compiler
from engine.methods.machine import is_out_of_memory
from engine.training import varlen_attention
from engine.training.guards import first_line

SETTING = "train.compile"
Backend = str | Callable[..., Any]
"""Of torch.compile."""


def refuse_compilation(device: str) -> None:
    """Raise UserError if torch.compile has no compiler on this machine: Triton for a GPU, C++ for the CPU."""
    if device == "cuda":
        if find_spec("triton") is None:
            hint = f"install triton, or set {SETTING} = false"
            raise UserError("torch.compile needs Triton on a GPU", SETTING, hint, code="training.no_compiler")
        return
    from torch._inductor import config as inductor  # takes a second, and only this setting needs it

    names = inductor.cpp.cxx if isinstance(inductor.cpp.cxx, tuple) else (inductor.cpp.cxx,)
    if not any(name and shutil.which(name) for name in names):
        hint = f"install g++, or set {SETTING} = false"
        raise UserError("torch.compile needs a C++ compiler on the CPU", SETTING, hint, code="training.no_compiler")


def compile_layers(model: torch.nn.Module, backend: Backend = "inductor") -> int:
    """Let the decoder layers compile themselves in their next training step; returns their number.

    Not those whose state is computed row by row, for which segments are needed inside the layer.
    """
    load_compiler()
    AttentionInterface.register(varlen_attention.NAME, torch.compiler.disable(varlen_attention.varlen_attention))
    layers = [layer for layer in _layers(model) if not varlen_attention.splits_rows(layer)]
    for layer in layers:
        layer.compile(dynamic=True, backend=backend)
    return len(layers)


def remove_compiled(model: torch.nn.Module) -> None:
    """Run the decoder layers uncompiled from now on."""
    for layer in _layers(model):
        layer._compiled_call_impl = None
    AttentionInterface.register(varlen_attention.NAME, varlen_attention.varlen_attention)


@contextmanager
def uncompiled(model: torch.nn.Module) -> Iterator[None]:
    """Context for an evaluation during training: the decoder layers run uncompiled."""
    layers = _layers(model)
    compiled = [layer._compiled_call_impl for layer in layers]
    for layer in layers:
        layer._compiled_call_impl = None
    try:
        yield
    finally:
        for layer, call in zip(layers, compiled, strict=True):
            layer._compiled_call_impl = call


@contextmanager
def compile_errors() -> Iterator[None]:
    """Raise UserError for errors of the compiler; re-raise all others, and out-of-memory errors."""
    try:
        yield
    except RuntimeError as error:
        known = sys.modules.get("torch._dynamo.exc")  # not loaded before something is compiled
        if known is None or not isinstance(error, known.TorchDynamoException) or is_out_of_memory(error):
            raise
        problem = f"torch.compile failed: {first_line(error)}"
        raise UserError(problem, SETTING, f"set {SETTING} = false", code="training.compile_failed") from error


def _layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    return [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
