"""LM head and cross entropy in chunks: the logits of a micro-batch are never in memory at once.

Each chunk of positions runs the head, the softmax and the gradients of hidden states and weights before the next one
starts: with a frozen head the same products as a whole pass (Liger Kernel, arXiv:2410.10989; torch's
`linear_cross_entropy` does the same without loss weights).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch._subclasses.fake_tensor import FakeTensor

from engine.config.batch_limits import CHUNK_ELEMENTS, SHAPE_MULTIPLE
from engine.methods.adapters import unwrap_peft
from engine.training.kernel_device import kernel_device

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of models that scale their logits after the head (Cohere, Granite, Falcon-H1)."""
_heads: WeakKeyDictionary[torch.nn.Module, tuple[Any, Head | None]] = WeakKeyDictionary()


def logit_chunks(rows: int, vocabulary: int, device: str = "cpu") -> list[slice]:
    """Slices of positions whose logits are computed at a time."""
    multiple = SHAPE_MULTIPLE[device]
    step = max(1, CHUNK_ELEMENTS[device] // vocabulary)
    step = step // multiple * multiple or step
    return [slice(start, start + step) for start in range(0, rows, step)]


class HeadInput:
    """Context in which the LM head records its input instead of multiplying it by its weight."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.head = output_head(model)
        self.hidden: torch.Tensor | None = None
        self.dtype = torch.float32

    def __enter__(self) -> HeadInput:
        self._own = vars(self.head).get("forward")  # accelerate's hooks replace it on the module itself
        self.head.forward = self._record
        return self

    def __exit__(self, *error: object) -> None:
        if self._own is None:
            del self.head.forward
        else:
            self.head.forward = self._own

    def _record(self, hidden: torch.Tensor) -> torch.Tensor:
        self.hidden = hidden
        self.dtype = _autocast_dtype(hidden) or hidden.dtype
        return hidden.detach()[..., :1]


def _autocast_dtype(tensor: torch.Tensor) -> torch.dtype | None:
    """The data type in which autocast computes products now; None without autocast."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def output_head(model: torch.nn.Module) -> Any:
    """The LM head of a causal LM, with or without adapters."""
    return unwrap_peft(model).get_output_embeddings()


@dataclass(frozen=True)
class Head:
    """How a model computes its logits from the input of its LM head: cap * tanh(product / cap), or the product."""

    linear: torch.nn.Linear
    cap: float | None

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """(…, d) -> (…, V)."""
        product = torch.nn.functional.linear(hidden.to(self.linear.weight.dtype), self.linear.weight, self.linear.bias)
        return product if self.cap is None else (product / self.cap).tanh() * self.cap


def chunkable_head(model: torch.nn.Module) -> Head | None:
    """The model's head; None if its logits are computed in another way, so that chunks cannot compute them.

    Compared once per model, on two tokens; for fake tensors, which have no values, only its configuration decides.
    """
    inner = unwrap_peft(model)
    module = output_head(model) if hasattr(inner, "get_output_embeddings") else None
    known = _heads.get(inner)
    if known is None or known[0] is not module:  # adapters may have replaced the head since
        known = _heads[inner] = module, _recognized(inner, module)
    return known[1]


def _recognized(inner: Any, linear: Any) -> Head | None:
    if type(linear) is not torch.nn.Linear:  # an adapter or quantization changes the product
        return None
    config = inner.config.get_text_config() if hasattr(inner.config, "get_text_config") else inner.config
    if any(getattr(config, name, None) not in (None, 0, 1, 1.0) for name in SCALES):
        return None
    head = Head(linear, getattr(config, "final_logit_softcapping", None) or None)
    has_values = not isinstance(linear.weight, FakeTensor) and linear.weight.device.type != "meta"
    return head if not has_values or _computes(inner, head) else None


@torch.no_grad()
def _computes(inner: Any, head: Head) -> bool:
    """Whether `head` gives the model's logits for two tokens, with autocast if the model's forward pass starts it."""
    inputs: list[tuple[torch.Tensor, torch.dtype | None]] = []
    handle = head.linear.register_forward_pre_hook(
        lambda module, given: inputs.append((given[0], _autocast_dtype(given[0])))
    )
    training = inner.training
    inner.eval()
    try:
        ids = torch.tensor([[1, 2]], device=head.linear.weight.device)
        logits = inner(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
        inner.train(training)
    if len(inputs) != 1:
        return False
    hidden, dtype = inputs[0]
    if hidden.shape[:2] != logits.shape[:2]:
        return False
    with torch.autocast(hidden.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        product = head.logits(hidden)
    return torch.allclose(product.float(), logits.float(), rtol=1e-5, atol=1e-6)


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over K positions of weight * -log softmax(head(hidden))[target] / divisor, and its gradients.

    hidden (K, d); weight (V, d) and bias (V,) or None of the head; targets (K',) and weights (K',) in float32 or None
    for 1, with K' <= K: further positions pad the shape and are not in the loss. Products are computed in `dtype`, the
    softmax in float32. The gradient of the weight is summed in float32.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        weights: torch.Tensor | None,
        divisor: float,
        dtype: torch.dtype,
        cap: float | None = None,
    ) -> torch.Tensor:
        if len(targets) > len(hidden):  # otherwise it would train on a part of the rows, with a normal-looking loss
            raise ValueError(f"{len(hidden)} positions for {len(targets)} targets")
        needed = ctx.needs_input_grad
        total = hidden.new_zeros((), dtype=torch.float32)
        cast, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        gradient = torch.zeros_like(hidden) if needed[0] else None
        of_weight = torch.zeros_like(weight, dtype=torch.float32) if needed[1] else None
        of_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None and needed[2] else None
        for rows in logit_chunks(len(hidden), len(weight), kernel_device(hidden)):
            part, wanted = hidden[rows].to(dtype), targets[rows]
            count = len(wanted)
            if not count:
                break
            logits = torch.nn.functional.linear(part, cast, cast_bias)
            slope = None if cap is None else _soft_cap(logits, cap)
            values, nll = _softmax(logits, wanted)
            del logits
            scales = nll.new_full((count,), 1 / divisor) if weights is None else weights[rows] / divisor
            total += (nll * scales).sum()
            if any(needed[:3]):
                _logit_gradients(values, wanted, scales, slope)
                _add_gradients(rows, values, part, cast, gradient, of_weight, of_bias)
            del values  # before the next chunk
        ctx.gradients = [
            gradient,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        ]
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [None if one is None else one.mul_(gradients[0].to(one.dtype)) for one in ctx.gradients]
        ctx.gradients = None
        return (*scaled, None, None, None, None, None)


def _logit_gradients(
    values: torch.Tensor, wanted: torch.Tensor, scales: torch.Tensor, slope: torch.Tensor | None
) -> None:
    """Turn probabilities (K, V) into the gradients of the logits, in place: (p - onehot(target)) * scale * slope."""
    count = len(wanted)
    values[:count].scatter_add_(1, wanted[:, None], values.new_full((count, 1), -1.0))
    values[:count] *= scales[:, None]
    values[count:] = 0
    if slope is not None:
        values *= slope


def _add_gradients(
    rows: slice,
    values: torch.Tensor,
    part: torch.Tensor,
    cast: torch.Tensor,
    of_hidden: torch.Tensor | None,
    of_weight: torch.Tensor | None,
    of_bias: torch.Tensor | None,
) -> None:
    """Add what a chunk contributes; `values` are the gradients of its logits in float32."""
    of_logits = values.to(cast.dtype)
    if of_hidden is not None:
        of_hidden[rows] = of_logits @ cast
    if of_weight is not None and cast.dtype == torch.float32:
        of_weight.addmm_(of_logits.T, part)
    elif of_weight is not None:
        of_weight += of_logits.T @ part
    if of_bias is not None:
        of_bias += values.sum(0)


def _soft_cap(logits: torch.Tensor, cap: float) -> torch.Tensor:
    """Replace logits by cap * tanh(logits / cap); returns the derivative, in float32."""
    logits.div_(cap).tanh_()
    slope = 1 - logits.float().square()
    logits.mul_(cap)
    return slope


def _softmax(logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(softmax in float32, which takes the memory of float32 logits, nll of the first rows, which have targets)."""
    values = logits.float()
    largest = values.amax(-1, keepdim=True)
    values -= largest
    chosen = values[: len(targets)].gather(1, targets[:, None])[:, 0]
    values.exp_()
    sums = values.sum(-1, keepdim=True)
    values /= sums
    return values, sums[: len(targets), 0].log() - chosen


@torch.no_grad()
def token_nll(hidden: torch.Tensor, head: Head, targets: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """-log softmax(head(hidden))[target] of each target, (K',) in float32, without gradients."""
    found = hidden.new_empty(len(targets), dtype=torch.float32)
    cast, bias = head.linear.weight.to(dtype), None if head.linear.bias is None else head.linear.bias.to(dtype)
    for rows in logit_chunks(len(hidden), len(cast), kernel_device(hidden)):
        wanted = targets[rows]
        if len(wanted):
            logits = torch.nn.functional.linear(hidden[rows].to(dtype), cast, bias)
            if head.cap is not None:
                _soft_cap(logits, head.cap)
            found[rows] = _softmax(logits, wanted)[1]
            del logits  # before the next chunk
    return found
