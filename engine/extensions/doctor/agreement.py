"""Checks that two computations agree: packed and padded rows, and decoding here and by transformers.

Of losses and gradients the tolerance is the rounding of two unpacked computations: the rows padded to a batch, and one
by one with plain attention, unless its scores are too large. Packed rows use another attention kernel than padded ones,
which in bf16 rounds differently, and by how much that changes gradients depends on the model. Attention of a row to
another row, a wrong position or a lost token changes them by far more.

Decoding computes the same products as `generate` in other shapes, which round differently. Where they choose different
tokens, the check passes only if the model holds both tokens equally likely within rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from engine.config.device_defaults import MAX_TOKENS
from engine.config.quantities import decimal, rate
from engine.config.text import amount
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.generate import Generator
from engine.evaluation.score import row_losses
from engine.extensions.doctor.training_report import DECODING, PACKED_LOSS, SHARED_PREFIX, TrainingCheck
from engine.extensions.doctor.training_session import TrainingSession
from engine.training.batches import Packing

NOISE_FACTOR = 2.0
"""Times the difference between the two unpacked computations that the difference to be checked may have.

Gradients on the embedded model (three seeds) and two earlier ones (six seeds), all methods (LoRA and full in float32),
on an AMD EPYC without AMX with one thread and torch 2.13 (`packed_rounding.py` at 12ed3fc): in bf16 that difference
was 0.7 to 10% of the norm for the earlier two, and packed rows differed from padded ones by 0.85 to 1.08 times as much,
with the faults below by 3.1 times as much or more. In float32 they differed by 2e-6 of the norm at most. The larger of
the differences of losses and of gradients, as a multiple of its limit:

| | bf16 | float32 |
|---|---|---|
| no fault | 0.18 to 0.56 | 0.00 to 0.02 |
| every row attends to all rows before it | at least 63 | at least 159,000 |
| the second row attends to the first | at least 14 | at least 29,000 |
| every row attends to the last token of the row before it | at least 1.8 | at least 4,300 |
| the second half of every row is one position late | at least 1.04 | at least 356 |

