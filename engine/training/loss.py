"""The loss on answer tokens: the LM head runs only at positions that predict a token in the loss.

Most tokens of instruction data belong to prompts. `logits_to_keep`, an index tensor argument of transformers' causal
LMs, skips LM head and softmax there without changing the loss.

The loss of a batch is the weighted mean sum(weight * nll) / sum(weight) over all its tokens in the loss, independent of
its micro-batches; without weights it is the mean over answer tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.batch_limits import CHUNK_ELEMENTS, SHAPE_MULTIPLE
from engine.data.tokens import Row
from engine.methods.adapters import without_adapters
from engine.training.collation import IGNORED, MicroBatch, Packing, collate
from engine.training.segments import Segments


def logit_chunks(rows: int, vocabulary: int) -> list[slice]:
    """Slices of the rows of logits that are converted to float32 at a time."""
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, start + step) for start in range(0, rows, step)]


class SummedCrossEntropy(torch.autograd.Function):
    """Sum over K rows of weight * -log softmax(logits)[target] in float32, without a float32 copy of the logits.

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
        for rows in logit_chunks(*logits.shape):
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
        for rows in logit_chunks(*logits.shape):
            part = (logits[rows].float() - normalizer[rows, None]).exp_()
            part.scatter_add_(1, targets[rows, None], part.new_full((len(part), 1), -1.0))
            gradient[rows] = part.mul_(scale if weights is None else scale * weights[rows, None])
        return gradient, None, None


REACHED = Segments((), reached=True)
"""In place of segments that a batch does not have."""


def supports_logits_to_keep(model: torch.nn.Module) -> bool:
    """Whether the model's forward supports `logits_to_keep`; if not, its LM head runs at every position."""
    return "logits_to_keep" in inspect.signature(without_adapters(model).forward).parameters


def answer_logits(model: torch.nn.Module, batch: MicroBatch, answers_only: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (K, V) and targets (K,) of the K predictions of a micro-batch that are in the loss."""
    columns, targets = batch.columns, batch.targets
    padding = columns[:1].expand(-len(columns) % SHAPE_MULTIPLE[columns.device.type])
    arguments = {"logits_to_keep": torch.cat([columns, padding])} if answers_only else {}
    logits = model(**batch.model_inputs, **arguments, use_cache=False).logits  # (B, padded columns or L, V)
    if not batch.model_inputs.get("segments", REACHED).reached:  # its rows would attend to each other, unnoticed
        raise ValueError("the model does not pass segments on to its attention")
    logits = logits[:, : len(columns)] if answers_only else logits[:, columns]
    if len(targets) == 1:  # every column predicts a token in the loss
        return logits[0], targets[0]
    in_loss = targets != IGNORED
    return logits[in_loss], targets[in_loss]


def answer_weights(batch: MicroBatch) -> torch.Tensor | None:
    """Loss weights (K,) in the order of `answer_logits`; None if all are 1."""
    return None if batch.weights is None else batch.weights[batch.targets != IGNORED]


def summed_loss(model: torch.nn.Module, batch: MicroBatch, answers_only: bool) -> torch.Tensor:
    """Sum of weight * negative log-likelihood over the tokens in the loss of a micro-batch, in nats."""
    return SummedCrossEntropy.apply(*answer_logits(model, batch, answers_only), answer_weights(batch))


@dataclass(frozen=True)
class Agreement:
    """The loss of a few rows in one sequence, and one by one."""

    packed: float
    single: float

    @property
    def same(self) -> bool:
        """Whether the difference is within bf16 rounding; attention across rows differs by far more."""
        return abs(self.packed - self.single) <= 0.02 * abs(self.single) + 1e-3


SINGLE = Packing("padded", 1)


@torch.no_grad()
def packing_agreement(
    model: torch.nn.Module, rows: list[Row], packing: Packing, pad: int, device: str, answers_only: bool
) -> Agreement:
    """Compare losses of rows in one sequence and alone: not every architecture keeps packed rows separate."""
    was_training = model.training
    model.eval()

    def loss(rows: list[Row], packing: Packing) -> float:
        return float(summed_loss(model, collate(rows, packing, pad, device), answers_only))

    try:
        return Agreement(loss(rows, packing), sum(loss([row], SINGLE) for row in rows))
    finally:
        model.train(was_training)
