"""The formula's exceptions: what some models and settings keep beside a plain block. Bytes.

- Eager attention makes every head's matrix: the softmax in float32, its copy in the activations' type, and keys and
  values for as many heads as there are queries (transformers, eager_attention_forward).
- Dropout inside attention (GPT-2) does the same on a CPU, where no fused kernel draws: softmax, mask and product, all
  in float32 (aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math).
- GELU written out (gelu_new and its like) keeps four products of the MLP's width and not one.
- DoRA keeps what the layer and what its adapter gave, the latter in float32 (PEFT, tuners/lora/dora.py).
- Mixed precision casts every weight to bf16 and keeps the copy for the backward pass; norms, rotated queries and keys
  are float32 there.
"""

from __future__ import annotations

from engine.config import schema
from engine.config.method_specs import method_spec
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device
from engine.memory.formula.packing import MicroBatchShape
from engine.memory.formula.weights_and_state import BF16, FLOAT32, adapted

WRITTEN_OUT = {"gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh_python", "quick_gelu"}


def is_mixed(config: schema.Config) -> bool:
    return config.train.precision == "mixed" and not method_spec(config.method).quantizes_base


def matrix(shape: Architecture, layout: MicroBatchShape) -> int:
    """Elements of all heads' attention: T² a head where rows lie end to end, L² a head and row where side by side."""
    area = layout.tokens**2 if layout.packing == "packed" else layout.tokens**2 // max(1, layout.rows)
    return shape.heads * area


def makes_matrix(shape: Architecture, config: schema.Config, device: Device) -> bool:
    return config.model.attention == "eager" or (shape.attention_dropout and device == "cpu")


def kept(shape: Architecture, config: schema.Config, layout: MicroBatchShape, size: int, device: Device) -> int:
    """Of one block, for its backward pass."""
    found = 0
    if makes_matrix(shape, config, device):
        each = 3 * FLOAT32 if shape.attention_dropout else FLOAT32 + (size if size < FLOAT32 else 0)
        found += matrix(shape, layout) * each + layout.tokens * 2 * (shape.query - shape.key) * size
    if shape.attention_dropout:
        found += layout.tokens * 2 * shape.hidden * size  # masks behind attention and MLP
    if not shape.gated and not shape.experts:
        found += layout.tokens * shape.intermediate * size * (2 if shape.activation in WRITTEN_OUT else -1)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        found += layout.tokens * sum(linear.outputs for linear in adapted(shape, config)) * (size + FLOAT32)
    if is_mixed(config):
        weights = sum(linear.inputs * linear.outputs for linear in shape.linears())
        found += weights * BF16 + layout.tokens * (2 * shape.hidden * BF16 + (shape.query + shape.key) * 2 * FLOAT32)
    return found


def work(shape: Architecture, config: schema.Config, layout: MicroBatchShape, training: bool) -> int:
    """While a block is computed: forward the softmax and what it is made from, backward one gradient of it (what is
    kept goes meanwhile).
    """
    found = 0
    if config.model.attention == "eager":
        found += matrix(shape, layout) * FLOAT32 * (1 if training else 2)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        widest = max((linear.inputs * linear.outputs for linear in adapted(shape, config)), default=0)
        found += 2 * layout.tokens * max(shape.intermediate, shape.hidden) * FLOAT32 + 3 * widest * FLOAT32
    return found


def cast_head(shape: Architecture, config: schema.Config) -> int:
    """The head's weight in bf16 beside the one in float32."""
    return shape.vocabulary * shape.hidden * BF16 if is_mixed(config) else 0
