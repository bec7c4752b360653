"""Memory in the formula that depends on the rows: activations, temporaries, the loss and generation. In bytes.

Derived from transformers' Llama (models/llama/modeling_llama.py) and PEFT's layers (tuners/lora/layer.py, bnb.py) in
eager mode, with the method of Korthikanti et al. 2022 (arXiv:2205.05198). T tokens of a micro-batch, d hidden size, f
MLP size, q and k sizes of query and key/value, h heads, r rank; `size` bytes per activation.

Special cases:

- Eager attention materializes every head's attention matrix: the softmax in float32, its copy in the dtype of the
  activations, and keys and values for every query head (transformers, eager_attention_forward).
  With sinks (gpt-oss) all is in the activations' data type: forward the scores, the scores with the sink and their
  softmax exist together, and the attention matrix until the layer ends; backward one is saved, with two gradients
  (transformers, models/gpt_oss/modeling_gpt_oss.py).
- Attention dropout (GPT-2) does the same on a CPU, which has no fused kernel with dropout: softmax, mask and product,
  all in float32 (aten/src/ATen/native/transformers/attention.cpp, _scaled_dot_product_attention_math).
- GELU composed of elementary operations (gelu_new and similar) saves four products of the MLP's size instead of one.
- DoRA saves the outputs of the layer and of its adapter, the latter in float32 (PEFT, tuners/lora/dora.py).
- Mixed precision casts every weight to bf16 and saves the copy for the backward pass; norms, rotated queries and keys
  are float32.
- With AVX-512 but no bf16 instructions a CPU adds bf16 products up in a float32 matrix (`dry_run.kernel_scratch`).

Generation follows `engine.evaluation.worst_case` without torch; a test compares the two.
"""

from __future__ import annotations

import math

from engine.config import schema
from engine.config.batch_limits import (
    CHUNK_ELEMENTS,
    CHUNK_MULTIPLE,
    DECODER,
    MAX_CHOICE_TOKENS,
    MAX_CHOICES_PER_PROMPT,
    MAX_DRAFT_TOKENS,
    MAX_TOKENS,
    REFILL_FRACTION,
    SPARE_CACHE_COLUMNS,
    answers_together,
    prefill_columns,
)
from engine.config.method_specs import method_spec, uses_autocast
from engine.config.metric_specs import metric_spec
from engine.hardware.cpu import sums_bf16_in_float32
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device, StepShape
from engine.memory.formula.packing import MicroBatchShape
from engine.memory.formula.weights_and_state import BF16, FLOAT32, adapted, adapts_experts


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
    experts = expert_copies(shape, config, size)
    if method_spec(config.method).trains_weights:
        norms += (FLOAT32 if shape.float32_norms else size) * shape.normed
        inputs = size * (2 * shape.hidden + _mlp(shape))
    else:
        inputs = _adapter_inputs(shape, config, size)
    if shape.experts:
        inputs += size * shape.experts_used * 2 * shape.hidden  # tokens sorted by expert, and their outputs
    layer_input = size * 2 * shape.layer_embedding  # the gate of a layer's own embedding, before and after activation
    return batch.tokens * (norms + attention + mlp + inputs + layer_input + FLOAT32 * shape.mixer_saved) + experts


