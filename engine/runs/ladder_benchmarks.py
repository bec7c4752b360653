"""The part of `ladder.json` on benchmarks: scores of every rung, and differences from the base model."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, field

from engine.runs.result import Interval


class BenchmarkRow(Struct, kw_only=True):
    """The scores of a rung or of the base model on one benchmark."""

    name: str
    """Of the rung, or `base`, `base-4bit`."""
    score: Interval
    """Pointwise 95% interval over items and seeds."""
    by_seed: list[float] = field(default_factory=list)
    """Mean score of each seed."""
    difference: Interval | None = None
    """The rung's score minus the base model's, paired by item; simultaneous for all rungs and benchmarks. None for the
    base model, and if it has no score or the rung is not compared."""
    p: float | None = None
    """Two-sided, unadjusted."""
    p_adjusted: float | None = None
    """Adjusted for all rungs and benchmarks; below 0.05 exactly where the interval excludes 0."""
    finding: Literal["better", "worse", "undecided"] | None = None
    """Of the rung against the base model: significantly better or worse, or neither; None without a difference."""


class LadderBenchmark(Struct, kw_only=True):
    """One benchmark of a ladder."""

    name: str
    """Of the task, as lm-evaluation-harness names it."""
    metric: str
    """As lm-evaluation-harness names it: acc, acc_norm, exact_match."""
    higher_is_better: bool
    """Direction of the metric."""
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    items: int
    """Number of items."""
    rows: list[BenchmarkRow]
    """The base models first, then the rungs that have finished."""
