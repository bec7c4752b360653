"""The loss on answer tokens: the head runs only at positions that predict a token in the loss.

On instruction data most tokens are prompt. `logits_to_keep`, which transformers' causal models take as an index
tensor, skips the head and the softmax there; the sum of the remaining terms is the same number.

The loss of a batch is the weighted mean sum(weight * nll) / sum(weight) over all its tokens in the loss, whatever the
micro-batches it is cut into; without weights it is the mean over answer tokens.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch

from engine.config.batch_limits import CHUNK_ELEMENTS, SHAPE_MULTIPLE
from engine.data.tokens import Row
from engine.training.batches import IGNORED, MicroBatch, PackingMode, collate


def portions(rows: int, vocabulary: int) -> list[slice]:
    """Of rows of logits, those that are turned to float32 at a time."""
    step = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, start + step) for start in range(0, rows, step)]


class SummedCrossEntropy(torch.autograd.Function):
    """Sum over K rows of weight * -log softmax(logits)[target], in float32, without a float32 copy of the logits.

    logits (K, V) of any float type, targets (K,), weights (K,) in float32 or None for 1. The backward pass
    recomputes the softmax chunk by chunk, so that beside the logits only their gradient, in their own type, is held.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        if len(logits) != len(targets):  # or the rest would be trained on, and the loss look normal
            raise ValueError(f"{len(logits)} rows of logits for {len(targets)} targets")
        normaliser = logits.new_empty(len(logits), dtype=torch.float32)
        total = logits.new_zeros((), dtype=torch.float32)
        for rows in portions(*logits.shape):
            part = logits[rows].float()
            normaliser[rows] = part.logsumexp(-1)
            chosen = part.gather(1, targets[rows, None])[:, 0]
            nll = normaliser[rows] - chosen
            total += nll.sum() if weights is None else (weights[rows] * nll).sum()
        ctx.save_for_backward(logits, targets, normaliser, weights)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        logits, targets, normaliser, weights = ctx.saved_tensors
        (scale,) = gradients
        gradient = torch.empty_like(logits)
        for rows in portions(*logits.shape):
            part = (logits[rows].float() - normaliser[rows, None]).exp_()
            part.scatter_add_(1, targets[rows, None], part.new_full((len(part), 1), -1.0))
            gradient[rows] = part.mul_(scale if weights is None else scale * weights[rows, None])
        return gradient, None, None


def keeps_logits(model: torch.nn.Module) -> bool:
    """Whether the model's forward takes `logits_to_keep`; if not, its head runs at every position."""
    inner = getattr(model, "get_base_model", lambda: model)()
    return "logits_to_keep" in inspect.signature(inner.forward).parameters


def answer_logits(model: torch.nn.Module, batch: MicroBatch, keep: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (K, V) and targets (K,) at the K positions of a pass that predict a token in the loss."""
    columns = batch.columns
    filling = columns[:1].expand(-len(columns) % SHAPE_MULTIPLE[columns.device.type])
    arguments = {"logits_to_keep": torch.cat([columns, filling])} if keep else {}
    logits = model(**batch.model_inputs, **arguments, use_cache=False).logits  # (B, filled columns or L, V)
    targets = batch.targets[:, columns]
    logits = logits[:, : len(columns)] if keep else logits[:, columns]
    trained = targets != IGNORED
    if trained.all():
        return logits.flatten(0, 1), targets.flatten()
    return logits[trained], targets[trained]


def answer_weights(batch: MicroBatch) -> torch.Tensor | None:
    """Loss weights (K,) of the tokens whose logits `answer_logits` gives, in its order; None where all are 1."""
    return None if batch.weights is None else batch.weights[batch.targets != IGNORED]


def summed_loss(model: torch.nn.Module, batch: MicroBatch, keep: bool) -> torch.Tensor:
    """Sum of weight * negative log-likelihood over the tokens in the loss of a pass, nats."""
    return SummedCrossEntropy.apply(*answer_logits(model, batch, keep), answer_weights(batch))


@dataclass(frozen=True)
class Agreement:
    """What a pass over two rows gave flattened and one by one."""

    flat: float
    single: float

    @property
    def same(self) -> bool:
        """Within what bf16 arithmetic explains; attention across rows is off by far more."""
        return abs(self.flat - self.single) <= 0.02 * abs(self.single) + 1e-3


@torch.no_grad()
def flattening_agreement(model: torch.nn.Module, rows: list[Row], pad: int, device: str, keep: bool) -> Agreement:
    """Whether this architecture keeps rows apart by their positions: tried, since not all do."""
    was_training = model.training
    model.eval()

    def loss(rows: list[Row], packing: PackingMode) -> float:
        return float(summed_loss(model, collate(rows, packing, pad, device), keep))

    try:
        return Agreement(loss(rows, "packed"), sum(loss([row], "padded") for row in rows))
    finally:
        model.train(was_training)
