"""Peak memory against the plan, and an out-of-memory error that halves the micro-batch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine.config.activation_checkpointing import describe_checkpointing
from engine.config.quantities import decimal, size
from engine.data.rows import Row
from engine.memory.dry_run.run_estimates import RunEstimates, as_measured
from engine.runs.training_report import OUT_OF_MEMORY, PEAK_MEMORY, TrainingCheck
from engine.training.guards import free_memory
from engine.worker.training_checks.agreement import LOSS_FLOOR
from engine.worker.training_checks.cpu_peak import peak_of_tensors
from engine.worker.training_checks.training_session import TrainingSession

NEEDS_GPU = "needs a GPU"
MAX_UNDER, MAX_OVER = 0.10, 0.30
"""Fractions by which the dry run may be below and above the measured peak: `tests/gpu` requires less of models with
random weights, and here other programs share the machine."""
SLACK = {"cuda": 256 << 20, "cpu": 4 << 20}
"""Bytes by which it may be off in any case, such as kernels' workspaces."""
MAX_TOKENS = 32768
"""Tokens of the step that runs out of memory."""
LIMIT = 0.75
"""Share of a step's working memory that is allowed: the whole micro-batch does not fit, half of it does."""


@dataclass(frozen=True)
class Peaks:
    """Peaks of training in bytes; None without a prediction."""

    measured: int
    probe: int | None
    dry_run: int | None
    formula: int | None
    changed: str = ""
    """What the memory probe changed because the plan did not fit; "" for nothing."""


def measured_peaks(session: TrainingSession) -> Peaks:
    """Measured and predicted peaks of a session.

    On a CPU the resident set of so small a model is mostly that of libraries and kernels' caches, so that the tensors
    of one more step are counted instead, and the probe, which reads the resident set, is left out.
    """
    found = predicted(session.estimates)
    dry_run, formula = found.get("dry run"), found.get("formula")
    if session.peak is None:
        return Peaks(peak_of_tensors(session), None, dry_run, formula)
    probed, planned = session.probed, session.estimates.micro_batch
    assert probed is not None
    changed = [] if session.trainer.micro_batch == planned else [f"micro-batch {session.trainer.micro_batch}"]
    if probed.checkpointing:
        changed.append(f"activation checkpointing of {describe_checkpointing(probed.checkpointing.setting)}")
    return Peaks(session.peak, probed.training, dry_run, formula, " and ".join(changed))


def predicted(estimates: RunEstimates) -> dict[str, int]:
    """Tier -> predicted peak of training in bytes."""
    return {estimate.tier: as_measured(estimate, estimate.training) for estimate in estimates.tiers}


def check_peak_memory(found: Peaks, device: str) -> TrainingCheck:
    """Compare the measured peak with the dry run, or with the formula if there is none."""
    planned = found.dry_run if found.dry_run is not None else found.formula
    text = f"measured peak {size(found.measured)}"
    if found.probe is not None:
        text += f" (memory probe {size(found.probe)})"
    if found.changed:
        text += f"; the plan did not fit: the memory probe chose {found.changed}"
        return TrainingCheck(name=PEAK_MEMORY, state="failed", text=text)
    if planned is None:
        return TrainingCheck(name=PEAK_MEMORY, state="failed", text=f"{text}; no prediction")
    named = (("dry run", found.dry_run), ("formula", found.formula))
    text += "; " + ", ".join(f"{tier} {_compared(value, found.measured)}" for tier, value in named if value is not None)
    under = found.measured - planned > MAX_UNDER * found.measured + SLACK[device]
    over = planned - found.measured > MAX_OVER * found.measured + SLACK[device]
    return TrainingCheck(name=PEAK_MEMORY, state="failed" if under or over else "ok", text=text)


def _compared(planned: int, measured: int) -> str:
    """`1.20 GiB (+3.1%)`."""
    return f"{size(planned)} ({decimal(100 * (planned / measured - 1), 1, signed=True)}%)"


def check_out_of_memory(session: TrainingSession) -> TrainingCheck:
    """Repeat a step with less memory than its micro-batch needs: the trainer has to halve it, with the same loss."""
    if session.machine.device != "cuda":
        return TrainingCheck(name=OUT_OF_MEMORY, state="skipped", text=NEEDS_GPU)
    rows = _step_rows(session)
    session.model.zero_grad(set_to_none=True)
    free_memory()
    losses: list[float] = []
    working = working_memory(lambda: losses.append(session.step(rows, session.packing, len(rows))))
    session.model.zero_grad(set_to_none=True)
    free_memory()
    halved: list[int] = []
    session.hooks.halved = halved.append
    with limited_memory(session.meters.memory_in_use() + round(LIMIT * working)):
        losses.append(session.step(rows, session.packing, len(rows)))
    session.model.zero_grad(set_to_none=True)
    return judge_out_of_memory(len(rows), halved, losses, LOSS_FLOOR[session.dtype])


def _step_rows(session: TrainingSession) -> list[Row]:
    """Rows of one micro-batch of up to MAX_TOKENS tokens."""
    found: list[Row] = []
    left = min(MAX_TOKENS, session.packing.tokens)
    for row in itertools.cycle(session.subject.rows):
        left -= len(row.input_ids)
        if left < 0:
            return found
        found.append(row)
    return found


def judge_out_of_memory(micro_batch: int, halved: list[int], losses: list[float], floor: float) -> TrainingCheck:
    """`halved`: micro-batch sizes after each error; `losses`: of the step without and with limited memory."""
    if not halved:
        text = f"no out-of-memory error at {round(100 * LIMIT)}% of the working memory of {micro_batch} rows"
        return TrainingCheck(name=OUT_OF_MEMORY, state="failed", text=text)
    whole, parts = losses
    text = f"micro-batch {micro_batch} → {halved[-1]}, loss {decimal(whole, 4)} → {decimal(parts, 4)} nats/token"
    same = math.isfinite(parts) and abs(whole - parts) <= floor + 0.01 * abs(whole)
    return TrainingCheck(name=OUT_OF_MEMORY, state="ok" if same else "failed", text=text)


def working_memory(step: Callable[[], object]) -> int:
    """Bytes that tensors take at the peak of a step in addition to those before it."""
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() - before


@contextmanager
def limited_memory(limit: int) -> Iterator[None]:
    """Context in which torch's allocator fails above `limit` bytes, with the error of a full GPU."""
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
