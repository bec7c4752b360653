"""LoRA on the attention projections only: loads like LoRA, and gives adapters to four layers of each block."""

from __future__ import annotations

import msgspec
import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.methods import adapters
from engine.methods.lora import load, weight_dtype

__all__ = ["load", "make_trainable", "weight_dtype"]

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj"]


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """The frozen base with adapters on its attention projections."""
    return adapters.add_adapters(model, msgspec.structs.replace(config.adapter, target_modules=TARGETS))
