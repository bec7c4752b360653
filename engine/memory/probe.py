"""The longest batch first: what a run's largest passes and its evaluation really take, tried before its first step.

First the optimizer makes a step, and its state stays: in every step of a run but the first, passes go beside it. Then,
of all steps to come, the one with the largest pass is taken, and of it the two largest passes go forward and backward,
the second beside the gradients of the first; and on a card the evaluation's largest moments are held. Nothing of what
is trained moves: the gradients are dropped; the optimizer steps with gradients of zero at a rate of zero, and its state
is forgotten (a checkpoint's is loaded after this); random states are put back. Two whole steps of the run would be its
first ones, which are not its longest, and taking them back would want a copy of every weight, which under full
fine-tuning is the memory that is in question.

Paged optimizers keep their state outside torch's pool and never give it back: they do not step here, but what is held
beside that state (`methods.optimizers.compensated`) is held.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from engine.memory.dry_run.worst_case_batches import WorstCaseBatches
from engine.memory.formula.memory_budget import system_memory
from engine.training.batches import loss_weight
from engine.training.guards import first_line, free_memory, is_out_of_memory
from engine.training.meters import Meters, on_card
from engine.training.trainer import AnswerTrainer

HEADROOM = 0.05
"""Share of the device's memory that a probe leaves free: other lengths leave other gaps in the pool."""
Warn = Callable[[str, str], None]


@runtime_checkable
class Holding(Protocol):
    """An optimizer that can hold what a step holds beside paged state."""

    def hold(self) -> None: ...


@dataclass(frozen=True)
class Probed:
    """Bytes, as `Result.peak_training_bytes` means them."""

    training: int
    evaluation: int | None
    """None where nothing was tried: without a card a process that takes too much is killed, and a forecast must do."""
    seconds: float


@dataclass
class Probe:
    """One look ahead, at the model as it will be trained."""

    trainer: AnswerTrainer
    optimizer: torch.optim.Optimizer
    own: WorstCaseBatches
    meters: Meters
    automatic: bool
    """Whether the micro batch may be chosen."""
    evaluate: Callable[[], None] | None
    """Holds what the evaluation holds at most, making itself smaller where that does not fit; None: not tried."""
    fits: Callable[[int, int], bool] | None
    """Whether a micro batch is expected to stay within so many bytes: asked where trying too much would end the
    process, without a card.
    """
    warn: Warn

    def run(self) -> Probed:
        """Measure; on the way the trainer's micro batch becomes one that fits.

        Raises OutOfMemory where not even one row fits, in training or in the evaluation.
        """
        started = time.monotonic()
        with kept_random():
            try:
                training, evaluation = self._measured()
            finally:
                self._forget()
        return Probed(training, evaluation, time.monotonic() - started)

    def _measured(self) -> tuple[int, int | None]:
        limit = self._limit()
        if self.fits is not None:
            self._foresee(self.fits, limit)
        step = self.meters.peak_of(self._step)
        passes = self._passes()
        while self.automatic and passes > limit and (fewer := self._fewer(passes, limit)):
            self.trainer.micro_batch = fewer
            self.warn("micro_batch", f"{fewer} rows a pass: more would leave no headroom")
            passes = self._passes()
        self._drop_gradients()
        evaluation = self.meters.peak_of(self.evaluate) if self.evaluate else None
        return max(passes, step), evaluation

    def _foresee(self, fits: Callable[[int, int], bool], limit: int) -> None:
        """Fewer rows a pass where more are not expected to fit."""
        while not fits(self.trainer.micro_batch, limit):
            if not self.automatic:
                gib = limit / 2**30
                self.warn("memory", f"this run is expected to need more than the {gib:.1f} GiB that it can have here")
                return
            self.trainer.halve(self.own.step, f"expected to need more than the {limit / 2**30:.1f} GiB there are")

    def _passes(self) -> int:
        """The peak of the two largest passes, with fewer rows where they do not fit."""
        while True:
            try:
                return self.meters.peak_of(self._two_passes)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                cause = first_line(error)
            self._drop_gradients()
            free_memory()
            self.trainer.halve(self.own.step, cause)

    def _two_passes(self) -> None:
        """Leaves the gradients, as in the middle of a step."""
        self._drop_gradients()
        self.trainer.model.train()
        total_weight = sum(map(loss_weight, self.own.step))
        for portion in self.own.portions(self.trainer.micro_batch)[:2]:
            self.trainer.pass_through(self.trainer.model, portion, total_weight)

    def _fewer(self, peak: int, limit: int) -> int:
        """Rows a pass that leave headroom, by the line through no rows, beside the gradients, and those tried; 0 where
        there are no fewer.
        """
        rows = max(map(len, self.own.portions(self.trainer.micro_batch)))
        free_memory()
        empty = self.meters.held()
        fits = math.floor((limit - empty) / max(1, peak - empty) * rows)
        return 0 if rows == 1 else useful(len(self.own.step), min(rows - 1, max(1, fits)))

    def _limit(self) -> int:
        return most_here(self.meters)

    def _step(self) -> None:
        """The optimizer's own work and the state it then has, moving nothing."""
        for parameter in self.trainer.model.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
        if getattr(self.optimizer, "is_paged", False):
            if isinstance(self.optimizer, Holding):
                self.optimizer.hold()
        else:
            self._step_at_no_rate()
        self._drop_gradients()

    def _step_at_no_rate(self) -> None:
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        try:
            self.optimizer.step()
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate

    def _drop_gradients(self) -> None:
        self.trainer.model.zero_grad(set_to_none=True)

    def _forget(self) -> None:
        self._drop_gradients()
        self.optimizer.state.clear()
        free_memory()


def most_here(meters: Meters) -> int:
    """What a run may hold in all on this machine, with headroom: bytes in the planner's meaning."""
    if on_card():
        free, total = map(int, torch.cuda.mem_get_info())
    else:
        total, used = system_memory()
        free = total - used
    return free + meters.held() - round(HEADROOM * total)


def useful(batch: int, most: int) -> int:
    """Rows a pass, of at most so many: fewer where a step takes no more passes for it."""
    return math.ceil(batch / math.ceil(batch / most))


@contextmanager
def kept_random() -> Iterator[None]:
    """Whatever is drawn inside, the draws after it are those that would have come."""
    cards = list(range(torch.cuda.device_count())) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=cards):
        yield
