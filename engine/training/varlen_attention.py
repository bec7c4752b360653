"""Variable-length attention over the segments of a packed micro-batch, without a mask.

A packed sequence needs no T x T mask: each segment attends causally to itself, and all tokens of the rows that continue
a segment attend to all of it (`engine.training.segments`); or, in layers with a sliding window, to its part of that.

- CPU: one call of torch's flash attention kernel per group of segments of similar length, padded to a batch, and one
  per shared prefix: short calls leave the threads waiting for each other. Partial results are merged by
  their log-sum-exp as in FlashAttention (Dao et al. 2022, arXiv:2205.14135, section 3.1). The backward kernel takes the
  merged output and log-sum-exp, so that each call returns its exact share of the gradients. A sliding window that is
  shorter than a segment is a mask of that segment's size.
- CUDA, in half precision on Ampere and newer GPUs: one call of `torch.nn.attention.varlen.varlen_attn`, whose keys are
  those of the segment and of the segments it continues.
- Otherwise: SDPA with a boolean mask. On CUDA such a mask excludes the flash kernel, and grouped keys the
  memory-efficient one (`aten/src/ATen/native/transformers/cuda/sdp_utils.cpp`): `unsupported_reason` refuses segments
  there, because packs of tens of thousands of tokens would materialize their scores.

Layers with a state, such as linear attention, get complete rows as a batch, those with a common prefix including it.
Other parts of the model compute a common prefix once.
"""

from __future__ import annotations

import functools
import inspect
import sys
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface, modeling_utils
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from engine.config.model_config import BY_SEGMENTS, WINDOWS_BY_SEGMENTS, head_sizes, segment_kernel_missing
from engine.methods.adapters import unwrap_peft
from engine.methods.machine import Machine, kernel_device
from engine.training.segments import Segments

NAME = "varlen"
"""Name of the attention implementation in transformers' registry."""
_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def enable(model: torch.nn.Module) -> None:
    """Make a model accept `segments`, an argument of its forward pass. Without it attention is transformers' SDPA, and
    layers with a state read the whole sequence.
    """
    inner: Any = unwrap_peft(model)
    inner.set_attn_implementation(NAME)
    for layer in inner.modules():
        if has_state(layer) and not splits_rows(layer):
            layer.register_forward_pre_hook(_split_rows, with_kwargs=True)
            layer.register_forward_hook(_join_rows, with_kwargs=True)


def has_state(layer: torch.nn.Module) -> bool:
    """Whether it is a short convolution, linear attention or a state-space layer: most begin with a convolution."""
    convolves = any(isinstance(child, torch.nn.Conv1d) for child in layer.children())
    return convolves or type(layer).__name__.endswith("LightningAttention")


def splits_rows(layer: torch.nn.Module) -> bool:
    """Whether it contains a layer with a state that `enable` lets compute row by row."""
    return any(_split_rows in part._forward_pre_hooks.values() for part in layer.modules())


