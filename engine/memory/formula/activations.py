"""Activation memory in the formula: tensors saved for backward per decoder layer, and temporaries of a running layer.

Derived from transformers' Llama (models/llama/modeling_llama.py) and PEFT's layers (tuners/lora/layer.py, bnb.py) in
eager mode, with the method of Korthikanti et al. 2022 (arXiv:2205.05198). T tokens of a micro-batch, d hidden size, f
MLP size, q and k sizes of query and key/value, h heads, r rank; `size` bytes per activation.
"""

from __future__ import annotations

from engine.config import schema
from engine.config.batch_limits import CHUNK_ELEMENTS, SHAPE_MULTIPLE
from engine.config.method_specs import method_spec
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device
from engine.memory.formula.packing import MicroBatchShape
from engine.memory.formula.special_cases import COMPOSED_GELU
from engine.memory.formula.weights_and_state import FLOAT32, adapted, adapts_experts


def _mlp(shape: Architecture) -> int:
    """MLP size f; for mixture of experts that of the experts used by a token."""
    if not shape.experts:
        return shape.intermediate
    return shape.experts_used * shape.expert_intermediate + shape.shared_intermediate


def saved_activations(shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int) -> int:
    """Bytes that one layer saves for its backward pass.

    - Norms: their input in float32, 4 bytes per element; with trained weights also the normalized value.
    - Attention: query, key, value and output, and a float32 per head; with a mask, keys and values for every head.
      Other mixers: what `architecture` counts for transformers' reference implementation, in float32.
    - MLP: the gate before and after its activation and its factor, 3 f; without a gate f less.
    - Linear layers: a trained one its input; frozen ones with adapters the input that they share, and r values after A.
      Dropout saves a copy per layer and its mask. DoRA computes in float32, with a copy of the input per layer.
    """
    norms = FLOAT32 * shape.normed
    attention = size * (2 * shape.query + 2 * (shape.query if batch.masked else shape.key)) + FLOAT32 * shape.heads
    mlp = size * _mlp(shape) * (3 if shape.gated or shape.experts else 2)
    if method_spec(config.method).trains_weights:
        norms += (FLOAT32 if shape.float32_norms else size) * shape.normed
        inputs = size * (2 * shape.hidden + _mlp(shape))
    else:
        inputs = _adapter_inputs(shape, config, size)
    if shape.experts:
        inputs += size * shape.experts_used * 2 * shape.hidden  # tokens sorted by expert, and their outputs
    # A 16-bit copy of the experts: the sum of the weights and B A, which PEFT adds to them, or the dequantized weights.
    copied = adapts_experts(shape, config) or method_spec(config.method).quantizes_base
    experts = size * shape.expert_weights if copied else 0
    return batch.tokens * (norms + attention + mlp + inputs + FLOAT32 * shape.mixer_saved) + experts


def _adapter_inputs(shape: Architecture, config: schema.Config, size: int) -> int:
    layers = adapted(shape, config)
    own_copies = config.adapter.dora and size != FLOAT32
    size = FLOAT32 if config.adapter.dora else size
    if own_copies:
        inputs = size * sum(linear.inputs for linear in layers)
    else:
        inputs = size * sum({linear.read: linear.inputs for linear in layers if linear.read != "attention"}.values())
    if config.adapter.dropout:
        inputs += (size + 1) * sum(linear.inputs for linear in layers)
    return inputs + size * config.adapter.rank * len(layers)


def layer_temporaries(
    shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, device: Device
) -> int:
    """Temporary bytes while the largest linear layer of a decoder layer runs backward: its gradients of size f; with
    DoRA also their float32 copies (a third one on the CPU, which converts before it adds, where PEFT's unquantized
    layer adds float32 to bf16); for QLoRA the dequantized weight; with adapters on experts their gradient.
    """
    width = max(_mlp(shape), shape.hidden)
    work = batch.tokens * width * 3 * size + _dora_copies(shape, config, batch, size, device)
    if method_spec(config.method).quantizes_base:
        work += shape.largest_linear * size
    if adapts_experts(shape, config):
        work += shape.expert_weights * size * 2 // 3  # the gradient of the sum of the larger tensor and its B A
    return work


