"""Benchmarks of a ladder: the scores of its runs by item, and the differences of the rungs from the base model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from engine.config.errors import UserError
from engine.ladder.results import RUN_AGAIN, LadderResults
from engine.ladder.statistics import CONFIDENCE_LEVEL, Difference, ItemScores, MeanSamples
from engine.runs.benchmark_scores import BenchmarkScores, are_shares, benchmark_fingerprint, read_scores
from engine.runs.ladder import Ladder, LadderEntry
from engine.runs.ladder_benchmarks import BenchmarkRow, LadderBenchmark
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from engine.runs.rung_results import finding_of
from engine.runs.rungs import BASE

PREFIX = benchmark_fingerprint("")


def collect_benchmarks(folder: LadderDir, ladder: Ladder, results: LadderResults) -> list[LadderBenchmark]:
    """The benchmarks in the order of the setting, with the rungs that have finished.

    Raises UserError if the scores of a finished run are missing or damaged.
    """
    known = ladder.work.fingerprints if ladder.work else {}
    prints = {key.removeprefix(PREFIX): value for key, value in known.items() if key.startswith(PREFIX)}
    found = [_benchmark(name, value, folder, results, len(prints)) for name, value in prints.items()]
    return [one for one in found if one is not None]


def _benchmark(
    name: str, fingerprint: str, folder: LadderDir, results: LadderResults, count: int
) -> LadderBenchmark | None:
    """None before a model was scored. `count`: benchmarks of the ladder."""
    stored: dict[str, list[tuple[int, BenchmarkScores]]] = {}
    for base, run in sorted(results.bases.items()):
        if scores := _read(folder, run.entry, name, "before", fingerprint):
            stored[base] = [(run.entry.seed, scores)]
    for run in results.runs:
        scores = _read(folder, run.entry, name, "after", fingerprint)
        if scores is None:
            what = f"finished run without scores of the benchmark {name}"
            raise UserError(what, run.entry.run, RUN_AGAIN, code="ladder.no_benchmark_scores")
        stored.setdefault(run.entry.rung, []).append((run.entry.seed, scores))
    if not stored:
        return None
    (_, first), *_ = next(iter(stored.values()))
    values = {rung: _item_scores(some, rung in results.bases) for rung, some in stored.items()}
    is_share = are_shares(first.metric, np.concatenate([one.values.ravel() for one in values.values()]).tolist())
    return LadderBenchmark(
        name=name,
        metric=first.metric,
        higher_is_better=first.higher_is_better,
        is_share=is_share,
        items=len(first.items),
        rows=_rows(values, is_share, first.higher_is_better, count),
    )


def _read(
    folder: LadderDir, entry: LadderEntry, name: str, when: Literal["before", "after"], fingerprint: str
) -> BenchmarkScores | None:
    return read_scores(RunDir(folder.runs / entry.run).benchmark_file(name, when), fingerprint)


def _item_scores(stored: Sequence[tuple[int, BenchmarkScores]], untrained: bool) -> ItemScores:
    values = np.array([scores.items for _, scores in stored], dtype=float)
    return ItemScores(values, seeds=tuple(seed for seed, _ in stored), untrained=untrained)


def _rows(
    values: Mapping[str, ItemScores], is_share: bool, higher_is_better: bool, benchmarks: int
) -> list[BenchmarkRow]:
    """Scores, and differences from the base model that hold simultaneously for the rungs and all benchmarks."""
    samples = MeanSamples(values, (0.0, 1.0) if is_share else (-math.inf, math.inf))
    rows = {
        name: BenchmarkRow(name=name, score=samples.interval(name), by_seed=scores.seed_means.tolist())
        for name, scores in values.items()
    }
    trained = [name for name, scores in values.items() if not scores.untrained and name not in samples.unlike]
    if BASE in values and trained:
        level = 1 - (1 - CONFIDENCE_LEVEL) / benchmarks  # Bonferroni over the benchmarks, whose items differ
        for one in samples.differences([(name, BASE) for name in trained], level):
            _add_difference(rows[one.a], one, samples.n, higher_is_better, benchmarks)
    return list(rows.values())


def _add_difference(row: BenchmarkRow, found: Difference, items: int, higher_is_better: bool, benchmarks: int) -> None:
    row.difference = found.interval(items)
    row.p, row.p_adjusted = found.p, min(1.0, found.p_adjusted * benchmarks)
    low, high = (found.low, found.high) if higher_is_better else (-found.high, -found.low)
    finding = finding_of(low, high, None)
    row.finding = "undecided" if finding == "as_good" else finding
