"""The sentences of the verdict on benchmarks: which rungs forget, and how much forgetting is excluded."""

from __future__ import annotations

from engine.config.text import amount, listed, visible
from engine.ladder.phrases import (
    ASSUMED_SPREAD,
    SIGNIFICANTLY,
    SIMULTANEOUS,
    has_one_seed,
    method_noun,
    method_subject,
)
from engine.ladder.rung_format import rung_title
from engine.runs.ladder import Ladder
from engine.runs.ladder_benchmarks import BenchmarkRow, LadderBenchmark
from engine.runs.rung_results import RungResult, VerdictSentence
from engine.runs.score_format import loss, plain_difference, points


def benchmark_sentences(ladder: Ladder) -> list[VerdictSentence]:
    """One sentence per rung that is significantly worse or better than the base model, else one per benchmark."""
    return [
        VerdictSentence("forgetting", text) for benchmark in ladder.benchmarks for text in _sentences(ladder, benchmark)
    ]


def _sentences(ladder: Ladder, benchmark: LadderBenchmark) -> list[str]:
    name = visible(benchmark.name)
    compared = [row for row in benchmark.rows if row.finding]
    if not compared:
        return [f"Forgetting on {name} is unknown: no rung was compared with the base model."]
    found = [_found(ladder, benchmark, row) for row in compared if row.finding in SIGNIFICANTLY]
    rest = [row for row in compared if row.finding not in SIGNIFICANTLY]
    if not rest:
        return found
    nouns = listed([method_noun(_rung(ladder, row)) for row in rest])
    rungs = f"{nouns} {'are' if len(rest) > 1 else 'is'} not" if found else "no rung is"
    text = f"On {name} ({amount(benchmark.items, 'item')}) {rungs} {SIGNIFICANTLY['worse']} than the base model"
    excluded = _excluded(benchmark, rest)
    if excluded and has_one_seed(ladder, *(row.name for row in rest)):
        excluded += f" ({ASSUMED_SPREAD})"
    return [*found, f"{text}{excluded}."]


def _found(ladder: Ladder, benchmark: LadderBenchmark, row: BenchmarkRow) -> str:
    """`LoRA forgets on arc_easy: LoRA − base = −3.1 points, simultaneous 95% CI [−5.0, −1.2], acc of 2,376 items.`"""
    verb = "forgets" if row.finding == "worse" else "gains"
    said = f"{method_subject(_rung(ladder, row))} {verb} on {visible(benchmark.name)}"
    value, _, bounds = plain_difference(row.difference, benchmark.is_share).partition(" [")
    scope = f" ({ASSUMED_SPREAD})" if has_one_seed(ladder, row.name) else ""
    interval = f", {SIMULTANEOUS} [{bounds}" if bounds else ""
    of = f"{visible(benchmark.metric)} of {amount(benchmark.items, 'item')}"
    return f"{said}: {rung_title(row.name)} − base = {value}{interval}{scope}, {of}."


def _excluded(benchmark: LadderBenchmark, rows: list[BenchmarkRow]) -> str:
    """`; the simultaneous 95% CIs exclude losing more than 3.2 points`, '' if an interval is unknown."""
    intervals = [row.difference for row in rows if row.difference]
    ends = [one.low if benchmark.higher_is_better else one.high for one in intervals]
    known = [end for end in ends if end is not None]
    if len(known) < len(rows):
        return ""
    worst = max(0.0, *(-end if benchmark.higher_is_better else end for end in known))
    value = points(worst).lstrip("+") if benchmark.is_share else loss(worst)
    return f"; the {SIMULTANEOUS}s exclude losing more than {value}"


def _rung(ladder: Ladder, row: BenchmarkRow) -> RungResult:
    return next(one for one in ladder.rows if one.name == row.name)