def expert_copies(shape: Architecture, config: schema.Config, size: int) -> int:
    """Bytes of the 16-bit copy of a running layer's experts: the sum of the weights and B A, which PEFT adds to them,
    or the dequantized weights; 0 if the experts are used as they are.
    """
    copied = adapts_experts(shape, config) or method_spec(config.method).quantizes_base
    return size * shape.expert_weights if copied else 0


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
    """Temporary bytes while a decoder layer runs without gradients: what mixes its tokens, if that is not attention,
    or the MLP. `accumulator`: bytes per element in which a product is added up. For the MLP the larger of two moments,
    each with four tensors of size d (the residual before and after attention, its norm, the output), and the copies
    of experts:

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
    residual = batch.tokens * 4 * shape.hidden * size + expert_copies(shape, config, size)
    mlp = residual + max(batch.tokens * complete * size, computing)
    mixer = batch.tokens * (2 * shape.hidden * size + FLOAT32 * shape.mixer_running)
    return max(mlp, mixer) + _dora_copies(shape, config, batch, size, device)


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
    rows = rows // CHUNK_MULTIPLE[device] * CHUNK_MULTIPLE[device] or rows
    return min(rows, batch.filled) * shape.vocabulary


def mask_bytes(batch: MicroBatchShape, size: int) -> int:
    """Masks that separate packed rows: one boolean and one additive, T² elements each."""
    return batch.tokens**2 * (1 + size) if batch.masked else 0


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
    return is_eager(shape, config) or (shape.attention_dropout and device == "cpu")


def is_eager(shape: Architecture, config: schema.Config) -> bool:
    """Whether transformers computes attention with elementary operations, as it does where torch has no kernel."""
    return config.model.attention == "eager" or (
        not shape.fused_attention and config.model.attention in ("auto", "sdpa")
    )


def extra_saved_bytes(
    shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, device: Device
) -> int:
    """Additional bytes that one layer saves for its backward pass."""
    saved = 0
    if materializes_attention(shape, config, device):
        bytes_per_element = 3 * FLOAT32 if shape.attention_dropout else FLOAT32 + (size if size < FLOAT32 else 0)
        bytes_per_element = size if shape.sinks else bytes_per_element
        saved += (
            attention_elements(shape, batch) * bytes_per_element + batch.tokens * 2 * (shape.query - shape.key) * size
        )
    if shape.attention_dropout:
        saved += batch.tokens * 2 * shape.hidden * size  # dropout masks after attention and MLP
    if not shape.gated and not shape.experts:
        saved += batch.tokens * shape.intermediate * size * (2 if shape.activation in COMPOSED_GELU else -1)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        saved += batch.tokens * sum(linear.outputs for linear in adapted(shape, config)) * (size + FLOAT32)
    if uses_autocast(config.method, config.train.precision):
        weights = sum(linear.weights for linear in shape.linears)
        saved += weights * BF16 + batch.tokens * (2 * shape.hidden * BF16 + (shape.query + shape.key) * 2 * FLOAT32)
    return saved


def with_sinks(
    shape: Architecture, config: schema.Config, batch: MicroBatchShape, size: int, training: bool, plain: int
) -> int:
    """Temporary bytes of a running layer whose attention may have sinks; `plain`: of its other parts."""
    if not (shape.sinks and is_eager(shape, config)):
        return plain
    matrix = attention_elements(shape, batch) * size
    if not training:
        return max(plain + matrix, 3 * matrix + batch.tokens * shape.hidden * size)
    # What the MLP saved is freed before attention runs backward.
    mlp = batch.tokens * size * (3 * _mlp(shape) + shape.experts_used * 2 * shape.hidden)
    return max(plain, 2 * matrix - mlp - expert_copies(shape, config, size))


def temporary_bytes(shape: Architecture, config: schema.Config, batch: MicroBatchShape, training: bool) -> int:
    """Additional temporary bytes of a running layer: forward the softmax and its input, backward one gradient of it
    (saved tensors are freed meanwhile).
    """
    temporary = 0
    if is_eager(shape, config) and not shape.sinks:
        temporary += attention_elements(shape, batch) * FLOAT32 * (1 if training else 2)
    if not method_spec(config.method).trains_weights and config.adapter.dora:
        largest = max((linear.weights for linear in adapted(shape, config)), default=0)
        temporary += 2 * batch.tokens * max(shape.intermediate, shape.hidden) * FLOAT32 + 3 * largest * FLOAT32
    return temporary


def cast_head(shape: Architecture, config: schema.Config) -> int:
    """The bf16 copy of the LM head's weight in mixed precision."""
    return shape.vocabulary * shape.hidden * BF16 if uses_autocast(config.method, config.train.precision) else 0


def generates_answers(config: schema.Config) -> bool:
    """Whether the evaluation generates or chooses answers."""
    return metric_spec(config.evaluation.metric).needs_answers and config.evaluation.when != "never"


def kv_cache_bytes(shape: Architecture, rows: int, columns: int, size: int) -> int:
    """KV cache: 2 k elements per token and layer. States of layers without attention do not grow with the tokens."""
    elements = sum(kind.layers * 2 * kind.key for kind in shape.groups() if kind.own_keys)
    return elements * rows * columns * size


