"""LoRA (Hu et al. 2021, arXiv:2106.09685): a frozen 16-bit base, low-rank adapters in float32 beside it.

Loads   every weight in bf16; in float32 where the hardware does not multiply bf16.
Trains  adapters on every linear layer but the head; rsLoRA and DoRA on request.
With    torch's fused AdamW: its state is small, since the adapters are.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.methods import adapters
from engine.methods.loading import load_weights
from engine.methods.machine import Machine


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Of the frozen base."""
    if config.train.precision == "auto":
        return torch.bfloat16 if machine.bf16 else torch.float32
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """The frozen base."""
    model = load_weights(config.model, machine, weight_dtype(config, machine))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """The base with adapters."""
    return adapters.add_adapters(model, config.adapter)