def inference_temporaries(
    shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, device: Device, accumulator: int = 0
) -> int:
    """Temporary bytes while the MLP of a decoder layer runs without gradients. `accumulator`: bytes per element in
    which a product is added up. The larger of two moments, each with four tensors of size d (the residual before and
    after attention, its norm, the output):

    - All tensors of size f exist: gate, factor and their product; without a gate two, or four in a GELU of elementary
      operations; with an adapter also its output (with DoRA float32 copies). With experts also, for each expert of a
      token, four or five of size d: inputs, outputs, and outputs weighted and in the tokens' order.
    - The last of them is computed: its accumulator, and for QLoRA the dequantized weight.
    """
    f, spec = _mlp(shape), method_spec(config.method)
    adapter = not spec.trains_weights and not config.adapter.dora
    earlier = (2 if shape.gated or shape.experts else 1) + adapter  # of size f, before the last one
    complete = (earlier + 1) * f
    if shape.experts:
        complete = max(complete, (4 + adapter) * shape.experts_used * shape.hidden)
    elif not shape.gated and shape.activation in COMPOSED_GELU:
        complete = max(complete, 4 * f)
    computing = batch.tokens * f * (earlier * size + accumulator) + shape.largest_linear * size * spec.quantizes_base
    residual = batch.tokens * 4 * shape.hidden * size
    return residual + max(batch.tokens * complete * size, computing) + _dora_copies(shape, config, batch, size, device)


def _dora_copies(shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, device: Device) -> int:
    """Bytes of float32 copies of the largest linear layer's output with DoRA."""
    spec = method_spec(config.method)
    if spec.trains_weights or not config.adapter.dora or size == FLOAT32:
        return 0
    copies = 3 if device == "cpu" and not spec.quantizes_base else 2
    return batch.tokens * max(_mlp(shape), shape.hidden) * FLOAT32 * copies


def loss_bytes(
    shape: Architecture, batch: MicroBatchShape, size: int, device: Device, accumulator: int = 0, trained: bool = False
) -> int:
    """A chunk of logits with its float32 copy (its own memory in float32), or `accumulator` bytes for each while the
    head runs; the gradients of the head's inputs, and of its weight if that is trained, in float32
    (`training.loss`).
    """
    gradients = batch.filled * shape.hidden * size + (trained * shape.vocabulary * shape.hidden * FLOAT32)
    product = shape.vocabulary * shape.hidden * size if trained and size < FLOAT32 else 0
    chunk = _chunk(shape, batch, device)
    return gradients + max(chunk * max(_copied(size), size + accumulator), chunk * _copied(size) + product)


def held_out_loss_bytes(
    shape: Architecture, batch: MicroBatchShape, size: int, device: Device, accumulator: int = 0
) -> int:
    """A chunk of logits as in `loss_bytes`, without gradients, and the inputs of the head."""
    chunk = _chunk(shape, batch, device)
    return batch.filled * shape.hidden * size + chunk * max(_copied(size), size + accumulator)


def _copied(size: int) -> int:
    """Bytes of a logit and its float32 copy."""
    return size if size == FLOAT32 else size + FLOAT32


def _chunk(shape: Architecture, batch: MicroBatchShape, device: Device) -> int:
    """Logits computed at a time."""
    rows = max(1, CHUNK_ELEMENTS[device] // shape.vocabulary)
    rows = rows // SHAPE_MULTIPLE[device] * SHAPE_MULTIPLE[device] or rows
    return min(rows, batch.filled) * shape.vocabulary


def mask_bytes(batch: MicroBatchShape, size: int) -> int:
    """Masks that separate packed rows: one boolean and one additive, T² elements each."""
    return batch.tokens**2 * (1 + size) if batch.masked else 0
