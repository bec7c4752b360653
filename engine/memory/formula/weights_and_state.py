"""What the formula takes from no row: bytes of weights, adapters, gradients, optimizer state and checkpoints.

Data types follow `engine.methods`.

When several devices divide the weights (`engine.training.ranks`), each has 1/N of them and, in full fine-tuning, of
gradients and optimizer state. It also has the whole weights of two decoder layers, the one that computes and the next
one, which FSDP2 gathers meanwhile, and of what is outside the layers: embeddings, norm and LM head. Of the latter also
the whole gradient, and a float32 copy that FSDP2 adds up over the ranks (`torch.distributed.fsdp`, foreach_reduce). Not
compared with a GPU yet; on a CPU the prediction was 19% below the peak (`tools/RESULTS.md`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from msgspec.structs import replace

from engine.config.device_defaults import MAX_UPDATED, optimizer_name
from engine.config.method_specs import MethodSpec, method_spec, uses_autocast
from engine.config.schema import Config
from engine.hardware.cpu import sums_bf16_in_float32
from engine.memory.formula.architecture import Architecture, Linear
from engine.memory.formula.estimate import Device, MemoryEstimate, PeakMemory

FLOAT32, BF16 = 4, 2
GATHERED_LAYERS = 2


@dataclass(frozen=True)
class PredictedRun:
    """What memory is predicted for: a model, the settings of a run, and a device."""

    shape: Architecture
    config: Config
    device: Device
    bf16: bool
    """Whether the device has bf16 arithmetic."""

    @cached_property
    def method(self) -> MethodSpec:
        return method_spec(self.config.method)

    @cached_property
    def autocast(self) -> bool:
        """Whether it trains float32 weights in mixed precision."""
        return uses_autocast(self.config.method, self.config.train.precision)

    @cached_property
    def size(self) -> int:
        """Bytes per activation: 2 if the computation is in bf16, by the rules of `engine.methods`."""
        precision = self.config.train.precision
        if not self.method.quantizes_base:
            return BF16 if precision == "mixed" else self.weight_size
        setting = self.config.quantization.compute_dtype
        return BF16 if setting == "bf16" or (setting == "auto" and self.bf16 and precision != "fp32") else FLOAT32

    @cached_property
    def weight_size(self) -> int:
        """Bytes per weight that is not quantized."""
        precision = self.config.train.precision
        if self.method.quantizes_base:
            return self.size
        if precision == "auto":
            return BF16 if self.bf16 and (self.device == "cuda" or self.method.bf16_on_cpu) else FLOAT32
        return FLOAT32 if precision == "fp32" or self.autocast else BF16

    @property
    def logit(self) -> int:
        """Bytes per logit: bf16 in mixed precision."""
        return BF16 if self.autocast else self.size

    @cached_property
    def accumulator(self) -> int:
        """Bytes per element of a product in which it is added up, in addition to the element itself."""
        on_cpu = self.device == "cpu" and not self.bf16 and self.size == BF16
        return FLOAT32 if on_cpu and sums_bf16_in_float32() else 0

    @property
    def trains_bf16(self) -> bool:
        return self.method.trains_weights and self.weight_size == BF16

    @cached_property
    def trainable(self) -> int:
        """Number of trained parameters."""
        trains_weights = self.method.trains_weights
        return trained_parameters(self.shape) if trains_weights else count_adapter_parameters(self.shape, self.config)

    @property
    def has_32_bit_state(self) -> bool:
        return optimizer_name(self.config.optimizer.name, self.device) == "adamw"


def base_parameters(shape: Architecture) -> int:
    """Number of parameters of the model."""
    return trained_parameters(shape) + shape.tower


def trained_parameters(shape: Architecture) -> int:
    """Number of parameters that full fine-tuning trains: all but those of vision and audio towers."""
    layers = (
        kind.layers * (kind.layer_weights + sum(linear.weights for linear in kind.linears)) for kind in shape.groups()
    )
    return shape.embeddings + shape.hidden + sum(layers)


def weight_bytes(run: PredictedRun) -> int:
    """Bytes of all parameters; for QLoRA linear layers and experts have 4 bits per weight and scales.

    NF4 has a float32 scale per 64 weights: 4.5 bits per weight; with double quantization one byte per 64 weights and a
    float32 per 256 scales: 4.127 (Dettmers et al. 2023, arXiv:2305.14314, section 3). Embeddings, LM head, norms and
    routers are not quantized (`methods.weights`).
    """
    parameters, four_bit = base_parameters(run.shape), 0
    if not run.method.quantizes_base:
        return parameters * run.weight_size
    for kind in run.shape.groups():
        linear = sum(linear.weights for linear in kind.linears if not linear.read_directly)
        four_bit += kind.layers * (linear + kind.expert_weights - kind.experts * kind.hidden)  # without routers
    scales = four_bit / 64 * (1 + FLOAT32 / 256 if run.config.quantization.double else FLOAT32)
    return round((parameters - four_bit) * run.weight_size + four_bit / 2 + scales)


def decoder_bytes(run: PredictedRun) -> int:
    """Bytes of the decoder layers."""
    outside = run.shape.embeddings + run.shape.hidden + run.shape.tower
    return weight_bytes(run) - outside * run.weight_size


def adapted(shape: Architecture, config: Config) -> list[Linear]:
    """The linear layers of a decoder layer with an adapter; unknown names are ignored."""
    if method_spec(config.method).trains_weights:
        return []
    targets = config.adapter.target_modules
    if targets == "all-linear":
        return [linear for linear in shape.linears if not linear.read_directly]
    return [linear for linear in shape.linears if linear.name in targets]


def count_adapter_parameters(shape: Architecture, config: Config) -> int:
    """rank × (in + out) per adapted linear layer and expert, plus out with DoRA (arXiv:2106.09685, 2402.09353)."""
    rank, dora, total = config.adapter.rank, config.adapter.dora, 0
    for kind in shape.groups():
        layers, hidden, width = adapted(kind, config), kind.hidden, kind.expert_intermediate
        each = sum(rank * (linear.inputs + linear.outputs) + dora * linear.outputs for linear in layers)
        # Gate and up of an expert are one matrix.
        per_rank = {"gate_up_proj": hidden + (2 if kind.gated else 1) * width, "down_proj": width + hidden}
        each += kind.experts * rank * sum(per_rank[name] for name in _adapted_experts(config))
        total += kind.layers * each
    return total


def adapts_experts(shape: Architecture, config: Config) -> bool:
    """Whether experts have adapters."""
    return bool(shape.experts) and bool(_adapted_experts(config))


def _adapted_experts(config: Config) -> set[str]:
    """The tensors of the experts with an adapter, as `methods.adapters.find_targets` finds them."""
    targets = config.adapter.target_modules
    if method_spec(config.method).trains_weights:
        return set()
    if targets == "all-linear":
        return {"gate_up_proj", "down_proj"}
    projections = {"gate_up_proj", "down_proj"} & set(targets)
    return projections | ({"gate_up_proj"} if {"gate_proj", "up_proj"} <= set(targets) else set())


def gradient_bytes(run: PredictedRun) -> int:
    """Gradients of all trained parameters in their dtype; adapters are float32."""
    return run.trainable * (run.weight_size if run.method.trains_weights else FLOAT32)


def optimizer_state_bytes(run: PredictedRun) -> int:
    """AdamW's two moments: 8 bytes per trained parameter, or 2 in 8 bits with a float32 scale per 256 values (Dettmers
    et al. 2022, arXiv:2110.02861). bf16 weights also have a bf16 remainder (`methods.optimizers.compensated`) unless
    they are rounded stochastically.
    """
    remainder = run.trains_bf16 and run.config.optimizer.rounding != "stochastic"
    return round(run.trainable * (moment_bytes(run) + (BF16 if remainder else 0)))


def moment_bytes(run: PredictedRun) -> float:
    """Bytes per trained parameter of AdamW's two moments."""
    return 2 * FLOAT32 if run.has_32_bit_state else 2 * (1 + FLOAT32 / 256)


