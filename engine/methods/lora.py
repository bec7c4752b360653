"""LoRA (Hu et al. 2021, arXiv:2106.09685): float32 low-rank adapters on a frozen 16-bit base.

Loading     all weights in bf16; in float32 on hardware without bf16 arithmetic, or with precision = "fp32".
Training    adapters on all linear layers and experts except the LM head (`adapters`); optionally rsLoRA or DoRA.
Optimizer   torch's fused AdamW: its state is as small as the adapters.
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.methods import adapters
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Data type of the frozen base."""
    if config.train.precision == "auto":
        return torch.bfloat16 if machine.bf16 else torch.float32
    return torch.float32 if config.train.precision == "fp32" else torch.bfloat16


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the frozen base."""
    return load_pretrained(config.model, machine, weight_dtype(config, machine)).requires_grad_(False)


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """Add adapters to the base."""
    return adapters.add_adapters(model, config.adapter)
