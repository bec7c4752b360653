"""Reads what the runs of a ladder answered: arrays by rung, seed and test item."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.ladder.statistics import Answers, Floats
from engine.runs.ladder import BASE, BASE_4BIT, Ladder, LadderRun
from engine.runs.ladder_dir import LadderDir
from engine.runs.result import Result
from engine.runs.run_dir import RunDir


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of the ladder."""

    entry: LadderRun
    result: Result
    lines: list[dict[str, Any]]
    """Of `predictions.jsonl`."""


@dataclass
class LadderResults:
    """Everything that was answered, by rung; seeds in the order of the entries."""

    runs: list[FinishedRun] = field(default_factory=list)
    bases: dict[str, FinishedRun] = field(default_factory=dict)
    scores: dict[str, Answers] = field(default_factory=dict)
    losses: dict[str, Answers] = field(default_factory=dict)
    general: dict[str, Answers] = field(default_factory=dict)
    """Loss on general text, by passage."""


def finished(folder: LadderDir, ladder: Ladder) -> list[FinishedRun]:
    """Read every finished run. Raises UserError where one is damaged."""
    entries = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
    return [_read(RunDir(folder.runs / entry.run), entry) for entry in entries]


def gather(evidence: LadderResults, ladder: Ladder) -> None:
    """Lay out what the runs answered, which have been seen to do the same work."""
    metric = ladder.work.metric if ladder.work else ""
    for name in dict.fromkeys(run.entry.rung for run in evidence.runs):
        mine = [run for run in evidence.runs if run.entry.rung == name]
        _add(evidence, name, mine, "tuned", metric)
        _add_general(evidence, name, mine, "after")
    for run in evidence.runs:
        name = BASE_4BIT if method_spec(run.result.method).quantizes_base else BASE
        if run.result.before and name not in evidence.bases:
            evidence.bases[name] = run
    if BASE not in evidence.bases and BASE_4BIT in evidence.bases and not _unquantized_to_come(ladder, evidence):
        evidence.bases[BASE] = evidence.bases.pop(BASE_4BIT)  # there is no other: QLoRA's own base is the base
    for name, run in evidence.bases.items():
        _add(evidence, name, [run], "base", metric)
        _add_general(evidence, name, [run], "before")


def _unquantized_to_come(ladder: Ladder, evidence: LadderResults) -> bool:
    seen = {run.entry.rung for run in evidence.runs if method_spec(run.result.method).quantizes_base}
    return any(e.rung not in seen and e.kind == "run" and not e.is_done for e in ladder.entries)


def _add(evidence: LadderResults, name: str, runs: list[FinishedRun], who: str, metric: str) -> None:
    about: dict[str, Any] = {"seeds": tuple(run.entry.seed for run in runs), "untrained": who == "base"}
    tokens = _column(runs[0].lines, lambda line: line[who].get("weight") or line[who]["tokens"])
    losses = [_column(run.lines, lambda line: line[who]["nll"]) for run in runs]
    evidence.losses[name] = Answers(np.stack(losses), tokens, **about)
    if metric_spec(metric).needs_answers:
        values = [_column(run.lines, lambda line: line[who]["scores"][metric]) for run in runs]
        evidence.scores[name] = Answers(np.stack(values), **about)


def _add_general(evidence: LadderResults, name: str, runs: list[FinishedRun], which: str) -> None:
    found = [run.result.general for run in runs if run.result.general and getattr(run.result.general, which)]
    if len(found) == len(runs):
        values = np.array([getattr(general, which) for general in found], dtype=float)
        seeds, tokens = tuple(run.entry.seed for run in runs), np.array(found[0].tokens, dtype=float)
        evidence.general[name] = Answers(values, tokens, seeds, untrained=which == "before")


def _read(run: RunDir, entry: LadderRun) -> FinishedRun:
    try:
        text = run.predictions_file.read_bytes()
        lines = [msgspec.json.decode(line, type=dict[str, Any]) for line in text.split(b"\n") if line]
    except (OSError, ValueError, RecursionError) as error:
        what = f"its predictions cannot be read: {error}"
        raise UserError(what, str(run.predictions_file), "delete the run; the ladder runs it again") from error
    result = run.result()
    if result is None or not lines or any(not isinstance(line.get("tuned"), dict) for line in lines):
        raise UserError("a finished run without its answers", str(run.path), "delete it; the ladder runs it again")
    return FinishedRun(entry, result, lines)


def _column(lines: list[dict[str, Any]], of: Any) -> Floats:
    return np.array([of(line) for line in lines], dtype=float)
