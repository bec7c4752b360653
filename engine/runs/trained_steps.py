"""Total tokens and seconds of a run's optimizer steps, each step counted once."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from engine.runs.events import Step


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
