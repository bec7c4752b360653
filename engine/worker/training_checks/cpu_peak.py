"""Peak memory of the tensors of a step on a CPU, by torch's memory profiler."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.autograd.profiler import profile

from engine.worker.training_checks.training_session import TrainingSession


def peak_of_tensors(session: TrainingSession) -> int:
    """Bytes of weights and optimizer state, and the peak of what the largest step allocates in addition."""
    model, optimizer = session.model, session.optimizer
    model.zero_grad(set_to_none=True)
    before = _bytes([*_model_tensors(model), *_state_tensors(optimizer)])
    with profile(use_cpu=True, profile_memory=True) as profiler:
        session.step(session.batches.step, session.packing, session.trainer.micro_batch)
        optimizer.step()
    model.zero_grad(set_to_none=True)
    now = peak = 0
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return before + peak


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Bytes of the tensors' storages, each counted once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def _model_tensors(model: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Parameters, buffers and the scales of 4-bit weights."""
    yield from model.parameters()
    yield from model.buffers()
    for parameter in model.parameters():
        state: Any = getattr(parameter, "quant_state", None)
        if state is not None:
            yield state.absmax
            if state.nested:
                yield from (state.state2.absmax, state.offset)


def _state_tensors(optimizer: torch.optim.Optimizer) -> Iterator[torch.Tensor]:
    values = (value for state in optimizer.state.values() for value in state.values())
    yield from (value for value in values if isinstance(value, torch.Tensor))
