"""Memory in the formula that depends on the rows: micro-batches, activations, temporaries, the loss and generation.

Shapes of micro-batches are the arithmetic of `engine.training.batches` without torch (a test compares the two).
The rest is in bytes.

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
- With AVX-512 but no bf16 instructions a CPU adds bf16 products up in a float32 matrix (`dry_run.memory_tracker`).

Generation follows `engine.evaluation.worst_case` without torch; a test compares the two.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from msgspec.structs import replace

from engine.config import schema
from engine.config.device_defaults import (
    CHUNK_ELEMENTS,
    CHUNK_MULTIPLE,
    HELD_OUT_LOGITS,
    HELD_OUT_ROWS,
    HELD_OUT_TOKENS,
    MAX_CHOICE_TOKENS,
    MAX_CHOICES_PER_PROMPT,
    MAX_MASKED_TOKENS,
    MAX_TOKENS,
    PACKED_MEAN_LENGTH,
    SHAPE_MULTIPLE,
    PackingMode,
    answers_together,
    prefill_columns,
)
from engine.config.metric_specs import metric_spec
from engine.config.model_config import segment_kernel_missing
from engine.memory.formula.architecture import Architecture
from engine.memory.formula.estimate import Device, StepShape
from engine.memory.formula.weights_and_state import BF16, FLOAT32, PredictedRun, adapted, adapts_experts

COMPOSED_GELU = {"gelu_new", "gelu_fast", "gelu_python", "gelu_pytorch_tanh_python", "quick_gelu"}


@dataclass(frozen=True)
class MicroBatchShape:
    """The largest micro-batch of a step."""

    packing: PackingMode
    rows: int
    tokens: int
    """Tokens including padding."""
    filled: int
    """Positions at which the LM head runs."""
    several: bool
    """Whether a step has several micro-batches, so that gradients and activations coexist."""
    segments: bool = False
    """Whether packed rows are separated by segments instead of a mask."""

    @property
    def masked(self) -> bool:
        """Whether attention has a mask of T x T."""
        return self.packing != "padded" and self.rows > 1 and not self.segments


def uses_segments(run: PredictedRun) -> bool:
    """Whether packed rows need no mask (`training.varlen_attention.unsupported_reason`)."""
    shape, attention = run.shape, run.config.model.attention
    sizes = shape.head_dim, shape.value_dim or shape.head_dim
    if run.device == "cuda" and segment_kernel_missing(run.bf16, run.size, sizes):
        return False
    if shape.attention_dropout or attention not in ("auto", "sdpa"):
        return False
    windows = shape.windowed and not shape.windows_by_segments
    return shape.separation == "segments" or not (windows or shape.separation == "mixed")


def needs_segments(shape: Architecture) -> bool:
    """Whether packed rows influence each other without segments."""
    return shape.separation in ("segments", "mixed")


def largest_micro_batch_shape(
    rows: StepShape,
    micro_batch: int,
    setting: str,
    device: Device,
    segments: bool = False,
    mixed: bool = False,
    most_tokens: int | None = None,
    whole_step: bool = False,
) -> MicroBatchShape:
    """The largest micro-batch of `choose_packing` and `micro_batches`; `setting`: `train.packing`. `whole_step`: of
    `step_packing` with the step in the backward pass.

    `segments`, `mixed`: whether packed rows are separated by segments, and whether they influence each other otherwise.
    """
    packing: PackingMode = "padded"
    if setting == "shared_prefix":
        packing = "shared_prefix" if segments else "packed"
    elif setting == "packed" or (setting == "auto" and (segments or rows.length <= PACKED_MEAN_LENGTH)):
        packing = "packed"
    if mixed and not segments:
        packing = "padded"
    limit = (MAX_MASKED_TOKENS if packing == "packed" and not segments else MAX_TOKENS)[device]
    shared = rows.shared if packing == "shared_prefix" else 0
    fitting = (min(limit, most_tokens or limit) - shared) // max(1, rows.length - shared)
    count = rows.count if whole_step else max(1, min(rows.count, micro_batch, fitting))
    multiple = SHAPE_MULTIPLE[device]

    def rounded_up(tokens: int) -> int:
        return math.ceil(tokens / multiple) * multiple

    if packing == "padded":
        tokens, filled = count * rounded_up(rows.length), count * rounded_up(rows.answer)
    else:
        tokens, filled = rounded_up(count * rows.length - shared * (count - 1)), rounded_up(count * rows.answer)
    return MicroBatchShape(packing, count, tokens, filled, rows.count > count, segments)


def held_out_shape(
    rows: StepShape, setting: str, device: Device, vocabulary: int, segments: bool = False, mixed: bool = False
) -> MicroBatchShape:
    """The largest batch of `held_out_batches` for many of these rows."""
    many, by_logits = replace(rows, count=HELD_OUT_ROWS), max(1, HELD_OUT_LOGITS // vocabulary) // max(1, rows.answer)
    return largest_micro_batch_shape(many, by_logits, setting, device, segments, mixed, HELD_OUT_TOKENS[device])


def _mlp(kind: Architecture) -> int:
    """MLP size f; for mixture of experts that of the experts used by a token."""
    if not kind.experts:
        return kind.intermediate
    return kind.experts_used * kind.expert_intermediate + kind.shared_intermediate


def saved_activations(kind: Architecture, run: PredictedRun, batch: MicroBatchShape) -> int:
    """Bytes that a layer of this kind saves for its backward pass.

    - Norms: their input in float32, 4 bytes per element; with trained weights also the normalized value.
    - Attention: query, key, value and output, and a float32 per head; with a mask, keys and values for every head.
      Other mixers: what `architecture` counts for transformers' reference implementation, in float32.
    - MLP: the gate before and after its activation and its factor, 3 f; without a gate f less.
    - Linear layers: a trained one its input; frozen ones with adapters the input that they share, and r values after A.
      Dropout saves a copy per layer and its mask. DoRA computes in float32, with a copy of the input per layer.
    """
    size = run.size
    layers, adapter = adapted(kind, run.config), run.config.adapter
    norms = FLOAT32 * kind.normed
    attention = size * (2 * kind.query + 2 * (kind.query if batch.masked else kind.key)) + FLOAT32 * kind.heads
    mlp = size * _mlp(kind) * (3 if kind.gated or kind.experts else 2)
    if run.method.trains_weights:
        norms += (FLOAT32 if kind.float32_norms else size) * kind.normed
        inputs = size * (2 * kind.hidden + _mlp(kind))
    else:
        every, each = sum(linear.inputs for linear in layers), FLOAT32 if adapter.dora else size
        shared = sum({linear.read: linear.inputs for linear in layers if linear.read != "attention"}.values())
        inputs = each * (every if adapter.dora and size != FLOAT32 else shared)
        inputs += (each + 1) * every * bool(adapter.dropout) + each * adapter.rank * len(layers)
    if kind.experts:
        inputs += size * kind.experts_used * 2 * kind.hidden  # tokens sorted by expert, and their outputs
    layer_input = size * 2 * kind.layer_embedding  # the gate of a layer's own embedding, before and after activation
    per_token = norms + attention + mlp + inputs + layer_input + FLOAT32 * kind.mixer_saved
    saved = batch.tokens * per_token + _expert_copies(kind, run)

    # The special cases of the module's docstring; without a gate the MLP may save less.
    if is_eager(kind, run.config) or (kind.attention_dropout and run.device == "cpu"):
        bytes_per_element = 3 * FLOAT32 if kind.attention_dropout else FLOAT32 + (size if size < FLOAT32 else 0)
        bytes_per_element = size if kind.sinks else bytes_per_element
        saved += _attention_elements(kind, batch) * bytes_per_element
        saved += batch.tokens * 2 * (kind.query - kind.key) * size
    if kind.attention_dropout:
        saved += batch.tokens * 2 * kind.hidden * size  # dropout masks after attention and MLP
    if not kind.gated and not kind.experts:
        saved += batch.tokens * kind.intermediate * size * (2 if kind.activation in COMPOSED_GELU else -1)
    if _has_dora(run):
        saved += batch.tokens * sum(linear.outputs for linear in layers) * (size + FLOAT32)
    if run.autocast:
        weights = sum(linear.weights for linear in kind.linears)
        saved += weights * BF16 + batch.tokens * (2 * kind.hidden * BF16 + (kind.query + kind.key) * 2 * FLOAT32)
    return saved


def _has_dora(run: PredictedRun) -> bool:
    return run.config.adapter.dora and not run.method.trains_weights


def _expert_copies(kind: Architecture, run: PredictedRun) -> int:
    """Bytes of the 16-bit copy of a running layer's experts: the sum of the weights and B A, which PEFT adds to them,
    or the dequantized weights; 0 if the experts are used as they are.
    """
    copied = adapts_experts(kind, run.config) or run.method.quantizes_base
    return run.size * kind.expert_weights if copied else 0


def running_layer(kind: Architecture, run: PredictedRun, batch: MicroBatchShape, training: bool) -> int:
    """Temporary bytes while a layer of this kind runs, backward if `training`, else forward without gradients."""
    running = _backward(kind, run, batch) if training else _forward(kind, run, batch)
    if is_eager(kind, run.config):
        matrix = _attention_elements(kind, batch)
        if not kind.sinks:  # forward the softmax and its input, backward a gradient of it, as saved tensors are freed
            running += matrix * FLOAT32 * (1 if training else 2)
        elif training:  # what the MLP saved is freed before attention runs backward
            mlp = batch.tokens * run.size * (3 * _mlp(kind) + kind.experts_used * 2 * kind.hidden)
            running = max(running, 2 * matrix * run.size - mlp - _expert_copies(kind, run))
        else:
            matrix *= run.size
            running = max(running + matrix, 3 * matrix + batch.tokens * kind.hidden * run.size)
    if _has_dora(run):
        largest = max((linear.weights for linear in adapted(kind, run.config)), default=0)
        running += 2 * batch.tokens * max(kind.intermediate, kind.hidden) * FLOAT32 + 3 * largest * FLOAT32
    return running


def _backward(kind: Architecture, run: PredictedRun, batch: MicroBatchShape) -> int:
    """While the largest linear layer runs backward: its gradients of size f; with DoRA also their float32 copies (a
    third one on the CPU, which converts before it adds, where PEFT's unquantized layer adds float32 to bf16); for QLoRA
    the dequantized weight; with adapters on experts their gradient; the accumulator of the largest product.
    """
    width = max(_mlp(kind), kind.hidden)
    work = batch.tokens * width * 3 * run.size + _dora_copies(kind, run, batch)
    if run.method.quantizes_base:
        work += kind.largest_linear * run.size
    if adapts_experts(kind, run.config):
        work += kind.expert_weights * run.size * 2 // 3  # the gradient of the sum of the larger tensor and its B A
    product = batch.tokens * (kind.expert_intermediate if kind.experts else max(kind.intermediate, kind.hidden))
    weight = kind.largest_linear if run.method.trains_weights else 0
    return work + run.accumulator * max(product, weight)


def _forward(kind: Architecture, run: PredictedRun, batch: MicroBatchShape) -> int:
    """While a layer runs without gradients: what mixes its tokens, if that is not attention, or the MLP. For the MLP
    the larger of two moments, each with four tensors of size d (the residual before and after attention, its norm, the
    output), and the copies of experts:

    - All tensors of size f exist: gate, factor and their product; without a gate two, or four in a GELU of elementary
      operations; with an adapter also its output (with DoRA float32 copies). With experts also, for each expert of a
      token, four or five of size d: inputs, outputs, and outputs weighted and in the tokens' order.
    - The last of them is computed: its accumulator, and for QLoRA the dequantized weight.
    """
    f, size = _mlp(kind), run.size
    adapter = not run.method.trains_weights and not run.config.adapter.dora
    earlier = (2 if kind.gated or kind.experts else 1) + adapter  # of size f, before the last one
    complete = (earlier + 1) * f
    if kind.experts:
        complete = max(complete, (4 + adapter) * kind.experts_used * kind.hidden)
    elif not kind.gated and kind.activation in COMPOSED_GELU:
        complete = max(complete, 4 * f)
    dequantized = kind.largest_linear * size * run.method.quantizes_base
    computing = batch.tokens * f * (earlier * size + run.accumulator) + dequantized
    residual = batch.tokens * 4 * kind.hidden * size + _expert_copies(kind, run)
    mlp = residual + max(batch.tokens * complete * size, computing)
    mixer = batch.tokens * (2 * kind.hidden * size + FLOAT32 * kind.mixer_running)
    return max(mlp, mixer) + _dora_copies(kind, run, batch)


def _dora_copies(kind: Architecture, run: PredictedRun, batch: MicroBatchShape) -> int:
    """Bytes of float32 copies of the largest linear layer's output with DoRA."""
    if not _has_dora(run) or run.size == FLOAT32:
        return 0
    copies = 3 if run.device == "cpu" and not run.method.quantizes_base else 2
    return batch.tokens * max(_mlp(kind), kind.hidden) * FLOAT32 * copies


def loss_bytes(run: PredictedRun, batch: MicroBatchShape, trained_head: bool = False) -> int:
    """The inputs of the head, or their gradients, and a chunk of logits with its float32 copy (its own memory in
    float32), or the accumulator of each while the head runs; if the head is trained, the gradient of its weight in
    float32 (`training.loss`).
    """
    shape, size = run.shape, run.logit
    head = shape.vocabulary * shape.hidden
    copied = size if size == FLOAT32 else size + FLOAT32
    rows = max(1, CHUNK_ELEMENTS[run.device] // shape.vocabulary)
    rows = rows // CHUNK_MULTIPLE[run.device] * CHUNK_MULTIPLE[run.device] or rows
    chunk = min(rows, batch.filled) * shape.vocabulary
    product = head * size if trained_head and size < FLOAT32 else 0
    gradients = batch.filled * shape.hidden * size + trained_head * head * FLOAT32
    return gradients + max(chunk * max(copied, size + run.accumulator), chunk * copied + product)


def mask_bytes(batch: MicroBatchShape, size: int) -> int:
    """Masks that separate packed rows: one boolean and one additive, T² elements each."""
    return batch.tokens**2 * (1 + size) if batch.masked else 0


def cast_head(run: PredictedRun) -> int:
    """The bf16 copy of the LM head's weight in mixed precision."""
    return run.shape.vocabulary * run.shape.hidden * BF16 if run.autocast else 0


def _attention_elements(kind: Architecture, batch: MicroBatchShape) -> int:
    """Elements of the attention matrices of all heads: T² per head if packed, L² per head and row if padded."""
    area = batch.tokens**2 if batch.packing != "padded" else batch.tokens**2 // max(1, batch.rows)
    return kind.heads * area


def is_eager(shape: Architecture, config: schema.Config) -> bool:
    """Whether transformers computes attention with elementary operations, as it does where torch has no kernel."""
    return config.model.attention == "eager" or (
        not shape.fused_attention and config.model.attention in ("auto", "sdpa")
    )


def generates_answers(config: schema.Config) -> bool:
    """Whether the evaluation generates or chooses answers."""
    return metric_spec(config.evaluation.metric).needs_answers and config.evaluation.when != "never"


def _kv_cache(run: PredictedRun, rows: int, columns: int) -> int:
    """KV cache: 2 k elements per token and layer. States of layers without attention do not grow with the tokens."""
    elements = sum(kind.layers * 2 * kind.key for kind in run.shape.groups() if kind.own_keys)
    return elements * rows * columns * run.size


def _pass(rows: int, tokens: int) -> MicroBatchShape:
    return MicroBatchShape("padded", rows, rows * tokens, rows, False)


def generation_moments(run: PredictedRun, rows: StepShape) -> list[tuple[int, MicroBatchShape]]:
    """(bytes of caches and logits, the batch that runs at the same time) for each moment of generation."""
    shape, device, evaluation = run.shape, run.device, run.config.evaluation
    batch, length = answers_together(evaluation.batch, device), rows.prompted
    if metric_spec(evaluation.metric).picks_from_choices:
        # The keys and values of prompts are copied for the choices of one layer at a time.
        kept = _kv_cache(run, batch, length)
        choices = max(1, min(MAX_CHOICES_PER_PROMPT * batch, MAX_CHOICE_TOKENS // max(1, rows.answer)))
        copied = 2 * 2 * shape.key * choices * (length + rows.answer) * run.size
        scores = 2 * batch * shape.vocabulary * 4
        logits = choices * rows.answer * shape.vocabulary * (run.size + run.accumulator) + scores
        return [(kept, _pass(batch, length)), (kept + max(copied, logits), _pass(choices, rows.answer))]
    return _by_generate(run, rows)


def _by_generate(run: PredictedRun, rows: StepShape) -> list[tuple[int, MicroBatchShape]]:
    """The moments of `generate`: prompts are read, the last of their tokens is predicted, a layer's keys or values are
    copied to append the last token, and that is predicted.
    """
    shape, size, new = run.shape, run.size, run.config.evaluation.max_new_tokens
    batch, length = answers_together(run.config.evaluation.batch, run.device), rows.prompted
    states = any(kind.mixer_running for kind in shape.groups())
    columns = length if states else prefill_columns(batch, length, run.device)
    read = batch * columns
    prompts, whole = (_kv_cache(run, batch, columns) for columns in (length, length + new - 1))
    tokens = 4 * 8 * batch * (length + new)  # 64-bit: tokens, mask, positions, and the copy of one of them
    group = shape.heads // max(1, shape.kv_heads)
    masks = read * length  # boolean; in attention an additive one for each query head of a group
    attention = masks * (1 + group * (1 + size)) + read * (shape.hidden + 2 * shape.query) * size
    logits = batch * shape.vocabulary * (size + FLOAT32 + run.accumulator)
    appended = batch * (length + new) * max(kind.key for kind in shape.groups()) * size
    if is_eager(shape, run.config):  # scores of the columns in the cache, and keys and values for every query head
        score = 3 * size if shape.sinks else 2 * FLOAT32
        masks += shape.heads * read * (length - columns) * score + 2 * batch * length * shape.query * size
        appended += batch * (length + new) * (shape.heads * score + 2 * shape.query * size)
    return [
        (prompts + masks + tokens, _pass(batch, columns)),
        (prompts + attention + tokens, _pass(0, 0)),
        (prompts + logits + tokens, _pass(0, 0)),
        (whole + appended + tokens, _pass(batch, 1)),
        (whole + logits + tokens, _pass(0, 0)),
    ]
