"""Activation checkpointing on fake tensors, with stand-ins for tensors in host memory."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import torch
from torch.utils.checkpoint import checkpoint

from engine.config.activation_checkpointing import ActivationCheckpointing
from engine.training.trainer import enable_checkpointing


class _OnHost(NamedTuple):
    """Shape of a tensor that was copied to host memory."""

    size: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


def checkpoint_layers(model: Any, checkpointing: ActivationCheckpointing) -> None:
    """Let layers recompute their activations as in training; offloaded tensors need no memory until the backward pass.

    transformers' offloading copies from the GPU, but fake tensors are on the CPU, where a copy is no saving.
    """
    enable_checkpointing(model, checkpointing._replace(offload=False))
    if checkpointing.offload:
        for module in model.modules():
            if hasattr(module, "_gradient_checkpointing_func"):
                module._gradient_checkpointing_func = partial(_offloading, use_reentrant=False)


def _offloading(function: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.autograd.graph.saved_tensors_hooks(_to_host, _from_host):
        return checkpoint(function, *args, **kwargs)


def _to_host(tensor: torch.Tensor) -> _OnHost:
    return _OnHost(tensor.size(), tensor.stride(), tensor.dtype)


def _from_host(shape: _OnHost) -> torch.Tensor:
    return torch.empty_strided(shape.size, shape.stride, dtype=shape.dtype)
