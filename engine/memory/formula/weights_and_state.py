"""What the formula takes from no row: bytes of weights, adapters, gradients, optimizer state and checkpoints.

Data types follow `engine.methods`; `bf16`: whether the device supports bf16 arithmetic.

When several devices divide the weights (`engine.training.sharding`), each has 1/N of them and, in full fine-tuning, of
gradients and optimizer state. It also has the whole weights of two decoder layers, the one that computes and the next
one, which FSDP2 gathers meanwhile, and of what is outside the layers: embeddings, norm and LM head. Of the latter also
the whole gradient, and a float32 copy that FSDP2 adds up over the ranks (`torch.distributed.fsdp`, foreach_reduce). Not
compared with a GPU yet; on a CPU the prediction was 19% below the peak (`tests/bench/RESULTS.md`).
"""

from __future__ import annotations

from msgspec.structs import replace

from engine.config import schema
from engine.config.automatic_optimizer import optimizer_name
from engine.config.method_specs import method_spec, uses_autocast
from engine.config.schema import Config
from engine.memory.formula.architecture import Architecture, Linear
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory

FLOAT32, BF16 = 4, 2


def compute_size(config: schema.Config, device: Device, bf16: bool) -> int:
    """Bytes per activation: 2 if the computation is in bf16, by the rules of `engine.methods`."""
    if method_spec(config.method).quantizes_base:
        setting = config.quantization.compute_dtype
        uses_bf16 = (bf16 and config.train.precision != "fp32") if setting == "auto" else setting == "bf16"
        return BF16 if uses_bf16 else FLOAT32
    return BF16 if config.train.precision == "mixed" else _weight_size(config, device, bf16)


def _weight_size(config: schema.Config, device: Device, bf16: bool) -> int:
    if method_spec(config.method).quantizes_base:
        return compute_size(config, device, bf16)
    if config.train.precision == "auto":
        return BF16 if bf16 and (device == "cuda" or method_spec(config.method).bf16_on_cpu) else FLOAT32
    precision = config.train.precision
    return FLOAT32 if precision == "fp32" or uses_autocast(config.method, precision) else BF16


def base_parameters(shape: Architecture) -> int:
    """Number of parameters of the model."""
    return trained_parameters(shape) + shape.tower


def trained_parameters(shape: Architecture) -> int:
    """Number of parameters that full fine-tuning trains: all but those of vision and audio towers."""
    others = sum(kind.layers * kind.layer_weights for kind in shape.groups())
    return shape.embeddings + shape.hidden + _linear_weights(shape) + others


def _linear_weights(shape: Architecture) -> int:
    """Weights of the linear layers of all decoder layers."""
    return sum(kind.layers * linear.weights for kind in shape.groups() for linear in kind.linears)


def _four_bit_weights(kind: Architecture) -> int:
    """Weights of one decoder layer that QLoRA stores in 4 bits: linear layers and experts, without routers."""
    linear = sum(linear.weights for linear in kind.linears if not linear.read_directly)
    return linear + kind.expert_weights - kind.experts * kind.hidden


