"""Memory probe: measure the largest micro-batches and the evaluation of a run before its first step.

First the optimizer makes a step, so that its state exists as in all later steps. Then, of the step with the largest
micro-batch, the two largest micro-batches run forward and backward, the second one with the gradients of the first; on
a GPU the largest evaluation batch runs too. Training is not affected: gradients are dropped, the optimizer step uses
zero gradients and a learning rate of zero, its state is cleared (that of a checkpoint is loaded later), and random
states are restored. Running the first steps of the run instead would not cover its longest rows, and undoing them would
need a copy of all trained weights.

Paged optimizers keep their state outside torch's pool and never free it: they make no step here, but allocate what they
need in addition to that state (`methods.optimizers.compensated`).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field

import torch

from engine.config.device_defaults import ActivationCheckpointing, describe_checkpointing
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches
from engine.memory.formula.automatic import ENOUGH_TOKENS
from engine.memory.formula.memory_budget import system_memory
from engine.methods.machine import is_out_of_memory
from engine.training.backward_step import BackwardStep
from engine.training.batches import loss_weight
from engine.training.fit import enable_checkpointing
from engine.training.gradients import StepGradients
from engine.training.guards import OutOfMemory, first_line, free_memory
from engine.training.meters import Meters, resident, resident_peak, uses_gpu

HEADROOM = 0.05
"""Fraction of the device's memory that a probe leaves free: rows of other lengths fragment the pool differently."""
Warn = Callable[[str, str], None]


@dataclass(frozen=True)
class ProbeResult:
    """Peaks in bytes, defined like `Result.peak_training_bytes`."""

    training: int
    evaluation: int | None
    """None if not measured: on a CPU a process that uses too much memory is killed, so it is only predicted."""
    seconds: float
    checkpointing: ActivationCheckpointing | None = None
    """What was enabled to make it fit, None if nothing was."""


