"""Decoding = transformers' `generate`: the same tokens, greedily.

Both compute the same products in other shapes, which round differently. Where they choose different tokens, the check
passes only if the model holds both tokens equally likely within rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.config.quantities import decimal
from engine.config.text import amount
from engine.data.rows import Row
from engine.runs.training_report import DECODING, TrainingCheck
from engine.worker.training_checks.training_session import TrainingSession

ANSWERS = 8
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
    """Generate ANSWERS answers with the evaluation's decoder and with transformers."""
    model, rows = session.model.eval(), list(session.subject.prompts)[:ANSWERS]
    ends = session.subject.ends(model)
    generator = session.generator(ends)
    ours = generator.answer_tokens(model, rows)
    theirs = generator.library_answer_tokens(model, rows)
    found = divergences(rows, ours, theirs, ends)
    gaps = [logit_gap(model, one, session.machine.device, session.dtype) for one in found]
    return judge_decoding(sum(map(len, ours)), len(rows), gaps)


def judge_decoding(tokens: int, answers: int, gaps: Sequence[float]) -> TrainingCheck:
    """`gaps`: for each answer that differs, the difference of the two logits in rounding steps."""
    text = f"{answers} answers, {tokens} tokens: "
    different = [gap for gap in gaps if not gap <= TIE_STEPS]
    if different:
        worst = decimal(max(different), 1)
        text += f"{len(different)} differ from transformers' generate, logits by up to {worst} rounding steps"
        return TrainingCheck(name=DECODING, state="failed", text=text)
    text += "the same as transformers' generate"
    if gaps:
        text += f", except after {amount(len(gaps), 'tie')} of two tokens within rounding"
    return TrainingCheck(name=DECODING, state="ok", text=text)


def divergences(
    rows: Sequence[Row], ours: Sequence[list[int]], theirs: Sequence[list[int]], ends: frozenset[int]
) -> list[Divergence]:
    """The answers that differ, each with its first difference."""
    found = []
    for row, mine, other in zip(rows, ours, theirs, strict=True):
        if mine == other:
            continue
        same = next(
            (n for n, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        next_tokens = [answer[same : same + 1] or sorted(ends) for answer in (mine, other)]
        found.append(Divergence([*row.prompt, *mine[:same]], *next_tokens))
    return found


@torch.inference_mode()
def logit_gap(model: torch.nn.Module, found: Divergence, device: str, dtype: torch.dtype) -> float:
    """Difference of the two tokens' logits, in rounding steps of the largest logit."""
    ids = torch.tensor([found.context], device=device)
    logits = model(input_ids=ids, use_cache=False).logits[0, -1].float()
    step = torch.finfo(dtype).eps * float(logits.abs().max())
    ours, theirs = (logits[tokens].max() for tokens in (found.ours, found.theirs))
    return float((ours - theirs).abs()) / step