def weight_bytes(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Bytes of all parameters; for QLoRA linear layers and experts have 4 bits per weight and scales.

    NF4 has a float32 scale per 64 weights: 4.5 bits per weight; with double quantization one byte per 64 weights and a
    float32 per 256 scales: 4.127 (Dettmers et al. 2023, arXiv:2305.14314, section 3). Embeddings, LM head, norms and
    routers are not quantized (`methods.weights`).
    """
    size = _weight_size(config, device, bf16)
    if not method_spec(config.method).quantizes_base:
        return base_parameters(shape) * size
    four_bit = sum(kind.layers * _four_bit_weights(kind) for kind in shape.groups())
    scales = four_bit / 64 * (1 + FLOAT32 / 256 if config.quantization.double else FLOAT32)
    return round((base_parameters(shape) - four_bit) * size + four_bit / 2 + scales)


def decoder_bytes(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Bytes of the decoder layers."""
    outside = shape.embeddings + shape.hidden + shape.tower
    return weight_bytes(shape, config, device, bf16) - outside * _weight_size(config, device, bf16)


def adapted(shape: Architecture, config: schema.Config) -> list[Linear]:
    """The linear layers of a decoder layer with an adapter; unknown names are ignored."""
    if method_spec(config.method).trains_weights:
        return []
    targets = config.adapter.target_modules
    if targets == "all-linear":
        return [linear for linear in shape.linears if not linear.read_directly]
    return [linear for linear in shape.linears if linear.name in targets]


def count_adapter_parameters(shape: Architecture, config: schema.Config) -> int:
    """rank × (in + out) per adapted linear layer, plus out with DoRA (arXiv:2106.09685, 2402.09353)."""
    rank, dora = config.adapter.rank, config.adapter.dora
    total = 0
    for kind in shape.groups():
        per_linear = (
            rank * (linear.inputs + linear.outputs) + dora * linear.outputs for linear in adapted(kind, config)
        )
        total += kind.layers * (sum(per_linear) + _expert_adapters(kind, config))
    return total


def adapts_experts(shape: Architecture, config: schema.Config) -> bool:
    """Whether experts have adapters."""
    return bool(shape.experts) and bool(_adapted_experts(config))


def _adapted_experts(config: schema.Config) -> set[str]:
    """The tensors of the experts with an adapter, as `methods.adapters.find_targets` finds them."""
    targets = config.adapter.target_modules
    if method_spec(config.method).trains_weights:
        return set()
    if targets == "all-linear":
        return {"gate_up_proj", "down_proj"}
    projections = {"gate_up_proj", "down_proj"} & set(targets)
    return projections | ({"gate_up_proj"} if {"gate_proj", "up_proj"} <= set(targets) else set())


def _expert_adapters(shape: Architecture, config: schema.Config) -> int:
    """Adapter parameters of the experts of one layer: gate and up are one matrix."""
    if not adapts_experts(shape, config):
        return 0
    rank, hidden, width = config.adapter.rank, shape.hidden, shape.expert_intermediate
    per_rank = {"gate_up_proj": hidden + (2 if shape.gated else 1) * width, "down_proj": width + hidden}
    return shape.experts * rank * sum(per_rank[name] for name in _adapted_experts(config))


def gradient_bytes(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Gradients of all trained parameters in their dtype; adapters are float32."""
    if method_spec(config.method).trains_weights:
        return trained_parameters(shape) * _weight_size(config, device, bf16)
    return count_adapter_parameters(shape, config) * FLOAT32


def _trains_bf16(config: schema.Config, device: Device, bf16: bool) -> bool:
    return method_spec(config.method).trains_weights and _weight_size(config, device, bf16) == BF16


def optimizer_state_bytes(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """AdamW's two moments: 8 bytes per trained parameter, or 2 in 8 bits with a float32 scale per 256 values (Dettmers
    et al. 2022, arXiv:2110.02861). bf16 weights also have a bf16 remainder (`methods.optimizers.compensated`) unless
    they are rounded stochastically.
    """
    count = (
        trained_parameters(shape)
        if method_spec(config.method).trains_weights
        else count_adapter_parameters(shape, config)
    )
    bytes_each = 2 * FLOAT32 if _has_32_bit_state(config, device) else 2 * (1 + FLOAT32 / 256)
    remainder = _trains_bf16(config, device, bf16) and config.optimizer.rounding == "remainder"
    return round(count * (bytes_each + (BF16 if remainder else 0)))


def _has_32_bit_state(config: schema.Config, device: Device) -> bool:
    return optimizer_name(config.optimizer.name, device) == "adamw"


def update_bytes(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Temporary bytes of the optimizer for its largest parameter (kernels: `dry_run.kernel_scratch`).

    Compensated: weight, gradient, exact sum and rounded sum in float32. Rounded stochastically: weight and gradient,
    then weight and random numbers. 8-bit on the CPU: five float32 copies.
    """
    if method_spec(config.method).trains_weights:
        own = shape.layer_vocabulary * shape.layers * shape.layer_embedding
        largest = max(shape.vocabulary * shape.hidden, own, shape.largest_linear)
    else:
        rank = config.adapter.rank
        layers = (linear for kind in shape.groups() for linear in adapted(kind, config))
        largest = max((rank * max(linear.inputs, linear.outputs) for linear in layers), default=0)
    compensated = _trains_bf16(config, device, bf16)
    copies = 3 if compensated else 0
    if compensated and device == "cuda" and config.optimizer.rounding == "stochastic":
        copies = 2
    if device == "cpu" and not _has_32_bit_state(config, device):
        copies += 5 - compensated
    elif device == "cpu" and compensated:
        copies += 3
    return largest * copies * FLOAT32


def head_gradient(shape: Architecture, config: schema.Config, device: Device, bf16: bool) -> int:
    """Full fine-tuning allocates the gradient of the LM head before any activation is freed."""
    if not method_spec(config.method).trains_weights:
        return 0
    return shape.vocabulary * shape.hidden * _weight_size(config, device, bf16)


GATHERED_LAYERS = 2


def shard_count(config: Config) -> int:
    """Number of ranks that divide the weights; 1 if each has all of them."""
    return config.train.devices if config.train.parallelism == "fsdp" else 1


def weights_of_rank(whole: int, decoder: int, shape: Architecture, config: Config) -> int:
    """Bytes of weights on a rank. `whole`: of the model; `decoder`: of its decoder layers."""
    ranks = shard_count(config)
    if ranks == 1:
        return whole
    return whole // ranks + (whole - decoder) + GATHERED_LAYERS * decoder // shape.layers


def state_of_rank(whole: int, config: Config) -> int:
    """Bytes of optimizer state on a rank; that of adapters is whole on each."""
    return whole // shard_count(config) if method_spec(config.method).trains_weights else whole


def gradients_of_rank(whole: int, shape: Architecture, config: Config) -> int:
    """Bytes of gradients on a rank at the end of a backward pass; those of adapters are whole on each."""
    ranks = shard_count(config)
    if ranks == 1 or not method_spec(config.method).trains_weights:
        return whole
    outside = shape.embeddings + shape.hidden
    return whole // ranks + outside * (whole // trained_parameters(shape) + FLOAT32)


def copies_checkpoints(config: Config, device: Device) -> bool:
    """Whether checkpoints are copied to host memory first, and written while training continues.

    By default only those of full fine-tuning on a GPU. Checkpoints of adapters are small. On a CPU the copy would be in
    the memory by which runs are planned and compared, and writing takes time from training.
    """
    setting = config.train.async_checkpoints
    if shard_count(config) > 1 and method_spec(config.method).trains_weights:
        return False  # every rank writes its part of a checkpoint while training waits
    return (method_spec(config.method).trains_weights and device == "cuda") if setting == "auto" else setting


def saved_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of the trained weights, or of the adapter."""
    parts = estimate.training.parts
    return parts.get("weights" if method_spec(config.method).trains_weights else "adapters", 0)


def checkpoint_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of a checkpoint: the trained weights, or the adapter, and their optimizer state."""
    parts = estimate.training.parts
    state = estimate.static - parts.get("weights", 0) - parts.get("adapters", 0)
    return saved_bytes(estimate, config) + state


def with_copy(estimate: MemoryEstimate, config: Config) -> MemoryEstimate:
    """Add the copy of a checkpoint: to the peak of training on a CPU, whose memory is the host's."""
    if not copies_checkpoints(config, estimate.device):
        return estimate
    copy, training = checkpoint_bytes(estimate, config), estimate.training
    if not method_spec(config.method).trains_weights:
        copy -= saved_bytes(estimate, config)  # an adapter is written while training waits
    if estimate.device == "cpu":
        training = PeakMemory(total=training.total + copy, parts={**training.parts, "checkpoint": copy})
    return replace(estimate, host_copy=copy, training=training)