def prefill_shape(config: schema.Config, rows: StepShape, device: Device) -> MicroBatchShape:
    """The prompts of one prefill: a batch, limited by the tokens of a padded micro-batch."""
    batch = answers_together(config.evaluation.batch, device)
    count = min(batch, max(1, MAX_TOKENS[device] // rows.prompted))
    if metric_spec(config.evaluation.metric).picks_from_choices:
        count = batch
    elif device == "cpu":  # the largest number of rows that needs no padding rows
        count = 1 << (count.bit_length() - 1) if count < 16 else count // 16 * 16
    return _pass(count, rows.prompted)


def _pass(rows: int, tokens: int) -> MicroBatchShape:
    return MicroBatchShape("padded", rows, rows * tokens, rows, False)


def moments(
    shape: Architecture,
    config: schema.Config,
    rows: StepShape,
    device: Device,
    size: int,
    accumulator: int = 0,
    copies: bool = False,
) -> list[tuple[int, MicroBatchShape]]:
    """(bytes of caches and logits, the batch that runs at the same time) for each moment of generation.

    `size`: bytes per logit, in addition `accumulator` while the head runs. `copies`: as `copies_shared_matrices`.
    """
    batch, length = answers_together(config.evaluation.batch, device), rows.prompted
    read = prefill_shape(config, rows, device)
    kept = kv_cache_bytes(shape, read.rows, length, size)
    if metric_spec(config.evaluation.metric).picks_from_choices:
        return [(kept, read), _choices(shape, batch, rows, size, accumulator, kept)]
    if DECODER[device] == "generate" or shape.windowed:
        return _by_generate(shape, config, rows, device, size, accumulator, copies)
    places = _filled(batch, device)
    filled = kv_cache_bytes(shape, places, length + SPARE_CACHE_COLUMNS, size)
    whole = kv_cache_bytes(shape, places, length + config.evaluation.max_new_tokens - 1 + SPARE_CACHE_COLUMNS, size)
    step = 1 + min(MAX_DRAFT_TOKENS, config.evaluation.max_new_tokens - 1)
    again = min(read.rows, math.ceil(batch / REFILL_FRACTION))
    return [
        ((filled if batch > read.rows else 0) + kept, read),
        (filled + kept + kept // shape.layers, _pass(0, 0)),  # prompts are copied to the batch's cache layer by layer
        (whole + places * step * shape.vocabulary * (size + accumulator), _pass(places, step)),
        (whole + kv_cache_bytes(shape, again, length, size), _pass(again, length)),
    ]


def _by_generate(
    shape: Architecture,
    config: schema.Config,
    rows: StepShape,
    device: Device,
    size: int,
    accumulator: int,
    copies: bool,
) -> list[tuple[int, MicroBatchShape]]:
    """The moments of transformers' `generate`, by which CUDA answers, and a CPU where layers have windows or states:
    prompts are read, the last of their tokens is predicted, a layer's keys or values are copied to append the last
    token, and that is predicted. oneDNN copies the LM head for the last token of each prompt.
    """
    batch, length, new = (
        answers_together(config.evaluation.batch, device),
        rows.prompted,
        config.evaluation.max_new_tokens,
    )
    states = any(kind.mixer_running for kind in shape.groups())
    columns = length if states else prefill_columns(batch, length, device)
    read = batch * columns
    prompts, whole = (kv_cache_bytes(shape, batch, columns, size) for columns in (length, length + new - 1))
    tokens = 4 * 8 * batch * (length + new)  # 64-bit: tokens, mask, positions, and the copy of one of them
    group = shape.heads // max(1, shape.kv_heads)
    masks = read * length  # boolean; in attention an additive one for each query head of a group
    attention = masks * (1 + group * (1 + size)) + read * (shape.hidden + 2 * shape.query) * size
    logits = batch * shape.vocabulary * (size + FLOAT32 + accumulator)
    copied_head = batch * shape.vocabulary * shape.hidden * size if copies else 0
    appended = batch * (length + new) * max(kind.key for kind in shape.groups()) * size
    if is_eager(shape, config):  # scores of the columns in the cache, and keys and values for every query head
        score = 3 * size if shape.sinks else 2 * FLOAT32
        masks += shape.heads * read * (length - columns) * score + 2 * batch * length * shape.query * size
        appended += batch * (length + new) * (shape.heads * score + 2 * shape.query * size)
    return [
        (prompts + masks + tokens, _pass(batch, columns)),
        (prompts + attention + tokens, _pass(0, 0)),
        (prompts + logits + copied_head + tokens, _pass(0, 0)),
        (whole + appended + tokens, _pass(batch, 1)),
        (whole + logits + tokens, _pass(0, 0)),
    ]


def _choices(
    shape: Architecture, batch: int, rows: StepShape, size: int, accumulator: int, kept: int
) -> tuple[int, MicroBatchShape]:
    """Choice scoring: the keys and values of prompts are copied for the choices of one layer at a time."""
    choices = max(1, min(MAX_CHOICES_PER_PROMPT * batch, MAX_CHOICE_TOKENS // max(1, rows.answer)))
    copied = 2 * 2 * shape.key * choices * (rows.prompted + rows.answer) * size
    scores = 2 * batch * shape.vocabulary * 4
    logits = choices * rows.answer * shape.vocabulary * (size + accumulator) + scores
    return kept + max(copied, logits), _pass(choices, rows.answer)


def _filled(rows: int, device: Device) -> int:
    """Batch size including padding rows (`evaluation.forward.padded_rows`)."""
    if device != "cpu":
        return rows
    return 1 << (rows - 1).bit_length() if rows <= 16 else math.ceil(rows / 16) * 16
