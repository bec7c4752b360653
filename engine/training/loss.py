"""The loss on answer tokens: the LM head runs only at positions that predict a token in the loss.

Most tokens of instruction data belong to prompts. `logits_to_keep`, an index tensor argument of transformers' causal
LMs, skips LM head and softmax there without changing the loss.

The loss of a batch is the weighted mean sum(weight * nll) / sum(weight) over all its tokens in the loss, independent of
its micro-batches; without weights it is the mean over answer tokens.

LM head and cross entropy run in chunks of positions: the logits of a micro-batch are never in memory at once. Each
chunk runs the head, the softmax and the gradients of hidden states and weights before the next one starts: with a
frozen head the same products as a whole pass (Liger Kernel, arXiv:2410.10989). In float32 torch's
`linear_cross_entropy` takes the same time and memory with chunks of the same size, two to five times the time with its
own (tools/RESULTS.md), and has no soft-capping. Liger itself is not used where it is installed: its kernels are
compiled by Triton for a GPU and replace functions of transformers' modules, and nothing of them could be checked.
"""

from __future__ import annotations

import functools
import inspect
import itertools
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch._subclasses.fake_tensor import FakeTensor

from engine.config.device_defaults import CHUNK_ELEMENTS, CHUNK_MULTIPLE, SHAPE_MULTIPLE
from engine.methods.adapters import unwrap_peft
from engine.methods.machine import is_out_of_memory, kernel_device
from engine.training.batches import MicroBatch
from engine.training.segments import Segments

SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of models that scale their logits: Cohere and Falcon-H1 multiply by theirs, HyperCLOVA X multiplies by
`logits_scaling`, and Granite divides by it."""
SOFT_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Settings with which models cap their logits: Gemma and others, RecurrentGemma, xLSTM."""
_heads: WeakKeyDictionary[torch.nn.Module, tuple[Any, Head | None]] = WeakKeyDictionary()


