"""FLOPs of a training step's matrix products that no implementation can avoid, from the shapes of the layers.

For T tokens a layer of m inputs and n outputs takes 2 T m n forward, and the same again for the gradient of its input,
which frozen weights need too, and for the gradient of its weight, which only trained weights need. The head counts at
the positions in the loss only. Attention is not a matrix product here: fused kernels compute it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from peft.tuners.lora import LoraLayer
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.pytorch_utils import Conv1D

from engine.config.activation_checkpointing import ActivationCheckpointing
from engine.data.rows import Row
from engine.methods.adapters import unwrap_peft
from engine.training.batches import answer_tokens


def required_flops(model: torch.nn.Module, rows: Sequence[Row], checkpointing: ActivationCheckpointing) -> int:
    """FLOPs of a step over `rows`; the forward pass of layers that recompute their activations runs twice."""
    tokens = sum(len(row.input_ids) for row in rows)
    head = unwrap_peft(model).get_output_embeddings()
    recomputed = _inside_recomputed(model, checkpointing)
    in_decoder = 0
    for module in model.modules():
        if isinstance(module, LoraLayer):
            continue
        if module is not head and (shape := _shape(module)):
            size = shape[0] * shape[1]
            passes = 2 + int(_trained(module)) + int(module in recomputed)
            in_decoder += 2 * tokens * size * passes
    shape = _shape(head)
    assert shape is not None
    in_head = 2 * sum(map(answer_tokens, rows)) * shape[0] * shape[1] * (2 + int(_trained(head)))
    return in_decoder + in_head


def _inside_recomputed(model: torch.nn.Module, checkpointing: ActivationCheckpointing) -> set[torch.nn.Module]:
    """The modules in layers that recompute their activations, which transformers counts in this order too."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    chosen = (layer for number, layer in enumerate(layers) if checkpointing.recomputes(number))
    return {module for layer in chosen for module in layer.modules()}


def _shape(module: Any) -> tuple[int, int] | None:
    """(inputs, outputs) of a layer that multiplies by a matrix."""
    if isinstance(module, (torch.nn.Linear, Linear4bit)):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return None


def _trained(module: Any) -> bool:
    return bool(module.weight.requires_grad)