def _split_rows(layer: torch.nn.Module, inputs: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Give a layer with a state the rows of a packed sequence as a batch: what follows a row's end cannot reach it."""
    segments: Segments | None = options.get("segments")
    if segments is None:
        return None
    segments.reached = True
    rows, tokens = segments.rows, segments.tokens

    def split(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(split, value))
        of_tokens = isinstance(value, torch.Tensor) and value.shape[:2] == (1, tokens)
        return rows.split(value) if of_tokens else value

    return split(tuple(inputs)), {name: split(value) for name, value in options.items()}


def _join_rows(layer: torch.nn.Module, inputs: Any, options: dict[str, Any], output: Any) -> Any:
    """Put the rows that such a layer computed back into the packed sequence."""
    segments: Segments | None = options.get("segments")
    if segments is None:
        return None
    rows = segments.rows
    return (rows.join(output[0]), *output[1:]) if isinstance(output, tuple) else rows.join(output)


def unsupported_reason(model: torch.nn.Module, longest: int, machine: Machine, dtype: torch.dtype) -> str:
    """Why segments cannot replace this model's own attention for rows of up to `longest` tokens; "" if they can.

    `dtype`: in which attention computes (`compute_dtype`).
    """
    inner = unwrap_peft(model)
    config = inner.config.get_text_config()
    return unsupported_by(type(inner), config, config._attn_implementation, longest, machine, dtype)


def unsupported_by(
    architecture: type, config: Any, implementation: str, longest: int, machine: Machine, dtype: torch.dtype
) -> str:
    """`unsupported_reason` for a model class, its text configuration and its attention implementation."""
    kind = architecture.__name__
    if machine.device == "cuda" and (
        reason := segment_kernel_missing(machine.bf16, dtype.itemsize, head_sizes(config.to_dict()))
    ):
        return reason
    if not uses_common_attention(architecture) or not _takes_keywords(architecture):
        return f"{kind} does not use transformers' common attention functions"
    if getattr(config, "attn_logit_softcapping", None):
        return f"{kind} soft-caps its attention"
    if implementation not in ("sdpa", NAME):
        return f"{kind} uses {implementation} attention"
    layers = set(getattr(config, "layer_types", None) or [])
    other = sorted(layers - {"full_attention", "sliding_attention"})
    if other and config.model_type not in BY_SEGMENTS:
        return f"{kind} has layers of type {', '.join(other)}"
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in layers if layers else getattr(config, "use_sliding_window", True)
    if window and slides and window < longest and config.model_type not in WINDOWS_BY_SEGMENTS:
        return f"{kind} has a sliding window of {window} tokens, shorter than the longest row ({longest} tokens)"
    if any(getattr(config, name, 0) for name in ("attention_dropout", "attn_pdrop")):
        return f"{kind} uses attention dropout"
    return ""


def uses_common_attention(architecture: type) -> bool:
    """Whether a model class calls its attention by name from transformers' registry."""
    modules = [sys.modules[parent.__module__] for parent in architecture.__mro__]
    registry = next((table for module in modules if (table := getattr(module, "ALL_ATTENTION_FUNCTIONS", None))), None)
    return registry is modeling_utils.ALL_ATTENTION_FUNCTIONS


def accepts_keywords(model: torch.nn.Module) -> bool:
    """Whether the model passes further arguments of its forward pass on to its layers."""
    return _takes_keywords(type(unwrap_peft(model)))


def _takes_keywords(architecture: Any) -> bool:
    parameters = inspect.signature(architecture.forward).parameters.values()
    return any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)