def largest_embedding(shape: Architecture) -> int:
    """Weights of the largest parameter outside the layers."""
    return max(shape.vocabulary * shape.hidden, shape.layer_vocabulary * shape.layers * shape.layer_embedding)


def largest_parameter(run: PredictedRun) -> int:
    """Weights of the largest trained parameter."""
    if run.method.trains_weights:
        return max(largest_embedding(run.shape), run.shape.largest_linear)
    layers = (linear for kind in run.shape.groups() for linear in adapted(kind, run.config))
    return run.config.adapter.rank * max((max(linear.inputs, linear.outputs) for linear in layers), default=0)


def update_bytes(run: PredictedRun, weights: int) -> int:
    """Temporary bytes of the optimizer for a parameter of this many weights (kernels: `dry_run.memory_tracker`).

    bf16 weights: weight and gradient in float32, MAX_UPDATED at a time; on the CPU also a third copy. 8-bit on the CPU:
    five float32 copies. Offloaded state: a copy of what belongs to these weights.
    """
    on_cpu = run.device == "cpu"
    compensated = run.trains_bf16
    copies = (3 if on_cpu else 2) if compensated else 0
    if on_cpu and not run.has_32_bit_state:
        copies += 5 - compensated
    elif on_cpu and compensated:
        copies += 2
    state = moment_bytes(run) if run.config.optimizer.name.startswith("offloaded") else 0
    return round((min(weights, MAX_UPDATED) if compensated else weights) * (copies * FLOAT32 + state))


