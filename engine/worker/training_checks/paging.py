"""Paged optimizer state: whether it is in CUDA managed memory, and whether a step on a full GPU changes its result."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine.config.preset import with_settings
from engine.config.quantities import size
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.runs.training_report import PAGING, TrainingCheck
from engine.training.guards import free_memory
from engine.worker.training_checks.memory import NEEDS_GPU
from engine.worker.training_checks.training_session import TrainingSession

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


def check_paging(session: TrainingSession) -> TrainingCheck:
    """Check a paged optimizer on a parameter whose state is large enough to be paged, if the session's may be paged."""
    if session.machine.device != "cuda":
        return TrainingCheck(name=PAGING, state="skipped", text=NEEDS_GPU)
    if session.config.optimizer.name not in ("auto", "paged_adamw_8bit"):
        return TrainingCheck(name=PAGING, state="skipped", text=f"{session.optimizer_name} is not paged")
    gpu = session.meters.gpu
    if gpu is None or gpu.others(session.meters.gpu_pid):  # a full GPU would end their runs
        why = (
            "NVML is not available, which would report other processes"
            if gpu is None
            else "other processes use this GPU"
        )
        return TrainingCheck(name=PAGING, state="skipped", text=why)
    return judge_paging(_paged(session), paged_bytes(session.optimizer))


def judge_paging(found: PagingResult, of_run: int) -> TrainingCheck:
    """`of_run`: bytes of paged state of the trained model."""
    text = f"{size(found.bytes)} of state"
    if not found.bytes:
        return TrainingCheck(name=PAGING, state="failed", text="the optimizer's state is not paged")
    if not found.managed:
        return TrainingCheck(name=PAGING, state="failed", text=f"{text} is not in CUDA managed memory")
    text += f" in CUDA managed memory; a step with {size(found.filled)} allocated by others"
    if not found.equal:
        return TrainingCheck(name=PAGING, state="failed", text=f"{text} has another result")
    return TrainingCheck(name=PAGING, state="ok", text=f"{text} has the same result; {size(of_run)} paged in this run")


def _paged(session: TrainingSession) -> PagingResult:
    """Two optimizers make the same two steps, the second one of them on a full GPU."""
    free_memory()
    first, optimizer = _with_state(session)
    second, other = _with_state(session)
    _step(first, optimizer)
    with full_gpu(paged_bytes(optimizer) // 2) as filled:
        _step(second, other)
    state, others = _tensors(optimizer), _tensors(other)
    return PagingResult(
        bytes=paged_bytes(other),
        managed=all(is_managed(tensor) for tensor in others if getattr(tensor, "is_paged", False)),
        filled=filled,
        equal=torch.equal(first, second)
        and all(torch.equal(one, another) for one, another in zip(state, others, strict=True)),
    )


def _with_state(session: TrainingSession) -> tuple[torch.nn.Parameter, torch.optim.Optimizer]:
    """A float32 parameter, whose update needs no memory in addition to its state, after a first step."""
    values = torch.arange(ELEMENTS, dtype=torch.float32, device="cuda").view(1 << 13, -1).sin()
    weight = torch.nn.Parameter(values)
    config = with_settings(session.config, {"optimizer.name": "paged_adamw_8bit"})
    optimizer, _ = make_optimizer([weight], config, session.machine, lambda code, text: None)
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
        except torch.OutOfMemoryError:
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
