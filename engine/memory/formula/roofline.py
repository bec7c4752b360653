"""Lower bound of the training time on a listed GPU, before anything has run on it: the roofline model.

No step can be faster than its matrix products at the GPU's peak FLOP/s, nor than reading the weights for each forward
and backward pass at the peak bandwidth of its memory (Williams, Waterman and Patterson 2009, "Roofline", CACM 52(4)).
The optimizer step is limited by bandwidth. Attention, norms, dequantization and launches are not counted: real runs
take longer, and finished runs of the model on the device replace the bound (`history`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from engine.config import gpu_prices
from engine.config.activation_checkpointing import resolve_checkpointing
from engine.config.gpu_prices import Gpu
from engine.config.method_specs import method_spec, uses_autocast
from engine.config.schema import Config
from engine.memory.formula.architecture import Architecture, read_architecture
from engine.memory.formula.estimate import MemoryEstimate
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import TrainingWork
from engine.memory.formula.weights_and_state import (
    BF16,
    adapter_parameters,
    compute_size,
    decoder_bytes,
    gradient_bytes,
    optimizer_state_bytes,
)

TERA, GIGA = 10**12, 10**9


class TrainingCost(Struct, frozen=True, kw_only=True):
    """What all steps of a training must do at least."""

    flops: float
    """Of matrix products: as `memory.required_flops`."""
    weight_bytes: float
    """Weights read by forward and backward passes."""
    update_bytes: float
    """State read and written, and gradients read, by the optimizer."""


def least_seconds(
    config: Config, model_config: Mapping[str, Any], estimate: MemoryEstimate, work: TrainingWork, budget: MemoryBudget
) -> float | None:
    """The bound in seconds; None if the GPU's peaks are unknown, and for fp32, whose peaks are not listed.

    `estimate`: of the planned micro-batch size and checkpointing.
    """
    gpu = _listed(budget)
    if gpu is None or not gpu.bf16_tflops or not gpu.memory_bandwidth:
        return None
    shape = read_architecture(model_config, config.model.id)
    is_bf16 = compute_size(config, budget.device, budget.bf16) == BF16
    if not is_bf16 and not uses_autocast(config.method, config.train.precision):
        return None
    cost = training_cost(config, shape, estimate, work, budget)
    bandwidth = gpu.memory_bandwidth * GIGA
    return max(cost.flops / (gpu.bf16_tflops * TERA), cost.weight_bytes / bandwidth) + cost.update_bytes / bandwidth


def training_cost(
    config: Config, shape: Architecture, estimate: MemoryEstimate, work: TrainingWork, budget: MemoryBudget
) -> TrainingCost:
    """FLOPs and bytes of all steps."""
    trains = method_spec(config.method).trains_weights
    checkpointing = resolve_checkpointing(estimate.gradient_checkpointing, budget.device)
    recomputed = checkpointing.layers(shape.layers) / shape.layers
    tokens = work.tokens / work.token_ratio
    seen = work.steps * config.train.batch / max(1, work.rows)  # epochs
    passes = 2 + trains + recomputed
    per_token = decoder_weights(shape) * passes
    if not trains:
        per_token += adapter_parameters(shape, config) * (3 + recomputed)
    head = shape.vocabulary * shape.hidden * (2 + trains)
    micro_batches = work.steps * math.ceil(config.train.batch / estimate.micro_batch)
    where = (shape, config, budget.device, budget.bf16)
    return TrainingCost(
        flops=2 * tokens * per_token + 2 * work.answer_tokens * seen * head,
        weight_bytes=micro_batches * decoder_bytes(*where) * (2 + recomputed),
        update_bytes=work.steps * (2 * optimizer_state_bytes(*where) + gradient_bytes(*where)),
    )


def decoder_weights(shape: Architecture) -> int:
    """Weights of the decoder layers by which a token is multiplied; of experts only those it is routed to."""
    total = 0.0
    for kind in shape.groups():
        experts = kind.expert_weights * kind.experts_used / kind.experts if kind.experts else 0
        total += kind.layers * (sum(linear.weights for linear in kind.linears()) + experts)
    return round(total)


def _listed(budget: MemoryBudget) -> Gpu | None:
    """The GPU of the list; a part of a GPU (MIG) has only a part of its peaks."""
    if budget.device != "cuda" or "MIG" in budget.name.split():
        return None
    gpus = gpu_prices.list_gpus()
    return next((gpu for gpu in gpus if gpu.name == budget.name), None) or gpu_prices.find_gpu(budget.name, gpus)
