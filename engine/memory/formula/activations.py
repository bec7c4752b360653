"""The formula's activations: what autograd keeps of a decoder block, and what the block needs while it is computed.

Counted off transformers' Llama (models/llama/modeling_llama.py) and PEFT's layers (tuners/lora/layer.py, bnb.py) as
torch runs them without compiling. T tokens of a pass, d hidden, f MLP, q and k widths of query and of key and value,
h heads, r rank; `size` bytes an activation. Korthikanti et al. 2022 (arXiv:2205.05198) count GPT blocks so.
"""

from __future__ import annotations

from engine.config import schema
from engine.config.batch_limits import CHUNK_ELEMENTS
from engine.config.method_specs import method_spec
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device
from engine.memory.formula.packing import MicroBatchShape
from engine.memory.formula.weights_and_state import FLOAT32, adapted, adapts_experts


def _mlp(shape: Architecture) -> int:
    """f: of experts, those that a token meets."""
    return shape.experts_used * shape.expert_intermediate if shape.experts else shape.intermediate


def block_kept(shape: Architecture, config: schema.Config, layout: MicroBatchShape, size: int) -> int:
    """Bytes that one block keeps for its backward pass.

    - Both norms their input in float32, 4 d each, and with trained weights the normed value too, d.
    - Attention query, key, value and output, and a float32 per head; with a mask, keys and values as many as heads.
    - The MLP the gate before and after its activation and what it is multiplied with, 3 f; without a gate f less.
    - A trained layer its input; an adapted frozen one its input in float32, a copy for each layer where activations
      are not float32 anyway, and r float32 behind A. Dropout keeps another copy and its mask.
    """
    masked = layout.packing == "packed" and layout.rows > 1
    norms = 2 * FLOAT32 * shape.hidden
    attention = size * (2 * shape.query + 2 * (shape.query if masked else shape.key)) + FLOAT32 * shape.heads
    mlp = size * _mlp(shape) * (3 if shape.gated or shape.experts else 2)
    if method_spec(config.method).trains_weights:
        norms += 2 * size * shape.hidden
        inputs = size * (2 * shape.hidden + _mlp(shape))
    else:
        inputs = _adapter_inputs(shape, config, size)
    if shape.experts:
        inputs += size * shape.experts_used * 2 * shape.hidden  # tokens sorted to their experts, and what came back
    # PEFT adds B A to a whole expert tensor, and both what it adds and the sum are kept.
    experts = 2 * size * shape.expert_weights if adapts_experts(shape, config) else 0
    return layout.tokens * (norms + attention + mlp + inputs) + experts


def _adapter_inputs(shape: Architecture, config: schema.Config, size: int) -> int:
    layers = adapted(shape, config)
    if size == FLOAT32:
        inputs = FLOAT32 * sum({linear.read: linear.inputs for linear in layers if linear.read != "attention"}.values())
    else:
        inputs = FLOAT32 * sum(linear.inputs for linear in layers)
    if config.adapter.dropout:
        inputs += (FLOAT32 + 1) * sum(linear.inputs for linear in layers)
    return inputs + FLOAT32 * config.adapter.rank * len(layers)


def block_work(shape: Architecture, config: schema.Config, layout: MicroBatchShape, size: int, device: Device) -> int:
    """Bytes beside what is kept while the widest layer of a block runs backward: its gradients of f, and under an
    adapter their float32 twins (a third on the CPU, which converts before it adds, where PEFT adds float32 to bf16: in
    its plain layer and not in its 4-bit one); QLoRA the layer's weight unpacked.
    """
    width = max(_mlp(shape), shape.hidden)
    work = layout.tokens * width * 3 * size
    if not method_spec(config.method).trains_weights and size != FLOAT32:
        work += (
            layout.tokens
            * width
            * FLOAT32
            * (3 if device == "cpu" and not method_spec(config.method).quantizes_base else 2)
        )
    if method_spec(config.method).quantizes_base:
        work += max((linear.inputs * linear.outputs for linear in shape.linears()), default=0) * size
    return work


def loss_work(shape: Architecture, layout: MicroBatchShape, size: int) -> int:
    """Logits where a token is trained and their gradient, K V each, and float32 portions: what is computed and what it
    is computed from, and where there are many the one before (`training.loss.SummedCrossEntropy`).
    """
    portion, many = _portion(shape, layout)
    return 2 * layout.answers * shape.vocabulary * size + (3 if many else 2) * portion


def held_out_work(shape: Architecture, layout: MicroBatchShape, size: int) -> int:
    """Logits and two float32 portions; or, of padded rows whose answers were filled up, the logits and a copy."""
    logits, head = layout.answers * shape.vocabulary * size, layout.filled * shape.vocabulary * size
    copied = head + logits if layout.packing == "padded" and layout.filled > layout.answers else head
    return max(copied, logits + 2 * _portion(shape, layout)[0])


def _portion(shape: Architecture, layout: MicroBatchShape) -> tuple[int, bool]:
    """(bytes of a float32 portion, whether there are many)."""
    rows = max(1, CHUNK_ELEMENTS // shape.vocabulary)
    return FLOAT32 * min(rows, layout.answers) * shape.vocabulary, layout.answers > rows


def mask(layout: MicroBatchShape, size: int) -> int:
    """Rows laid end to end are kept apart by a square of truths and one of numbers, T² each."""
    return layout.tokens**2 * (1 + size) if layout.packing == "packed" and layout.rows > 1 else 0
