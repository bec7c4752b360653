"""Runs that share a GPU: each has its part of the memory, as a limit of torch's allocator, and must fit in it."""

from __future__ import annotations

import torch

from engine.config import schema
from engine.config.errors import UserError
from engine.config.quantities import size
from engine.hardware.devices import slots_of
from engine.memory.dry_run.run_estimates import RunEstimates, as_measured
from engine.methods.machine import Machine


def limit_memory(config: schema.Config, machine: Machine) -> int:
    """Limit torch to this run's part of a shared GPU; returns the number of slots of the device."""
    slots = slots_of(config.hardware.device)
    if machine.device == "cuda" and slots > 1:
        torch.cuda.set_per_process_memory_fraction(1 / slots)  # a run that needs more ends, and not its neighbor
    return slots


def refuse_small_slot(estimates: RunEstimates, limit: int, device: int | str) -> None:
    """Raise UserError unless the plan says that the run fits in `limit` bytes; `device` is its `hardware.device`."""
    needed = None if estimates.best is None else as_measured(estimates.best, estimates.best.training)
    if needed is not None and needed <= limit:
        return
    predicted = "unknown" if needed is None else size(needed)
    what = f"slot too small (predicted peak in training: {predicted}; slot: {size(limit)})"
    do = "use fewer slots, a smaller micro-batch or shorter rows"
    raise UserError(what, f"hardware.device={device}", do, code="device.slot_too_small")