def varlen_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    segments: Segments | None = None,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """query (1, H, T, D), key and value (1, G, T, D) -> (1, T, H, D), as in transformers.

    Without `segments` this is transformers' SDPA, whose mask has the sliding window.
    """
    if segments is None:
        options |= {"scaling": scaling, "dropout": dropout}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    segments.reached = True
    device = kernel_device(query)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    query, key = query.to(value.dtype), key.to(value.dtype)  # under autocast, rotary embeddings return float32
    one_size = query.shape[-1] == value.shape[-1]
    if dropout == 0.0 and one_size and device == "cpu":
        attended = SegmentAttention.apply(query, key, value, segments, scale, sliding_window)
    elif dropout == 0.0 and one_size and device == "cuda" and query.dtype.itemsize == 2:
        attended = _on_cuda(query, key, value, segments, scale, sliding_window)
    else:
        mask = segments.mask(query.device, sliding_window)
        if device == "cuda":  # the memory-efficient kernel takes masks, but no grouped keys
            key, value = (repeat_kv(tensor, query.shape[1] // tensor.shape[1]) for tensor in (key, value))
        attended = torch.nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scale, enable_gqa=device != "cuda"
        )
    return attended.transpose(1, 2).contiguous(), None


class SegmentAttention(torch.autograd.Function):
    """Attention over segments by torch's flash attention kernel for CPUs, which supports grouped queries."""

    @staticmethod
    def forward(
        ctx: Any,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        segments: Segments,
        scale: float,
        window: int | None,
    ) -> torch.Tensor:
        q, k, v = (tensor.to(_kernel_dtype(tensor)) for tensor in (query, key, value))
        output = torch.empty_like(q)
        normalizer = torch.empty_like(q[..., 0], dtype=torch.float32)  # log-sum-exp of each query's scores
        for group in segments.groups:
            inputs = [group.gather(tensor) for tensor in (q, k, v)]
            mask = _window_mask(inputs[0], window)
            attended, sums = _forward(*inputs, is_causal=mask is None, attn_mask=mask, scale=scale)
            group.store(attended, output)
            group.store(sums[..., None], normalizer[..., None])
        for own, others, allowed in segments.shared_keys(window):
            mask = _additive(allowed, q)
            part, part_normalizer = _forward(q[:, :, others], k[:, :, own], v[:, :, own], attn_mask=mask, scale=scale)
            merged = torch.logaddexp(normalizer[:, :, others], part_normalizer)
            share = (part_normalizer - merged).exp_()[..., None]
            output[:, :, others] = torch.lerp(output[:, :, others].float(), part.float(), share)
            normalizer[:, :, others] = merged
        output = output.to(query.dtype)
        ctx.save_for_backward(query, key, value, output, normalizer)
        ctx.segments, ctx.scale, ctx.window = segments, scale, window
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        *saved, normalizer = ctx.saved_tensors
        dtype = _kernel_dtype(saved[0])
        q, k, v, output, gradient = (tensor.to(dtype) for tensor in (*saved, gradients[0]))
        totals = tuple(torch.zeros_like(tensor) for tensor in (q, k, v))
        for group in ctx.segments.groups:
            inputs = [group.gather(tensor) for tensor in (q, k, v, output)]
            sums = group.gather(normalizer[..., None])[..., 0]
            mask = _window_mask(inputs[0], ctx.window)
            own_gradient = group.gather(gradient, padded_with_zeros=True)
            parts = _backward(own_gradient, *inputs, sums, 0.0, mask is None, attn_mask=mask, scale=ctx.scale)
            for total, part in zip(totals, parts, strict=True):
                group.store(part, total)
        for own, others, allowed in ctx.segments.shared_keys(ctx.window):
            parts = _backward(
                gradient[:, :, others], q[:, :, others], k[:, :, own], v[:, :, own], output[:, :, others],
                normalizer[:, :, others], 0.0, False, attn_mask=_additive(allowed, q), scale=ctx.scale,
            )  # fmt: skip
            for total, part, columns in zip(totals, parts, (others, own, own), strict=True):
                total[:, :, columns] += part
        of_query, of_key, of_value = (total.to(tensor.dtype) for total, tensor in zip(totals, saved, strict=False))
        return of_query, of_key, of_value, None, None, None


def _window_mask(query: torch.Tensor, window: int | None) -> torch.Tensor | None:
    """(1, 1, L, L) mask of causal attention within a sliding window for (B, H, L, D); None if the window has all."""
    length = query.shape[2]
    if window is None or window >= length:
        return None
    allowed = torch.ones((length, length), dtype=torch.bool).tril_().triu_(1 - window)
    return _additive(allowed, query)


def _additive(allowed: torch.Tensor | None, query: torch.Tensor) -> torch.Tensor | None:
    """(1, 1, Q, K): 0 where allowed (Q, K) and -inf elsewhere, as the CPU kernel takes masks."""
    if allowed is None:
        return None
    return torch.zeros(allowed.shape, dtype=query.dtype).masked_fill_(~allowed, -torch.inf)[None, None]


def _kernel_dtype(tensor: torch.Tensor) -> torch.dtype:
    """The data type in which the CPU kernel is fastest: bfloat16 only with AMX.

    Without AMX, forward and backward of eight rows of 28 tokens after a prefix of 26 take 9.5 ms in float32 and 21.7 ms
    in bfloat16, and of eight rows of 256 tokens 76 and 156 ms (Intel Xeon without AVX512-BF16, torch 2.13, one thread,
    `tools/RESULTS.md`).
    """
    return torch.float32 if tensor.dtype == torch.bfloat16 and not _has_amx() else tensor.dtype


@functools.cache
def _has_amx() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _on_cuda(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float, window: int | None
) -> torch.Tensor:
    """One variable-length call: the queries of a segment are the last ones of its keys, which causality aligns. Keys
    are in the order of their positions, so that the kernel's window is that of the rows.
    """
    keys = segments.gathered_keys(query.device)
    key, value = key[0].transpose(0, 1), value[0].transpose(0, 1)
    if keys.columns is not None:
        key, value = GatherRows.apply(key, keys.columns), GatherRows.apply(value, keys.columns)
    attended = varlen_attn(
        query[0].transpose(0, 1),
        key,
        value,
        keys.query_ends,
        keys.key_ends,
        keys.longest_query,
        keys.longest_key,
        scale=scale,
        window_size=(window - 1 if window else -1, 0),
        enable_gqa=True,
    )
    return attended.transpose(0, 1)[None]


class GatherRows(torch.autograd.Function):
    """`index_select` of rows that may be selected many times, whose gradients are summed in float32.

    That of torch adds them with atomics in their own type: emulated for bf16, 1.0% of the gradient is lost with 64 rows
    and 3.7% with 1,024, against 0.17% by rounding once. The order of the sums is fixed under deterministic algorithms.
    """

    @staticmethod
    def forward(ctx: Any, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """rows (T, …), columns (K,) -> (K, …)."""
        ctx.save_for_backward(columns)
        ctx.shape = rows.shape
        return rows.index_select(0, columns)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,), (columns,) = gradients, ctx.saved_tensors
        total = gradient.new_zeros(ctx.shape, dtype=torch.float32).index_add_(0, columns, gradient.float())
        return total.to(gradient.dtype), None


AttentionInterface.register(NAME, varlen_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
