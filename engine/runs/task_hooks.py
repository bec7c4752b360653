"""Tasks: items beside the run's own test rows on which its models are scored too (`ftbench.tasks`).

The core stores their scores by item, and compares every rung with the base model on them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Protocol

from engine.config.hooks import load_all
from engine.config.schema import Config
from engine.runs.run.result import TaskScores


class Task(Protocol):
    """Some items with a metric whose score is a mean over them."""

    @property
    def name(self) -> str:
        """Of its files and for readers."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what decides the scores besides the model."""

    def score(self, model: Any, tokenizer: Any, batch: int, progress: Callable[[int, int], None]) -> TaskScores:
        """The scores of all items. `batch`: rows at a time, at most; `progress` may raise."""


class TaskHooks(Protocol):
    """A module or an object with these, which import what they need when they are called."""

    READING: str
    """How to read the scores in a report."""

    def load(self, config: Config) -> Sequence[Task]:
        """The tasks of a run. Raises UserError for one that cannot be scored, before a model is loaded."""


@cache
def task_hooks() -> tuple[TaskHooks, ...]:
    """Those of all extensions. Raises UserError for one that is something else."""

    def is_valid(loaded: object) -> bool:
        return callable(getattr(loaded, "load", None)) and isinstance(getattr(loaded, "READING", None), str)

    return tuple(loaded for _, loaded in load_all("ftbench.tasks", "an object with load and READING", is_valid))


def load_tasks(config: Config) -> list[Task]:
    """The tasks of all extensions for a run; none if it is not evaluated. Raises UserError as `load`."""
    if config.evaluation.when == "never":
        return []
    return [task for hooks in task_hooks() for task in hooks.load(config)]