def head_gradient(run: PredictedRun) -> int:
    """Full fine-tuning allocates the gradient of the LM head before any activation is freed."""
    return run.shape.vocabulary * run.shape.hidden * run.weight_size if run.method.trains_weights else 0


def shard_count(config: Config) -> int:
    """Number of ranks that divide the weights; 1 if each has all of them."""
    return config.train.devices if config.train.parallelism == "fsdp" else 1


def weights_of_rank(run: PredictedRun) -> int:
    """Bytes of weights on a rank."""
    whole, ranks = weight_bytes(run), shard_count(run.config)
    if ranks == 1:
        return whole
    decoder = decoder_bytes(run)
    return whole // ranks + (whole - decoder) + GATHERED_LAYERS * decoder // run.shape.layers


def state_of_rank(run: PredictedRun) -> int:
    """Bytes of optimizer state on a rank; that of adapters is whole on each."""
    return optimizer_state_bytes(run) // (shard_count(run.config) if run.method.trains_weights else 1)


def gradients_of_rank(run: PredictedRun) -> int:
    """Bytes of gradients on a rank at the end of a backward pass; those of adapters are whole on each."""
    whole, ranks = gradient_bytes(run), shard_count(run.config)
    if ranks == 1 or not run.method.trains_weights:
        return whole
    outside = run.shape.embeddings + run.shape.hidden
    return whole // ranks + outside * (run.weight_size + FLOAT32)


def copies_checkpoints(config: Config, device: Device) -> bool:
    """Whether checkpoints are copied to host memory first, and written while training continues.

    By default only those of full fine-tuning on a GPU. Checkpoints of adapters are small. On a CPU the copy would be in
    the memory by which runs are planned and compared, and writing takes time from training.
    """
    setting, trains_weights = config.train.async_checkpoints, method_spec(config.method).trains_weights
    if shard_count(config) > 1 and trains_weights:
        return False  # every rank writes its part of a checkpoint while training waits
    return (trains_weights and device == "cuda") if setting == "auto" else setting


def saved_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of the trained weights, or of the adapter."""
    parts = estimate.training.parts
    return parts.get("weights" if method_spec(config.method).trains_weights else "adapters", 0)


def checkpoint_bytes(estimate: MemoryEstimate, config: Config) -> int:
    """Bytes of a checkpoint: the trained weights, or the adapter, and their optimizer state."""
    parts = estimate.training.parts
    state = estimate.static + estimate.on_host - parts.get("weights", 0) - parts.get("adapters", 0)
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
