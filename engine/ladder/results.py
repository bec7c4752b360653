"""Reads the predictions of a ladder's runs as arrays by rung, seed and test item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.metric_specs import metric_spec
from engine.ladder.quasi_random import Floats
from engine.ladder.statistics import ItemScores
from engine.runs.ladder import Ladder, LadderEntry
from engine.runs.ladder_dir import LadderDir
from engine.runs.result import Result
from engine.runs.run_dir import RunDir
from engine.runs.rungs import BASE, BASE_4BIT

RUN_AGAIN = "delete the run, then `ftbench resume` the ladder, which runs it again"
Model = Literal["base", "tuned"]
Moment = Literal["before", "after"]


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of the ladder with its result and predictions."""

    entry: LadderEntry
    result: Result
    lines: list[dict[str, Any]]
    """The lines of `predictions.jsonl`, one per test item."""


@dataclass
class LadderResults:
    """Scores and losses of all finished runs by rung; seeds in the order of the ladder's entries."""

    runs: list[FinishedRun] = field(default_factory=list)
    bases: dict[str, FinishedRun] = field(default_factory=dict)
    """`base` and `base-4bit`: the run that scored it."""
    scores: dict[str, ItemScores] = field(default_factory=dict)
    losses: dict[str, ItemScores] = field(default_factory=dict)
    general: dict[str, ItemScores] = field(default_factory=dict)
    """Losses on general text, by passage."""


def read_finished(folder: LadderDir, ladder: Ladder) -> list[FinishedRun]:
    """Read every finished run. Raises UserError if one is damaged."""
    entries = [entry for entry in ladder.entries if entry.kind == "run" and entry.status == "finished"]
    return [_read(RunDir(folder.runs / entry.run), entry) for entry in entries]


def read_shared_bases(folder: LadderDir, ladder: Ladder) -> dict[str, FinishedRun]:
    """The runs of other ladders that scored the base model. Raises UserError if one is damaged or was deleted."""
    found = {}
    for name, run in ladder.base_runs.items():
        entry = LadderEntry(rung=name, kind="run", seed=0, learning_rate=0.0, run=run, status="finished")
        found[name] = _read(RunDir(folder.runs / run), entry)
    return found


def collect(results: LadderResults, ladder: Ladder) -> None:
    """Fill in bases, scores and losses from `results.runs`, which were checked to do the same work."""
    metric = ladder.work.metric if ladder.work else ""
    for name in dict.fromkeys(run.entry.rung for run in results.runs):
        runs = [run for run in results.runs if run.entry.rung == name]
        add_scores(results, name, runs, "tuned", metric)
        _add_general(results, name, runs, "after")
    for run in results.runs:
        name = BASE_4BIT if method_spec(run.result.method).quantizes_base else BASE
        if run.result.before and name not in results.bases:
            results.bases[name] = run
    if BASE not in results.bases and BASE_4BIT in results.bases and not _unquantized_base_pending(ladder, results):
        results.bases[BASE] = results.bases.pop(BASE_4BIT)  # without any other, QLoRA's 4-bit base is the base
    for name, run in results.bases.items():
        add_scores(results, name, [run], "base", metric)
        _add_general(results, name, [run], "before")


def _unquantized_base_pending(ladder: Ladder, results: LadderResults) -> bool:
    quantized = {run.entry.rung for run in results.runs if method_spec(run.result.method).quantizes_base}
    return any(e.rung not in quantized and e.kind == "run" and not e.is_done for e in ladder.entries)


def add_scores(results: LadderResults, name: str, runs: list[FinishedRun], model: Model, metric: str) -> None:
    """Add the scores and losses of one rung from its runs."""
    common: dict[str, Any] = {"seeds": tuple(run.entry.seed for run in runs), "untrained": model == "base"}
    tokens = _column(runs[0].lines, lambda line: line[model].get("weight") or line[model]["tokens"])
    losses = [_column(run.lines, lambda line: line[model]["nll"]) for run in runs]
    results.losses[name] = ItemScores(np.stack(losses), tokens, **common)
    if metric_spec(metric).needs_answers:
        values = [_column(run.lines, lambda line: line[model]["scores"][metric]) for run in runs]
        results.scores[name] = ItemScores(np.stack(values), **common)


def _add_general(results: LadderResults, name: str, runs: list[FinishedRun], moment: Moment) -> None:
    texts = [run.result.general for run in runs if run.result.general and getattr(run.result.general, moment)]
    if len(texts) == len(runs):
        values = np.array([getattr(general, moment) for general in texts], dtype=float)
        seeds, tokens = tuple(run.entry.seed for run in runs), np.array(texts[0].tokens, dtype=float)
        results.general[name] = ItemScores(values, tokens, seeds, untrained=moment == "before")


def _read(run: RunDir, entry: LadderEntry) -> FinishedRun:
    lines, result = read_prediction_lines(run.predictions_file, "tuned"), run.result()
    if result is None:
        raise UserError("finished run without result", str(run.path), RUN_AGAIN, code="ladder.no_predictions")
    return FinishedRun(entry, result, lines)


def read_prediction_lines(file: Path, model: Model) -> list[dict[str, Any]]:
    """The lines of a file of predictions. Raises UserError if it is damaged or has no scores of this model."""
    try:
        lines = [msgspec.json.decode(one, type=dict[str, Any]) for one in file.read_bytes().split(b"\n") if one]
    except (OSError, ValueError, RecursionError) as error:
        what = f"cannot read predictions ({error})"
        raise UserError(what, str(file), RUN_AGAIN, code="ladder.unreadable_predictions") from error
    if not lines or any(not isinstance(line.get(model), dict) for line in lines):
        what = "finished run without predictions"
        raise UserError(what, str(file.parent), RUN_AGAIN, code="ladder.no_predictions")
    return lines


def _column(lines: list[dict[str, Any]], value: Callable[[dict[str, Any]], float]) -> Floats:
    return np.array([value(line) for line in lines], dtype=float)
