"""The longest batch first: what a run's largest passes and its evaluation really take, tried before its first step.

Of all steps to come the one with the largest pass is taken, and of it the two largest passes go forward and backward,
the second beside the gradients of the first. Then the optimizer makes a step, and on a card the evaluation's largest
moments are held. Nothing of what is trained moves: the gradients are dropped; the optimizer steps with gradients of
zero at a rate of zero, and its state is forgotten (a checkpoint's is loaded after this); random states are put back.
Two whole steps of the run would be its first ones, which are not its longest, and taking them back would want a copy
of every weight, which under full fine-tuning is the memory that is in question.

Paged optimizers keep their state outside torch's pool and never give it back: they do not step here.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from engine.planning.own import Own
from engine.planning.room import system_memory
from engine.training.batches import answer_tokens
from engine.training.guards import first_line, free_memory, is_out_of_memory
from engine.training.meters import Meters, on_card
from engine.training.trainer import AnswerTrainer

HEADROOM = 0.05
"""Share of the device's memory that a probe leaves free: other lengths leave other gaps in the pool."""
Warn = Callable[[str, str], None]


@dataclass(frozen=True)
class Probed:
    """Bytes, as `Result.comparable` means them."""

    training: int
    evaluation: int | None
    """None where nothing was tried: without a card a process that takes too much is killed, and a forecast must do."""
    seconds: float


@dataclass
class Probe:
    """One look ahead, at the model as it will be trained."""

    trainer: AnswerTrainer
    optimizer: torch.optim.Optimizer
    own: Own
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
        passes = self._passes()
        if self.automatic and passes > limit:
            passes = self._with_headroom(passes, limit)
        step = self.meters.peak_of(self._step)
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
        tokens = sum(map(answer_tokens, self.own.step))
        for portion in self.own.portions(self.trainer.micro_batch)[:2]:
            self.trainer.pass_through(self.trainer.model, portion, tokens)

    def _with_headroom(self, peak: int, limit: int) -> int:
        """The peak with as many rows as leave headroom, by the line through no rows and those tried."""
        rows = len(self.own.portions(self.trainer.micro_batch)[0])
        self._drop_gradients()
        free_memory()
        empty = self.meters.held()
        fits = math.floor((limit - empty) / max(1, peak - empty) * rows)
        if rows == 1 or fits >= rows:
            return peak
        self.trainer.micro_batch = useful(len(self.own.step), max(1, fits))
        self.warn("micro_batch", f"{self.trainer.micro_batch} rows a pass: {rows} would leave no headroom")
        return self._passes()

    def _limit(self) -> int:
        return most_here(self.meters)

    def _step(self) -> None:
        """The optimizer's own work and the state it then has, moving nothing."""
        if getattr(self.optimizer, "is_paged", False):
            return
        rates = [group["lr"] for group in self.optimizer.param_groups]
        for parameter in self.trainer.model.parameters():
            if parameter.grad is not None:
                parameter.grad.zero_()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        try:
            self.optimizer.step()
        finally:
            for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
        self._drop_gradients()

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
