"""The torch part of `ftbench_tight`."""

from __future__ import annotations

import ctypes
import os
from typing import Any

import torch
import torch.distributed as dist
from transformers import PreTrainedModel

from engine.config import schema
from engine.data.rows import Row
from engine.methods import lora
from engine.methods.lora import make_trainable, weight_dtype
from engine.methods.machine import Machine
from engine.training.gradients import StepGradients

__all__ = ["load", "make_trainable", "weight_dtype"]

forward_backward = StepGradients.forward_backward


def tight(gradients: StepGradients, group: list[Row], *rest: Any) -> torch.Tensor:
    """Simulates the out-of-memory error of a GPU in training, or how bitsandbytes ends the process on one."""
    if "CUDA_EXIT" in os.environ:
        os.write(2, b"Error out of memory at line 83 in file /src/csrc/ops.cu\nterminate called\n")
        ctypes.CDLL(None).exit(1)
    if dist.is_initialized() and dist.get_rank() == 1 and len(group) > 1:
        raise torch.OutOfMemoryError("CUDA out of memory")
    return forward_backward(gradients, group, *rest)


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the model as LoRA does."""
    StepGradients.forward_backward = tight  # type: ignore[assignment, method-assign]
    return lora.load(config, machine)
