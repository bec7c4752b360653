"""What the core calls: tasks of a run, and the check of its settings before it is started."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from engine.config.schema import Config
from engine.extensions.benchmarks.settings import check, settings_of
from engine.runs.run.result import TaskScores
from engine.runs.run.run_dir import RunDir
from engine.runs.task_hooks import Task

__all__ = ["READING", "check", "load", "problems", "started"]

READING = (
    "Benchmarks are scored by lm-evaluation-harness, with the prompts of its tasks and without a chat template. "
    "Differences from the base model are paired by item; their 95% CIs hold simultaneously for all rungs and "
    "benchmarks. A rung forgets if it is significantly worse than the base model."
)


@dataclass(frozen=True)
class BenchmarkTask:
    """A benchmark as the core uses it."""

    name: str
    fingerprint: str
    benchmark: Any

    def score(self, model: Any, tokenizer: Any, batch: int, progress: Callable[[int, int], None]) -> TaskScores:
        from engine.extensions.benchmarks.scoring import score_benchmark  # imports the library

        return score_benchmark(model, tokenizer, self.benchmark, batch, progress)


def load(config: Config) -> Sequence[Task]:
    """The benchmarks of the configuration; without any, nothing is imported."""
    if not settings_of(config).benchmarks:
        return []
    from engine.extensions.benchmarks.tasks import load_benchmarks

    return [BenchmarkTask(benchmark.name, benchmark.fingerprint, benchmark) for benchmark in load_benchmarks(config)]


def started(run: RunDir) -> None: ...


def problems(run: RunDir) -> list[str]:
    """None: the worker itself scores them."""
    return []