def logit_chunks(rows: int, vocabulary: int, device: str = "cpu") -> list[slice]:
    """Slices of positions whose logits are computed at a time."""
    multiple = CHUNK_MULTIPLE[device]
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
class Scaling:
    """What a model does with the product of LM head and hidden state: x = product * multiplier / divisor, then
    cap * tanh(x / cap). Multiplier and divisor are two fields because bf16 rounds x * (1 / 6) unlike x / 6.

    Beam, Inkling 2 and xLSTM cap in float32, others in the data type of the product.
    """

    cap: float | None = None
    multiplier: float = 1.0
    divisor: float = 1.0
    float32_cap: bool = False

    @property
    def factor(self) -> float:
        return self.multiplier / self.divisor

    def apply(self, products: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(logits, derivative of the cap in float32 or None without a cap); overwrites the products."""
        if self.multiplier != 1:
            products.mul_(self.multiplier)
        if self.divisor != 1:
            products.div_(self.divisor)
        if self.cap is None:
            return products, None
        logits = products.float() if self.float32_cap else products
        logits.div_(self.cap).tanh_()
        slope = logits.float().square().neg_().add_(1)
        return logits.mul_(self.cap), slope


@dataclass(frozen=True)
class Head:
    """How a model computes its logits from the input of its LM head."""

    linear: torch.nn.Linear
    scaling: Scaling


def chunkable_head(model: torch.nn.Module) -> Head | None:
    """The model's head; None if its logits are computed in another way, so that chunks cannot compute them.

    Compared once per model, on two tokens. For fake tensors, which have no values, chunks are assumed unless the
    configuration truncates the logits.
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
    scalings = _possible_scalings(inner.config)
    if isinstance(linear.weight, FakeTensor) or linear.weight.device.type == "meta":
        vocabulary = getattr(_text_config(inner.config), "unpadded_vocab_size", None)  # the number of Inkling's logits
        return None if vocabulary and vocabulary < linear.out_features else Head(linear, scalings[-1])
    scaling = _scaling_of_logits(inner, linear, scalings)
    return None if scaling is None else Head(linear, scaling)


def _possible_scalings(config: Any) -> list[Scaling]:
    """No scaling, then multiplication and division by each setting of the model that scales logits in some
    architecture; all with the model's cap, first in the data type of the product, then in float32. All take the same
    memory.
    """
    text = _text_config(config)
    cap = next((value for name in SOFT_CAPS if (value := getattr(text, name, None))), None)
    values = [value for name in SCALES if isinstance(value := getattr(text, name, None), int | float) and value]
    scaled = [(Scaling(cap, multiplier=value), Scaling(cap, divisor=value)) for value in values]
    scalings = [Scaling(cap), *itertools.chain.from_iterable(scaled)]
    return scalings if cap is None else [*scalings, *(replace(scaling, float32_cap=True) for scaling in scalings)]


def _text_config(config: Any) -> Any:
    return config.get_text_config() if hasattr(config, "get_text_config") else config


@torch.no_grad()
def _scaling_of_logits(inner: Any, linear: torch.nn.Linear, scalings: list[Scaling]) -> Scaling | None:
    """The first scaling that gives the model's logits for two tokens, with autocast if the model's forward pass starts
    it; None if no scaling does, or if scalings with different factors do, as for a head of zeros.
    """
    inputs: list[tuple[torch.Tensor, torch.dtype | None]] = []
    handle = linear.register_forward_pre_hook(
        lambda module, given: inputs.append((given[0], _autocast_dtype(given[0])))
    )
    training = inner.training
    inner.eval()
    try:
        ids = torch.tensor([[1, 2]], device=linear.weight.device)
        logits = inner(input_ids=ids, use_cache=False).logits
    finally:
        handle.remove()
        inner.train(training)
    if len(inputs) != 1:
        return None
    hidden, dtype = inputs[0]
    if hidden.shape[:2] != logits.shape[:2]:
        return None
    with torch.autocast(hidden.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
        product = torch.nn.functional.linear(hidden.to(linear.weight.dtype), linear.weight, linear.bias)
    if product.shape != logits.shape:  # truncated logits
        return None
    matching = [
        scaling
        for scaling in scalings
        if torch.allclose(scaling.apply(product.clone())[0].float(), logits.float(), rtol=1e-5, atol=1e-6)
    ]
    return matching[0] if len({scaling.factor for scaling in matching}) == 1 else None


class ChunkedCrossEntropy(torch.autograd.Function):
    """Sum over K positions of weight * -log softmax(scaling(head(hidden)))[target] / divisor, and its gradients.

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
        scaling: Scaling = Scaling(),
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
            logits, slope = scaling.apply(torch.nn.functional.linear(part, cast, cast_bias))
            values, nll = _softmax(logits, wanted)
            del logits
            scales = nll.new_full((count,), 1 / divisor) if weights is None else weights[rows] / divisor
            total += (nll * scales).sum()
            if any(needed[:3]):
                # Probabilities become the gradients of the logits, in place: (p - onehot(target)) * scale * slope.
                values[:count].scatter_add_(1, wanted[:, None], values.new_full((count, 1), -1.0))
                values[:count] *= (scales * scaling.factor)[:, None]
                values[count:] = 0
                if slope is not None:
                    values *= slope
                of_logits = values.to(dtype)
                if gradient is not None:
                    gradient[rows] = of_logits @ cast
                if of_weight is not None and dtype == torch.float32:
                    of_weight.addmm_(of_logits.T, part)
                elif of_weight is not None and accumulates_in_float32(of_weight.device.type, dtype):
                    torch.addmm(of_weight, of_logits.T, part, torch.float32, out=of_weight)
                elif of_weight is not None:
                    of_weight += of_logits.T @ part
                if of_bias is not None:
                    of_bias += values.sum(0)
                del of_logits
            del values, slope  # before the next chunk
        ctx.gradients = [
            gradient,
            None if of_weight is None else of_weight.to(weight.dtype),
            None if of_bias is None or bias is None else of_bias.to(bias.dtype),
        ]
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        scaled = [
            None if gradient is None else gradient.mul_(gradients[0].to(gradient.dtype)) for gradient in ctx.gradients
        ]
        ctx.gradients = None
        return (*scaled, None, None, None, None, None)


@functools.cache
def accumulates_in_float32(device: str, dtype: torch.dtype) -> bool:
    """Whether torch adds a product of half precision to float32 in one kernel there: it does not round the product to
    `dtype`, nor allocate it, which is as large as the head's weight. Tried once on integers, whose sum is exact.
    """
    if device != "cuda":  # torch has no such kernel for CPUs, and a fake tensor's device may be another one's
        return False
    ones = torch.full((128, 128), 1.0, device=device)
    halves = torch.full((128, 128), 3.0, device=device, dtype=dtype)
    try:
        torch.addmm(ones, halves.T, halves, torch.float32, out=ones)
    except (RuntimeError, TypeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # this torch or this GPU has no such kernel
    return bool((ones == 1 + 9 * 128).all())


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
    nll = hidden.new_empty(len(targets), dtype=torch.float32)
    cast, bias = head.linear.weight.to(dtype), None if head.linear.bias is None else head.linear.bias.to(dtype)
    for rows in logit_chunks(len(hidden), len(cast), kernel_device(hidden)):
        wanted = targets[rows]
        if len(wanted):
            logits = head.scaling.apply(torch.nn.functional.linear(hidden[rows].to(dtype), cast, bias))[0]
            nll[rows] = _softmax(logits, wanted)[1]
            del logits  # before the next chunk
    return nll


class SummedCrossEntropy(torch.autograd.Function):
    """For heads that chunks cannot compute (an adapter on it, an unknown scaling): their logits are computed at once.

    Sum over K rows of weight * -log softmax(logits)[target] in float32, without a float32 copy of the logits.

    logits (K, V) of any float dtype, targets (K,), weights (K,) in float32 or None for 1. The backward pass recomputes
    the softmax in chunks, so that the only other allocation is the gradient of the logits in their dtype.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        if len(logits) != len(targets):  # otherwise it would train on a part of the rows, with a normal-looking loss
            raise ValueError(f"{len(logits)} rows of logits for {len(targets)} targets")
        normalizer = logits.new_empty(len(logits), dtype=torch.float32)
        total = logits.new_zeros((), dtype=torch.float32)
        for rows in logit_chunks(len(logits), logits.shape[1], kernel_device(logits)):
            part = logits[rows].float()
            normalizer[rows] = part.logsumexp(-1)
            chosen = part.gather(1, targets[rows, None])[:, 0]
            nll = normalizer[rows] - chosen
            total += nll.sum() if weights is None else (weights[rows] * nll).sum()
        ctx.save_for_backward(logits, targets, normalizer, weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, targets, normalizer, weights = ctx.saved_tensors
        (scale,) = gradients
        gradient = torch.empty_like(logits)
        for rows in logit_chunks(len(logits), logits.shape[1], kernel_device(logits)):
            part = (logits[rows].float() - normalizer[rows, None]).exp_()
            part.scatter_add_(1, targets[rows, None], part.new_full((len(part), 1), -1.0))
            gradient[rows] = part.mul_(scale if weights is None else scale * weights[rows, None])
        return gradient, None, None


NO_SEGMENTS = Segments((), reached=True)
"""Placeholder for a batch without shared segments."""


def supports_logits_to_keep(model: torch.nn.Module) -> bool:
    """Whether the model's forward supports `logits_to_keep`; if not, its LM head runs at every position."""
    return "logits_to_keep" in inspect.signature(unwrap_peft(model).forward).parameters


def answer_logits(model: torch.nn.Module, batch: MicroBatch, answers_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (K, V) and targets (K,) of the K predictions of a micro-batch that are in the loss."""
    logits = _kept(batch, _run(model, batch, answers_only))
    targets = batch.kept_targets()
    return logits[: len(targets)], targets


def _run(model: torch.nn.Module, batch: MicroBatch, answers_only: bool) -> torch.Tensor:
    """The model's logits, (B, columns padded to a multiple of SHAPE_MULTIPLE, V)."""
    columns = batch.columns
    padding = columns[:1].expand(-len(columns) % SHAPE_MULTIPLE[columns.device.type])
    arguments = {"logits_to_keep": torch.cat([columns, padding])} if answers_only else {}
    logits: torch.Tensor = model(**batch.model_inputs, **arguments, use_cache=False).logits
    if not batch.model_inputs.get("segments", NO_SEGMENTS).reached:  # its rows would attend to each other, unnoticed
        raise ValueError("the model does not pass segments on to its attention")
    return logits if answers_only else logits[:, columns]


def _kept(batch: MicroBatch, values: torch.Tensor) -> torch.Tensor:
    """(B, columns, …) -> (K or more, …): the positions in the loss, then positions that pad the shape."""
    if batch.kept is None:  # one sequence: every column predicts a token in the loss
        return values[0]
    padding = batch.kept[:1].expand(-len(batch.kept) % SHAPE_MULTIPLE[batch.kept.device.type])
    return values[:, : len(batch.columns)].flatten(0, 1).index_select(0, torch.cat([batch.kept, padding]))


def answer_hidden(
    model: torch.nn.Module, batch: MicroBatch, answers_only: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.dtype]:
    """Inputs of the LM head (K or more, d), targets (K,), and the data type in which the head computes.

    Positions after the first K pad the shape.
    """
    with HeadInput(model) as recorded:
        _run(model, batch, answers_only)
    hidden = recorded.hidden
    assert hidden is not None
    return _kept(batch, hidden if answers_only else hidden[:, batch.columns]), batch.kept_targets(), recorded.dtype


def answer_weights(batch: MicroBatch) -> torch.Tensor | None:
    """Loss weights (K,) in the order of `answer_logits`; None if all are 1."""
    if batch.weights is None:
        return None
    return batch.weights[0] if batch.kept is None else batch.weights.flatten().index_select(0, batch.kept)


def summed_loss(model: torch.nn.Module, batch: MicroBatch, answers_only: bool, divisor: float = 1.0) -> torch.Tensor:
    """Sum of weight * negative log-likelihood over the tokens in the loss of a micro-batch, in nats, over `divisor`."""
    weights = answer_weights(batch)
    head = chunkable_head(model)
    if head is None:
        loss: torch.Tensor = SummedCrossEntropy.apply(*answer_logits(model, batch, answers_only), weights)
        return loss / divisor
    if not torch.is_grad_enabled():
        nll = answer_nll(model, batch, answers_only)
        return (nll if weights is None else nll * weights).sum() / divisor
    hidden, targets, dtype = answer_hidden(model, batch, answers_only)
    linear = head.linear
    chunked: torch.Tensor = ChunkedCrossEntropy.apply(
        hidden, linear.weight, linear.bias, targets, weights, divisor, dtype, head.scaling
    )
    return chunked


@torch.no_grad()
def answer_nll(model: torch.nn.Module, batch: MicroBatch, answers_only: bool) -> torch.Tensor:
    """Negative log-likelihood of each token in the loss, (K,) in float32 nats, in the order of `answer_logits`."""
    head = chunkable_head(model)
    if head is not None:
        hidden, targets, dtype = answer_hidden(model, batch, answers_only)
        return token_nll(hidden, head, targets, dtype)
    logits, targets = answer_logits(model, batch, answers_only)
    nll = torch.empty(len(targets), dtype=torch.float32, device=logits.device)
    for part in logit_chunks(len(logits), logits.shape[1], kernel_device(logits)):
        nll[part] = torch.nn.functional.cross_entropy(logits[part].float(), targets[part], reduction="none")
    return nll
