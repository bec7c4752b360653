"""The loss on answer tokens: the LM head runs only at positions that predict a token in the loss.

Most tokens of instruction data belong to prompts. `logits_to_keep`, an index tensor argument of transformers' causal
LMs, skips LM head and softmax there without changing the loss. `chunked_loss` computes both for a part of the positions
at a time.

The loss of a batch is the weighted mean sum(weight * nll) / sum(weight) over all its tokens in the loss, independent of
its micro-batches; without weights it is the mean over answer tokens.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch

from engine.config.batch_limits import SHAPE_MULTIPLE
from engine.methods.adapters import unwrap_peft
from engine.training.chunked_loss import (
    ChunkedCrossEntropy,
    HeadInput,
    chunkable_head,
    logit_chunks,
    token_nll,
)
from engine.training.collation import MicroBatch
from engine.training.kernel_device import kernel_device
from engine.training.segments import Segments


class SummedCrossEntropy(torch.autograd.Function):
    """For models that change their logits after the head, whose logits are computed at once.

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


REACHED = Segments((), reached=True)
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
    if not batch.model_inputs.get("segments", REACHED).reached:  # its rows would attend to each other, unnoticed
        raise ValueError("the model does not pass segments on to its attention")
    return logits if answers_only else logits[:, columns]


def _kept(batch: MicroBatch, values: torch.Tensor) -> torch.Tensor:
    """(B, columns, …) -> (K or more, …): the positions in the loss, then positions that pad a packed batch."""
    if batch.kept is None:  # one sequence: every column predicts a token in the loss
        return values[0]
    return values[:, : len(batch.columns)].flatten(0, 1).index_select(0, batch.kept)


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
        hidden, linear.weight, linear.bias, targets, weights, divisor, dtype, head.cap
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
