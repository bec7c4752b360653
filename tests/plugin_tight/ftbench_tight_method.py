"""The torch part of `ftbench_tight`."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from transformers import LlamaForCausalLM, PreTrainedModel

from engine.config import schema
from engine.methods import lora
from engine.methods.lora import make_trainable, weight_dtype
from engine.methods.machine import Machine

__all__ = ["load", "make_trainable", "weight_dtype"]


class Tight(LlamaForCausalLM):
    """Simulates the out-of-memory error of a GPU in training."""

    def forward(
        self, *arguments: Any, position_ids: torch.Tensor | None = None, logits_to_keep: Any = 0, **rest: Any
    ) -> Any:
        rows = 0 if position_ids is None else int((position_ids == 0).sum())
        if self.training and dist.is_initialized() and dist.get_rank() == 1 and rows > 2:  # two, or one and padding
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().forward(*arguments, position_ids=position_ids, logits_to_keep=logits_to_keep, **rest)


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the model as LoRA does."""
    model = lora.load(config, machine)
    model.__class__ = Tight
    return model