@dataclass
class Probe:
    """One memory probe of the model, ready for training."""

    gradients: StepGradients
    optimizer: torch.optim.Optimizer
    batches: WorstCaseBatches
    meters: Meters
    automatic: bool
    """Whether the micro-batch size may be reduced to fit."""
    evaluate: Callable[[], None] | None
    """Runs the largest evaluation batch, reducing it until it fits; None: not measured."""
    fits: Callable[[int, int], bool] | None
    """Predicts whether a micro-batch size fits in a number of bytes; for CPUs, where exceeding memory would end the
    process.
    """
    warn: Warn
    stronger: list[ActivationCheckpointing] = field(default_factory=list)
    """What may be enabled to make it fit, the fastest first."""
    enabled: ActivationCheckpointing | None = None

    def run(self) -> ProbeResult:
        """Measure the peaks, reducing the micro-batch size and recomputing activations until it fits.

        Raises OutOfMemory if a single row does not fit, or a micro-batch of a sharded model, in training or evaluation.
        """
        started = time.monotonic()
        with preserved_random_state():
            try:
                limit = self._least(available_memory(self.meters))
                while self.fits and not self.fits(self.gradients.micro_batch, limit):
                    predicted = f"predicted memory exceeds the available {limit / 2**30:.1f} GiB"
                    if not self.automatic:  # the size was configured
                        hint = "--set train.micro_batch=auto or a smaller number"
                        if self.gradients.whole_steps:
                            hint = "use a smaller train.batch"
                        self.warn("memory.over_budget", f"{predicted}; {hint}")
                        break
                    self.gradients.halve([self.batches.step], predicted)
                step = self.meters.peak_of(self._step)
                passes = self._greatest(self._passes())
                while passes > limit and self._make_headroom(passes, limit):
                    passes = self._greatest(self._passes())
                self._drop_gradients()
                evaluation = self.meters.peak_of(self.evaluate) if self.evaluate else None
            finally:
                self._drop_gradients()
                self.optimizer.state.clear()
                free_memory()
        return ProbeResult(max(passes, step), evaluation, time.monotonic() - started, self.enabled)

    def _make_headroom(self, peak: int, limit: int) -> bool:
        """Recompute more activations or use fewer rows; False if neither is possible.

        Fewer rows are as many as leave headroom by linear interpolation between no rows and the measured rows.
        """
        if self._has_enough_rows() and self._recompute_more("less would leave no headroom"):
            return True
        if self.automatic:
            rows = max(map(len, self.batches.groups(self.gradients.micro_batch)))
            free_memory()
            empty = self.meters.memory_in_use()
            fitting = max(1, math.floor((limit - empty) / max(1, peak - empty) * rows))
            fewer = 0 if rows == 1 else balanced_micro_batch(len(self.batches.step), min(rows - 1, fitting))
            if fewer := self._least(fewer):
                self.gradients.micro_batch = fewer
                text = f"micro-batch size reduced to {fewer}: a larger one would leave no headroom"
                self.warn("memory.micro_batch_reduced", text)
                return True
        return self._recompute_more("less would leave no headroom")

    def _has_enough_rows(self) -> bool:
        """Whether fewer rows would cost more time than recomputing activations, or are impossible."""
        groups = self.batches.groups(self.gradients.micro_batch)
        largest = max(sum(len(row.input_ids) for row in group) for group in groups)
        return largest <= ENOUGH_TOKENS or not self.automatic or max(map(len, groups)) == 1

    def _recompute_more(self, why: str) -> bool:
        """Enable the next stronger checkpointing; False if there is none."""
        if not self.stronger:
            return False
        self.enabled = self.stronger.pop(0)
        enable_checkpointing(self.gradients.model, self.enabled)
        text = f"activation checkpointing of {describe_checkpointing(self.enabled.setting)} enabled: {why}"
        self.warn("memory.checkpointing_enabled", text)
        return True

    def _passes(self) -> int:
        """Peak of the two largest micro-batches, which are made smaller or recompute activations until they fit."""

        def run_both() -> None:
            """Run both, and keep the gradients of the first during the second, as in the middle of a step."""
            self._drop_gradients()
            self.gradients.model.train()
            total_weight = sum(map(loss_weight, self.batches.step))
            updates = BackwardStep(self.gradients.model, self._update, 0.0)
            with updates if self.gradients.whole_steps else nullcontext():
                for group in self.batches.groups(self.gradients.micro_batch)[:2]:
                    self.gradients.forward_backward(group, total_weight)

        while True:
            try:
                return self.meters.peak_of(run_both)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = first_line(error)
                if self.gradients.is_sharded:
                    raise OutOfMemory(cause) from error
            self._drop_gradients()
            free_memory()
            if not (self._has_enough_rows() and self._recompute_more(cause)):
                self.gradients.halve([self.batches.step], cause)

    def _least(self, value: int) -> int:
        """The least value of all ranks, if they divide a model: they must then do the same."""
        return min(self.gradients.ranks.all_gather(value)) if self.gradients.is_sharded else value

    def _greatest(self, value: int) -> int:
        """The greatest value of all ranks, if they divide a model."""
        return -self._least(-value)

    def _step(self) -> None:
        """Make an optimizer step that changes no weight, so that the optimizer's state exists."""
        for parameter in self.gradients.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
                if self.gradients.whole_steps:  # as in its backward pass
                    self._update()
                    parameter.grad = None
        self._update()
        self._drop_gradients()

    def _update(self) -> None:
        """Update the weights that have a gradient with zeros."""
        if getattr(self.optimizer, "is_paged", False):
            if allocate := getattr(self.optimizer, "allocate_step", None):
                allocate()
            return
        groups = self.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        try:
            for group in groups:
                group["lr"] = 0.0
                for weight in group["params"]:
                    if weight.grad is not None:
                        weight.grad.zero_()
            self.optimizer.step()
        finally:
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = rate

    def _drop_gradients(self) -> None:
        self.gradients.model.zero_grad(set_to_none=True)


def available_memory(meters: Meters) -> int:
    """Memory available to this run in total, minus headroom, in bytes as the planner counts them.

    In a slot of a device it is at most the slot's part, whether or not other slots are in use.
    """
    if uses_gpu():
        free, total = map(int, torch.cuda.mem_get_info())
    else:
        total, used = system_memory()
        free = total - used
    available = free + meters.memory_in_use() - round(HEADROOM * total)
    return available if meters.slots == 1 else min(available, round((1 - HEADROOM) * total / meters.slots))


def available_for_copy() -> int:
    """Bytes of host memory that a copy may take during training: the peak of the next step and headroom stay free."""
    total, used = system_memory()
    return total - used - round(HEADROOM * total) - (resident_peak() - resident())


def balanced_micro_batch(batch: int, most: int) -> int:
    """The smallest micro-batch size of at most `most` rows that needs no more micro-batches per step than `most`."""
    return math.ceil(batch / math.ceil(batch / most))


@contextmanager
def preserved_random_state() -> Iterator[None]:
    """Context that restores the random states of CPU and GPUs at its end."""
    gpus = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=gpus):
        yield
