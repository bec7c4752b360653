"""Packed = padded: losses and gradients of the same rows, packed into one sequence and padded to a batch."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.config.batch_limits import MAX_TOKENS
from engine.config.quantities import rate
from engine.data.rows import Row
from engine.evaluation.score import row_losses
from engine.runs.training_report import PACKED_LOSS, TrainingCheck
from engine.training.collation import Packing
from engine.worker.training_checks.agreement import gradients_agree, losses_agree
from engine.worker.training_checks.training_session import TrainingSession

ROWS = 16
MAX_GRADIENT = 1 << 27
"""Trained parameters above which gradients are not compared: three copies of them would be kept in memory."""
MAX_SCORES = 1 << 30
"""Bytes of the attention scores of a row in all layers, which plain attention keeps for the backward pass: 16 MiB for
512 tokens of the embedded model, 16 GiB for 2,048 of an 8B model. Longer rows are computed by the usual kernel."""


def check_packed_loss(session: TrainingSession) -> TrainingCheck:
    """Compare losses of up to ROWS rows, and their gradients if these are small, in the data type of the run."""
    if not session.packing.one_sequence:
        text = f"rows are padded with {type(session.model).__name__}"
        return TrainingCheck(name=PACKED_LOSS, state="skipped", text=text)
    rows = [session.subject.rows[index] for index in session.sampler.indices(0)][:ROWS]
    padded, alone = Packing("padded", MAX_TOKENS[session.machine.device]), Packing("padded", 1)
    first, second = (_losses(session, rows, packing) for packing in (session.packing, padded))
    longest = max(len(row.input_ids) for row in rows)
    with plain_attention(session.model, longest):
        third = _losses(session, rows, alone)
    losses = losses_agree(first, second, third, session.dtype)
    text = f"losses differ by at most {rate(losses.difference)} nats/token (limit {rate(losses.limit)})"
    holds = losses.holds
    if trained_parameters(session.model) <= MAX_GRADIENT:
        micro_batch = session.trainer.micro_batch
        of_packed, of_padded = (_gradient(session, rows, packing, micro_batch) for packing in (session.packing, padded))
        with plain_attention(session.model, longest):
            of_alone = _gradient(session, rows, alone, 1)
        gradients = gradients_agree(of_packed, of_padded, of_alone, session.dtype)
        difference, limit = rate(gradients.difference), rate(gradients.limit)
        text += f", gradients by {difference} of their norm (limit {limit})"
        holds = holds and gradients.holds
    return TrainingCheck(name=PACKED_LOSS, state="ok" if holds else "failed", text=text)


def plain_attention(model: Any, longest: int) -> AbstractContextManager[None]:
    """Context in which attention is matrix products and a softmax, if the scores of `longest` tokens fit MAX_SCORES.

    What it changes in the losses and gradients of unpacked rows is the rounding of the attention kernel.
    """
    config = model.config.get_text_config()
    scores = config.num_hidden_layers * config.num_attention_heads * longest**2 * torch.float32.itemsize
    return sdpa_kernel(SDPBackend.MATH) if scores <= MAX_SCORES else nullcontext()


def trained_parameters(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _losses(session: TrainingSession, rows: list[Row], packing: Packing) -> list[float]:
    """Loss of each row in nats/token."""
    found = row_losses(session.model, rows, packing, session.subject.pad, session.machine.device)
    return [loss.nll / loss.weight for loss in found]


def _gradient(session: TrainingSession, rows: list[Row], packing: Packing, micro_batch: int) -> torch.Tensor:
    """(trained parameters,) in float32: the gradient of the mean loss of the rows."""
    model: Any = session.model
    model.zero_grad(set_to_none=True)
    session.step(rows, packing, micro_batch)
    parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    gradient = torch.cat([part.detach().float().flatten() for part in parts])
    model.zero_grad(set_to_none=True)
    return gradient
