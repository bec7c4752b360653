"""Full fine-tuning: every weight is trained.

Loads   every weight in bf16 on a card; in float32 on the CPU, or with precision = "mixed" (bf16 arithmetic over
        float32 weights) or "fp32".
Trains  all of them, embeddings and head included.
With    paged 8-bit AdamW; without paging where there is no card, which is said. Where the weights are bf16 the
        optimizer keeps the part of each update that rounding would lose (`optimizers.compensated`).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.methods.loading import load_weights
from engine.methods.machine import Machine


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Of the trained weights."""
    if config.train.precision == "auto":
        return torch.bfloat16 if machine.device == "cuda" and machine.bf16 else torch.float32
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """The whole model."""
    return load_weights(config.model, machine, weight_dtype(config, machine))


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """The same model; every weight has a gradient."""
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
