"""Tokens and seconds of a run's optimizer steps, each step counted once."""

from __future__ import annotations

from array import array
from bisect import bisect_left

from engine.runs.events import Step


class TrainedSteps:
    """24 bytes per step, however the run was interrupted: a resumed run repeats the steps after its checkpoint."""

    def __init__(self) -> None:
        self._step, self._tokens, self._seconds = array("q"), array("q"), array("d")

    @property
    def last(self) -> int:
        """The number of the newest step, 0 before the first."""
        return self._step[-1] if self._step else 0

    def add(self, event: Step) -> None:
        """A step that was done before takes the place of the first one and of all that followed it."""
        if event.step <= self.last:
            self.rewind(event.step - 1)
        self._step.append(event.step)
        self._tokens.append(event.tokens)
        self._seconds.append(event.seconds)

    def rewind(self, step: int) -> None:
        """Forget the steps after this one: the run resumed from it."""
        kept = bisect_left(self._step, step + 1)
        for column in (self._step, self._tokens, self._seconds):
            del column[kept:]

    def tokens(self) -> int:
        """Of all steps."""
        return sum(self._tokens)

    def seconds(self) -> float:
        """Of all steps."""
        return sum(self._seconds)
