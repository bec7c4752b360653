"""The formula's weights, adapters, gradients and optimizer state: what does not depend on the rows. Bytes.

Types follow `engine.methods`: `bf16` says whether the device multiplies it.
"""

from __future__ import annotations

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.memory.formula.architecture import Architecture, Linear
from engine.memory.formula.estimate import Device

FLOAT32, BF16 = 4, 2


def compute_size(config: schema.Config, device: Device, bf16: bool) -> int:
    """Bytes an activation takes: 2 where arithmetic is bf16, by the rules of `engine.methods`."""
    if method_spec(config.method).quantizes_base:
        wanted = config.quantization.compute_dtype
        small = (bf16 and config.train.precision != "fp32") if wanted == "auto" else wanted == "bf16"
        return BF16 if small else FLOAT32
    return BF16 if config.train.precision == "mixed" else _weight_size(config, device, bf16)


def _weight_size(config: schema.Config, device: Device, bf16: bool) -> int:
    if method_spec(config.method).quantizes_base:
        return compute_size(config, device, bf16)
    if config.train.precision == "auto":
        return BF16 if bf16 and (device == "cuda" or method_spec(config.method).bf16_on_cpu) else FLOAT32
    return BF16 if config.train.precision == "bf16" else FLOAT32


def base_parameters(shape: Architecture) -> int:
    return shape.embeddings + shape.hidden + shape.layers * (_linear_weights(shape) + _other_weights(shape))


def _linear_weights(shape: Architecture) -> int:
    return sum(linear.inputs * linear.outputs for linear in shape.linears())


def _other_weights(shape: Architecture) -> int:
    """Two norms a block and, where there are any, its experts."""
    return 2 * shape.hidden + shape.expert_weights


def weights(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Every parameter at the size of its type; under QLoRA a block's linear layers at 4 bits and their scales.

    NF4 keeps a float32 scale for 64 weights: 4.5 bits; double quantization a byte for 64 and a float32 for 256 of
    these: 4.127 (Dettmers et al. 2023, arXiv:2305.14314, section 3). Embeddings, head, norms and experts stay as
    they are (transformers, quantizers/base.py, get_keys_to_not_convert).
    """
    size = _weight_size(config, device, bf16)
    if not method_spec(config.method).quantizes_base:
        return base_parameters(shape) * size
    four_bit = shape.layers * _linear_weights(shape)
    scales = four_bit / 64 * (1 + FLOAT32 / 256 if config.quantization.double else FLOAT32)
    return round((base_parameters(shape) - four_bit) * size + four_bit / 2 + scales)


def adapted(shape: Architecture, config: schema.Config) -> list[Linear]:
    """The layers of a block that have an adapter; names that this shape does not know are passed over."""
    if method_spec(config.method).trains_weights:
        return []
    targets = config.adapter.target_modules
    return [linear for linear in shape.linears() if targets == "all-linear" or linear.name in targets]


def adapter_parameters(shape: Architecture, config: schema.Config) -> int:
    """rank × (in + out) for each adapted layer, and out more with DoRA (arXiv:2106.09685, 2402.09353)."""
    rank, dora = config.adapter.rank, config.adapter.dora
    each = (rank * (linear.inputs + linear.outputs) + dora * linear.outputs for linear in adapted(shape, config))
    return shape.layers * (sum(each) + _expert_adapters(shape, config))


def adapts_experts(shape: Architecture, config: schema.Config) -> bool:
    """Whether experts have adapters: under `all-linear` PEFT reaches into their tensors."""
    return (
        bool(shape.experts)
        and not method_spec(config.method).trains_weights
        and config.adapter.target_modules == "all-linear"
    )


def _expert_adapters(shape: Architecture, config: schema.Config) -> int:
    """Of one block: gate and up in one tensor at twice the rank, down, and the router (seen in the model that
    PEFT 0.21 builds; `tests/bench/planner.py` measures one).
    """
    if not adapts_experts(shape, config):
        return 0
    rank, hidden, width = config.adapter.rank, shape.hidden, shape.expert_intermediate
    return shape.experts * rank * (2 * (hidden + 2 * width) + width + hidden) + rank * (hidden + shape.experts)


def gradients(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """One of each trained parameter, of its type; adapters are float32."""
    if method_spec(config.method).trains_weights:
        return base_parameters(shape) * _weight_size(config, device, bf16)
    return adapter_parameters(shape, config) * FLOAT32


def _trains_bf16(config: schema.Config, device: Device, bf16: bool) -> bool:
    return method_spec(config.method).trains_weights and _weight_size(config, device, bf16) == BF16


def optimizer_state(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """AdamW's two moments: 8 bytes a trained parameter, or 2 with a float32 scale of each for 256 (Dettmers et al.
    2022, arXiv:2110.02861). Weights in bf16 have a bf16 remainder beside them (`methods.optimizers.compensated`).
    """
    count = base_parameters(shape) if method_spec(config.method).trains_weights else adapter_parameters(shape, config)
    each = 2 * FLOAT32 if config.optimizer.name == "adamw" else 2 * (1 + FLOAT32 / 256)
    return round(count * (each + (BF16 if _trains_bf16(config, device, bf16) else 0)))


def step_work(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """What the optimizer takes for its largest parameter while it updates it (see `scratch` for the kernels).

    Compensated: weight, gradient, exact sum and rounded sum in float32. 8-bit on the CPU: five copies in float32.
    """
    if method_spec(config.method).trains_weights:
        largest = max(
            [shape.vocabulary * shape.hidden, *(linear.inputs * linear.outputs for linear in shape.linears())]
        )
    else:
        rank = config.adapter.rank
        largest = max((rank * max(linear.inputs, linear.outputs) for linear in adapted(shape, config)), default=0)
    compensated = _trains_bf16(config, device, bf16)
    copies = 3 if compensated else 0
    if device == "cpu" and config.optimizer.name != "adamw":
        copies += 5 - compensated
    elif device == "cpu" and compensated:
        copies += 3
    return largest * copies * FLOAT32


def head_gradient(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Full fine-tuning makes the head's weight gradient before anything else is freed."""
    if not method_spec(config.method).trains_weights:
        return 0
    return shape.vocabulary * shape.hidden * _weight_size(config, device, bf16)
