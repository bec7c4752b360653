"""Checks of memory: the peak against the plan, an out-of-memory error that halves the micro-batch, and paged state.

On a CPU the peak is that of the tensors of a step, by torch's memory profiler. Paged optimizer state must be in CUDA
managed memory, and a step on a full GPU must not change its result.
"""

from __future__ import annotations

import ctypes
import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.autograd.profiler import profile

from engine.config import schema
from engine.config.device_defaults import describe_checkpointing
from engine.config.quantities import decimal, size
from engine.config.settings import with_settings
from engine.data.rows import Row
from engine.extensions.doctor.agreement import LOSS_FLOOR
from engine.extensions.doctor.training_report import OUT_OF_MEMORY, PAGING, PEAK_MEMORY, TrainingCheck
from engine.extensions.doctor.training_session import TrainingSession
from engine.memory.dry_run.plan import as_measured
from engine.methods.machine import Machine, is_out_of_memory
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.methods.weights import stored_bytes
from engine.training.guards import free_memory
from engine.training.meters import Meters

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
    predictions = {tier.tier: as_measured(tier, tier.training) for tier in session.estimates.tiers}
    dry_run, formula = predictions.get("dry run"), predictions.get("formula")
    if session.peak is None:
        return Peaks(peak_of_tensors(session), None, dry_run, formula)
    probed, planned = session.probed, session.estimates.micro_batch
    assert probed is not None
    changed = [] if session.gradients.micro_batch == planned else [f"micro-batch {session.gradients.micro_batch}"]
    if probed.checkpointing:
        changed.append(f"activation checkpointing of {describe_checkpointing(probed.checkpointing.setting)}")
    return Peaks(session.peak, probed.training, dry_run, formula, " and ".join(changed))


def check_peak_memory(peaks: Peaks, device: str) -> TrainingCheck:
    """Compare the measured peak with the dry run, or with the formula if there is none."""
    planned = peaks.dry_run if peaks.dry_run is not None else peaks.formula
    text = f"measured peak {size(peaks.measured)}"
    if peaks.probe is not None:
        text += f" (memory probe {size(peaks.probe)})"
    if peaks.changed:
        text += f"; the plan did not fit: the memory probe chose {peaks.changed}"
        return TrainingCheck(name=PEAK_MEMORY, state="failed", text=text)
    if planned is None:
        return TrainingCheck(name=PEAK_MEMORY, state="failed", text=f"{text}; no prediction")
    compared = [  # `dry run 1.20 GiB (+3.1%)`
        f"{tier} {size(value)} ({decimal(100 * (value / peaks.measured - 1), 1, signed=True)}%)"
        for tier, value in (("dry run", peaks.dry_run), ("formula", peaks.formula))
        if value is not None
    ]
    text += "; " + ", ".join(compared)
    under = peaks.measured - planned > MAX_UNDER * peaks.measured + SLACK[device]
    over = planned - peaks.measured > MAX_OVER * peaks.measured + SLACK[device]
    return TrainingCheck(name=PEAK_MEMORY, state="failed" if under or over else "ok", text=text)


def check_out_of_memory(session: TrainingSession) -> TrainingCheck:
    """Repeat a step with less memory than its micro-batch needs: training has to halve it, with the same loss."""
    if session.machine.device != "cuda":
        return TrainingCheck(name=OUT_OF_MEMORY, state="skipped", text=NEEDS_GPU)
    rows: list[Row] = []
    left = min(MAX_TOKENS, session.packing.tokens)
    for row in itertools.cycle(session.subject.rows):
        left -= len(row.input_ids)
        if left < 0:
            break
        rows.append(row)
    session.model.zero_grad(set_to_none=True)
    free_memory()
    losses: list[float] = []
    working = working_memory(lambda: losses.append(session.step(rows, session.packing, len(rows))))
    session.model.zero_grad(set_to_none=True)
    free_memory()
    halved: list[int] = []
    session.gradients.halved = halved.append
    with limited_memory(session.meters.memory_in_use() + round(LIMIT * working)):
        losses.append(session.step(rows, session.packing, len(rows)))
    session.model.zero_grad(set_to_none=True)
    return judge_out_of_memory(len(rows), halved, losses, LOSS_FLOOR[session.dtype])


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


def peak_of_tensors(session: TrainingSession) -> int:
    """Bytes of weights and optimizer state, and the peak of what the largest step allocates in addition."""
    model, optimizer = session.model, session.optimizer
    model.zero_grad(set_to_none=True)
    state = {tensor.data_ptr(): tensor.nbytes for tensor in _tensors(optimizer)}
    before = stored_bytes(model) + sum(state.values())
    with profile(use_cpu=True, profile_memory=True) as profiler:
        session.step(session.batches.step, session.packing, session.gradients.micro_batch)
        optimizer.step()
    model.zero_grad(set_to_none=True)
    now = peak = 0
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return before + peak