Two padded layouts with the same kernel differ by 0.2 to 0.5% only: a multiple of that is no measure of rounding.
"""
LOSS_FLOOR = {torch.bfloat16: 1e-2, torch.float32: 1e-5}
"""Nats/token that are always tolerated: without plain attention both unpacked computations use the same kernel."""
GRADIENT_FLOOR = {torch.bfloat16: 2e-2, torch.float32: 1e-4}
"""The same for the relative difference of gradients."""


@dataclass(frozen=True)
class Agreement:
    """A difference and the largest that is tolerated."""

    difference: float
    limit: float

    @property
    def holds(self) -> bool:
        return self.difference <= self.limit  # False for NaN


def losses_agree(
    packed: Sequence[float], padded: Sequence[float], alone: Sequence[float], dtype: torch.dtype
) -> Agreement:
    """Losses of the same rows in nats/token: packed, padded to a batch, and one by one."""
    noise = _largest(padded, alone)
    return Agreement(_largest(packed, padded), NOISE_FACTOR * noise + LOSS_FLOOR[dtype])


def _largest(first: Sequence[float], second: Sequence[float]) -> float:
    """The largest difference of two sequences; NaN if one of them contains NaN."""
    differences = [abs(a - b) for a, b in zip(first, second, strict=True)]
    return math.nan if any(map(math.isnan, differences)) else max(differences)


def gradients_agree(packed: torch.Tensor, padded: torch.Tensor, alone: torch.Tensor, dtype: torch.dtype) -> Agreement:
    """Gradients (parameters,) of the same rows; the difference is relative to the norm of `padded`."""
    norm = float(padded.norm())
    noise, difference = float((alone - padded).norm()), float((packed - padded).norm())
    if not norm:
        return Agreement(math.nan, 0.0)
    return Agreement(difference / norm, NOISE_FACTOR * noise / norm + GRADIENT_FLOOR[dtype])


ROWS = 16
PREFIX_TOKENS = 64
"""Tokens in front of all rows that are computed once."""
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
    return _compare(session, PACKED_LOSS, _first_rows(session), session.packing)


def check_shared_prefix(session: TrainingSession) -> TrainingCheck:
    """The same for rows with a common prefix, which is computed once."""
    if not session.packing.segments:
        text = f"prefixes are not shared with {type(session.model).__name__} on this device"
        return TrainingCheck(name=SHARED_PREFIX, state="skipped", text=text)
    rows = _first_rows(session)
    longest = max(rows, key=lambda row: len(row.input_ids))
    prefix = longest.input_ids[: min(PREFIX_TOKENS, len(longest.input_ids) // 2)]
    rows = [
        replace(
            row,
            input_ids=[*prefix, *row.input_ids],
            labels=[*[IGNORE_INDEX] * len(prefix), *row.labels],
            prompt=[*prefix, *row.prompt],
            weights=None if row.weights is None else [*[0.0] * len(prefix), *row.weights],
        )
        for row in rows
    ]
    return _compare(session, SHARED_PREFIX, rows, replace(session.packing, mode="shared_prefix"))


def _first_rows(session: TrainingSession) -> list[Row]:
    return [session.subject.rows[index] for index in session.sampler.indices(0)][:ROWS]


def _compare(session: TrainingSession, name: str, rows: list[Row], packing: Packing) -> TrainingCheck:
    """Compare losses and gradients of rows in one sequence with those of the rows padded, and one by one."""
    padded, alone = Packing("padded", MAX_TOKENS[session.machine.device]), Packing("padded", 1)
    first, second = (_losses(session, rows, packing) for packing in (packing, padded))
    longest = max(len(row.input_ids) for row in rows)
    with plain_attention(session.model, longest):
        third = _losses(session, rows, alone)
    losses = losses_agree(first, second, third, session.dtype)
    text = f"losses differ by at most {rate(losses.difference)} nats/token (limit {rate(losses.limit)})"
    holds = losses.holds
    if sum(weight.numel() for weight in session.model.parameters() if weight.requires_grad) <= MAX_GRADIENT:
        micro_batch = session.gradients.micro_batch
        of_packed, of_padded = (_gradient(session, rows, packing, micro_batch) for packing in (packing, padded))
        with plain_attention(session.model, longest):
            of_alone = _gradient(session, rows, alone, 1)
        gradients = gradients_agree(of_packed, of_padded, of_alone, session.dtype)
        difference, limit = rate(gradients.difference), rate(gradients.limit)
        text += f", gradients by {difference} of their norm (limit {limit})"
        holds = holds and gradients.holds
    return TrainingCheck(name=name, state="ok" if holds else "failed", text=text)


def plain_attention(model: Any, longest: int) -> AbstractContextManager[None]:
    """Context in which attention is matrix products and a softmax, if the scores of `longest` tokens fit MAX_SCORES.

    What it changes in the losses and gradients of unpacked rows is the rounding of the attention kernel.
    """
    config = model.config.get_text_config()
    scores = config.num_hidden_layers * config.num_attention_heads * longest**2 * torch.float32.itemsize
    return sdpa_kernel(SDPBackend.MATH) if scores <= MAX_SCORES else nullcontext()


def _losses(session: TrainingSession, rows: list[Row], packing: Packing) -> list[float]:
    """Loss of each row in nats/token."""
    losses = row_losses(session.model, rows, packing, session.subject.pad, session.machine.device)
    return [loss.nll / loss.weight for loss in losses]


def _gradient(session: TrainingSession, rows: list[Row], packing: Packing, micro_batch: int) -> torch.Tensor:
    """(trained parameters,) in float32: the gradient of the mean loss of the rows."""
    model: Any = session.model
    model.zero_grad(set_to_none=True)
    session.step(rows, packing, micro_batch)
    parts = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    gradient = torch.cat([part.detach().float().flatten() for part in parts])
    model.zero_grad(set_to_none=True)
    return gradient


ANSWERS = 8
NEW_TOKENS = 24
"""Maximum tokens of a generated answer."""
GENERATED = 16
"""Rows that are generated at a time."""
TIE_STEPS = 4.0
"""Rounding steps of the largest logit by which two tokens may differ to be a tie."""


@dataclass(frozen=True)
class Divergence:
    """The first different token of an answer."""

    context: list[int]
    """Prompt and common tokens."""
    ours: list[int]
    """The token that ours continues with, or all end tokens if it ended."""
    theirs: list[int]


def check_decoding(session: TrainingSession) -> TrainingCheck:
    """Generate ANSWERS answers in a batch as in evaluation, and to each prompt alone."""
    model, rows, subject = session.model.eval(), list(session.subject.prompts)[:ANSWERS], session.subject
    ends = subject.ends(model)
    tokenizer: Any = subject.tokenizer or SimpleNamespace(pad_token_id=subject.pad)
    generator = Generator(tokenizer, NEW_TOKENS, GENERATED, session.machine.device, ends, session.warn)
    ours = generator.answer_tokens(model, rows)
    theirs = generator.answer_tokens_alone(model, rows)
    places = divergences(rows, ours, theirs, ends)
    gaps = [logit_gap(model, place, session.machine.device, session.dtype) for place in places]
    return judge_decoding(sum(map(len, ours)), len(rows), gaps)


def judge_decoding(tokens: int, answers: int, gaps: Sequence[float]) -> TrainingCheck:
    """`gaps`: for each answer that differs, the difference of the two logits in rounding steps."""
    text = f"{answers} answers, {tokens} tokens: "
    different = [gap for gap in gaps if not gap <= TIE_STEPS]
    if different:
        worst = decimal(max(different), 1)
        text += f"{len(different)} differ from those to each prompt alone, logits by up to {worst} rounding steps"
        return TrainingCheck(name=DECODING, state="failed", text=text)
    text += "the same as those to each prompt alone"
    if gaps:
        text += f", except after {amount(len(gaps), 'tie')} of two tokens within rounding"
    return TrainingCheck(name=DECODING, state="ok", text=text)


def divergences(
    rows: Sequence[Row], ours: Sequence[list[int]], theirs: Sequence[list[int]], ends: frozenset[int]
) -> list[Divergence]:
    """The answers that differ, each with its first difference."""
    places = []
    for row, mine, other in zip(rows, ours, theirs, strict=True):
        if mine == other:
            continue
        same = next(
            (n for n, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        next_tokens = [answer[same : same + 1] or sorted(ends) for answer in (mine, other)]
        places.append(Divergence([*row.prompt, *mine[:same]], *next_tokens))
    return places


@torch.inference_mode()
def logit_gap(model: torch.nn.Module, divergence: Divergence, device: str, dtype: torch.dtype) -> float:
    """Difference of the two tokens' logits, in rounding steps of the largest logit."""
    ids = torch.tensor([divergence.context], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    step = torch.finfo(dtype).eps * float(logits.abs().max())
    ours, theirs = (logits[tokens].max() for tokens in (divergence.ours, divergence.theirs))
    return float((ours - theirs).abs()) / step
