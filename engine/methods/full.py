"""Full fine-tuning: trains all weights.

Loading     all weights in bf16 on a GPU that supports it, or with precision = "bf16"; else in float32, as with
            precision = "mixed" (bf16 autocast over float32 weights) or "fp32".
Training    all weights, including embeddings and LM head; of a multimodal model those that text uses.
Optimizer   8-bit AdamW, on a GPU paged unless the run fits with headroom. For bf16 weights it keeps the part of each
            update that rounding would lose (`optimizers.compensated`).
"""

from __future__ import annotations

import torch
from transformers import PreTrainedModel

from engine.config import schema
from engine.methods.loading import load_pretrained
from engine.methods.machine import Machine
from engine.methods.weights import weights_of


def weight_dtype(config: schema.Config, machine: Machine) -> torch.dtype:
    """Data type of the trained weights."""
    if config.train.precision == "auto":
        return torch.bfloat16 if machine.device == "cuda" and machine.bf16 else torch.float32
    return torch.bfloat16 if config.train.precision == "bf16" else torch.float32


def load(config: schema.Config, machine: Machine) -> PreTrainedModel:
    """Load the model."""
    return load_pretrained(config.model, machine, weight_dtype(config, machine))


def make_trainable(model: PreTrainedModel, config: schema.Config) -> torch.nn.Module:
    """Enable gradients for all weights that text uses."""
    for weight in weights_of(model):
        weight.parameter.requires_grad_(weight.part != "towers")
    return model