IS_MANAGED = 8
"""CU_POINTER_ATTRIBUTE_IS_MANAGED (cuda.h, CUpointer_attribute)."""
ELEMENTS = 1 << 26
"""Elements of the parameter whose state is paged: 128 MiB of 8-bit state."""
SMALLEST_BLOCK = 2 << 20
"""Bytes: blocks of this size fill the last free memory."""


@dataclass(frozen=True)
class PagingResult:
    """The state of one parameter after two steps."""

    bytes: int
    """Bytes of paged state."""
    managed: bool
    """Whether all of it is in CUDA managed memory."""
    filled: int
    """Bytes allocated by others during the step on a full GPU."""
    equal: bool
    """Whether weights and state after the step on a full GPU equal those of a step on a free GPU."""


def paging_skipped(config: schema.Config, machine: Machine, optimizer_name: str, meters: Meters) -> str:
    """Why the paged optimizer of a run is not checked; "" if it is, in a process of its own (`measure_paging`)."""
    if machine.device != "cuda":
        return NEEDS_GPU
    if config.optimizer.name not in ("auto", "paged_adamw_8bit"):
        return f"{optimizer_name} is not paged"
    if meters.gpu is None:
        return "NVML is not available, which would report other processes"
    others = meters.gpu.others(meters.gpu_pid)  # a full GPU would end their runs
    return "other processes use this GPU" if others else ""


def judge_paging(paging: PagingResult) -> TrainingCheck:
    text = f"{size(paging.bytes)} of state"
    if not paging.bytes:
        return TrainingCheck(name=PAGING, state="failed", text="the optimizer's state is not paged")
    if not paging.managed:
        return TrainingCheck(name=PAGING, state="failed", text=f"{text} is not in CUDA managed memory")
    text += f" in CUDA managed memory; a step with {size(paging.filled)} allocated by others"
    if not paging.equal:
        return TrainingCheck(name=PAGING, state="failed", text=f"{text} has another result")
    return TrainingCheck(name=PAGING, state="ok", text=f"{text} has the same result")


def measure_paging(config: schema.Config, machine: Machine) -> PagingResult:
    """Two optimizers make the same two steps on a parameter whose state is large enough to be paged; the second one of
    them on a full GPU.
    """
    free_memory()
    first, optimizer = _with_state(config, machine)
    second, other = _with_state(config, machine)
    _step(first, optimizer)
    with full_gpu(paged_bytes(optimizer) // 2) as filled:
        _step(second, other)
    state, others = _tensors(optimizer), _tensors(other)
    return PagingResult(
        bytes=paged_bytes(other),
        managed=all(is_managed(tensor) for tensor in others if getattr(tensor, "is_paged", False)),
        filled=filled,
        equal=torch.equal(first, second)
        and all(torch.equal(tensor, another) for tensor, another in zip(state, others, strict=True)),
    )


def _with_state(config: schema.Config, machine: Machine) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """A float32 parameter, whose update needs no memory in addition to its state, after a first step."""
    values = torch.arange(ELEMENTS, dtype=torch.float32, device="cuda").view(1 << 13, -1).sin()
    weight = torch.nn.Parameter(values)
    config = with_settings(config, {"optimizer.name": "paged_adamw_8bit"})
    optimizer, _ = make_optimizer([weight], config, machine, lambda code, text: None)
    weight.grad = torch.full_like(weight, 0.01)
    _step(weight, optimizer)
    return weight, optimizer


def _step(weight: torch.nn.Parameter, optimizer: torch.optim.Optimizer) -> None:
    optimizer.step()
    torch.cuda.synchronize()


def _tensors(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [value for state in optimizer.state.values() for value in state.values() if isinstance(value, torch.Tensor)]


@contextmanager
def full_gpu(left: int) -> Iterator[int]:
    """Context in which all but about `left` bytes of the GPU are allocated; gives the number of bytes allocated.

    All of it is allocated first, which makes the driver move managed memory to the host, then `left` bytes are freed.
    """
    block, blocks = torch.cuda.mem_get_info()[0], []
    while block >= SMALLEST_BLOCK:
        try:
            blocks.append(torch.empty(block, dtype=torch.uint8, device="cuda"))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            block //= 2
    freed = 0
    while blocks and freed < left:
        freed += blocks.pop().numel()
    torch.cuda.empty_cache()
    try:
        yield sum(tensor.numel() for tensor in blocks)
    finally:
        blocks.clear()
        free_memory()


def is_managed(tensor: torch.Tensor) -> bool:
    """Whether a tensor is in CUDA managed memory, which the driver moves between GPU and host.

    Raises OSError without the driver's library, RuntimeError if the driver does not know the pointer.
    """
    value = ctypes.c_uint(0)
    cuda = ctypes.CDLL("libcuda.so.1")
    status = cuda.cuPointerGetAttribute(ctypes.byref(value), IS_MANAGED, ctypes.c_uint64(tensor.data_ptr()))
    if status:
        raise RuntimeError(f"cuPointerGetAttribute: CUDA error {status}")
    return bool(value.value)
