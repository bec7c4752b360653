"""Additional memory of some models and settings in the formula, in bytes.

- Eager attention materializes every head's attention matrix: the softmax in float32, its copy in the dtype of the
  activations, and keys and values for every query head (transformers, eager_attention_forward).
- Attention dropout (GPT-2) does the same on a CPU, which has no fused kernel with dropout: softmax, mask and product,
  all in float32 (aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math).
- GELU composed of elementary operations (gelu_new and similar) saves four products of the MLP's size instead of one.
- DoRA saves the outputs of the layer and of its adapter, the latter in float32 (PEFT, tuners/lora/dora.py).
- Mixed precision casts every weight to bf16 and saves the copy for the backward pass; norms, rotated queries and keys
  are float32.
- With AVX-512 but no bf16 instructions a CPU adds bf16 products up in a float32 matrix (`dry_run.kernel_scratch`).
"""

from __future__ import annotations

from engine.config import schema
from engine.config.method_specs import method_spec, uses_autocast
from engine.hardware.cpu import sums_bf16_in_float32
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device
from engine.memory.formula.packing import MicroBatchShape
from engine.memory.formula.weights_and_state import BF16, FLOAT32, adapted

COMPOSED_GELU = {"gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh_python", "quick_gelu"}


def accumulator(device: Device, bf16: bool, size: int) -> int:
    """Bytes per element of a product in which it is added up. `bf16`: whether the device has bf16 instructions."""
    return FLOAT32 if device == "cpu" and not bf16 and size == BF16 and sums_bf16_in_float32() else 0


def copies_shared_matrices(device: Device, bf16: bool, size: int) -> bool:
    """Whether a matrix that a batch shares is copied for each of its elements, as oneDNN does in bf16
    (`dry_run.kernel_scratch`). `size`: bytes per element; `bf16` as in `accumulator`.
    """
    return device == "cpu" and size == BF16 and (bf16 or sums_bf16_in_float32())


def accumulated_elements(shape: Architecture, config: schema.Config, batch: MicroBatchShape) -> int:
    """Elements of the largest product of a layer's backward pass: a gradient of size f, or that of a trained weight."""
    trained = method_spec(config.method).trains_weights
    weight = shape.largest_linear if trained else 0
    width = shape.expert_intermediate if shape.experts else max(shape.intermediate, shape.hidden)
    return max(batch.tokens * width, weight)


def attention_elements(shape: Architecture, batch: MicroBatchShape) -> int:
    """Elements of the attention matrices of all heads: T² per head if packed, L² per head and row if padded."""
    area = batch.tokens**2 if batch.packing != "padded" else batch.tokens**2 // max(1, batch.rows)
    return shape.heads * area


def materializes_attention(shape: Architecture, config: schema.Config, device: Device) -> bool:
    """Whether attention matrices are materialized."""
    return config.model.attention == "eager" or (shape.attention_dropout and device == "cpu")


def extra_saved_bytes(
    shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, device: Device
) -> int:
    """Additional bytes that one layer saves for its backward pass."""
    saved = 0
    if materializes_attention(shape, config, device):
        each = 3 * FLOAT32 if shape.attention_dropout else FLOAT32 + (size if size < FLOAT32 else 0)
        saved += attention_elements(shape, batch) * each + batch.tokens * 2 * (shape.query - shape.key) * size
    if shape.attention_dropout:
        saved += batch.tokens * 2 * shape.hidden * size  # dropout masks after attention and MLP
    if not shape.gated and not shape.experts:
        saved += batch.tokens * shape.intermediate * size * (2 if shape.activation in COMPOSED_GELU else -1)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        saved += batch.tokens * sum(linear.outputs for linear in adapted(shape, config)) * (size + FLOAT32)
    if uses_autocast(config.method, config.train.precision):
        weights = sum(linear.weights for linear in shape.linears())
        saved += weights * BF16 + batch.tokens * (2 * shape.hidden * BF16 + (shape.query + shape.key) * 2 * FLOAT32)
    return saved


def temporary_bytes(shape: Architecture, config: schema.Config, batch: MicroBatchShape, training: bool) -> int:
    """Additional temporary bytes of a running layer: forward the softmax and its input, backward one gradient of it
    (saved tensors are freed meanwhile).
    """
    temporary = 0
    if config.model.attention == "eager":
        temporary += attention_elements(shape, batch) * FLOAT32 * (1 if training else 2)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        largest = max((linear.weights for linear in adapted(shape, config)), default=0)
        temporary += 2 * batch.tokens * max(shape.intermediate, shape.hidden) * FLOAT32 + 3 * largest * FLOAT32
    return temporary


def cast_head(shape: Architecture, config: schema.Config) -> int:
    """The bf16 copy of the LM head's weight in mixed precision."""
    return shape.vocabulary * shape.hidden * BF16 if uses_autocast(config.method, config.train.precision) else 0
