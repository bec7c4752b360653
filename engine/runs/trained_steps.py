"""What a run's log says of its optimizer steps, each counted once, although resumed workers repeat steps.

What belongs to a step is from the latest worker that trained it. A worker starts from a checkpoint, whose step its plan
has: what earlier workers logged of later steps no longer counts, also if this worker stops before it has repeated it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left

from engine.runs.events import Eval, Event, Plan, Step


class TrainedSteps:
    """Tokens and seconds per step, 32 bytes each. A resumed run repeats steps, which replace the earlier ones."""

    def __init__(self) -> None:
        self._step, self._tokens, self._computed, self._seconds = array("q"), array("q"), array("q"), array("d")

    @property
    def last(self) -> int:
        """Number of the latest step, 0 before the first."""
        return self._step[-1] if self._step else 0

    def add(self, event: Step) -> None:
        """Add a step; a repeated step replaces the earlier one and all that followed it."""
        if event.step <= self.last:
            self.rewind(event.step - 1)
        self._step.append(event.step)
        self._tokens.append(event.tokens)
        self._computed.append(event.computed_tokens)
        self._seconds.append(event.seconds)

    def rewind(self, step: int) -> None:
        """Discard the steps after this one: the run resumed from it."""
        first = bisect_left(self._step, step + 1)
        for column in (self._step, self._tokens, self._computed, self._seconds):
            del column[first:]

    def tokens(self) -> int:
        """Tokens of the rows of all steps."""
        return sum(self._tokens)

    def computed(self) -> int | None:
        """Tokens of the forward passes of all steps; None if a step did not log them."""
        return sum(self._computed) if self._computed and all(self._computed) else None

    def seconds(self) -> float:
        """Duration of all steps."""
        return sum(self._seconds)


class ValidationLosses:
    """The validation losses during training, by step."""

    def __init__(self) -> None:
        self._losses: dict[int, float | None] = {}

    def add(self, event: Event) -> None:
        """Add a `plan` or `eval` event; others have no effect."""
        match event:
            case Plan():
                self._losses = {step: loss for step, loss in self._losses.items() if step <= event.start_step}
            case Eval(when="during", split="validation"):
                self._losses[event.step] = event.loss

    def by_step(self) -> list[tuple[int, float | None]]:
        """(step, loss) in the order of steps; None for a loss that is not finite."""
        return sorted(self._losses.items())
