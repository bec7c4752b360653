"""Everything a report is made of: the ladder's state, and what its runs' directories still hold."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config.method_specs import method_spec
from engine.ladder.report import courses, record, tradeoffs, trials
from engine.ladder.report.drawing import Drawn
from engine.ladder.report.palette import Style, styles
from engine.ladder.report.samples import Samples, Source, side_by_side
from engine.ladder.report.traces import Trace, trace
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir

FOUR_BIT = "base-4bit"
"""The base as QLoRA loads it; there is such a row where another run scored the base as it is."""


@dataclass(frozen=True)
class Material:
    """What page and Markdown are written from."""

    directory: LadderDir
    ladder: Ladder
    styles: dict[str, Style]
    traces: list[Trace]
    samples: Samples
    problems: list[str]
    """What could not be read, and so is not shown."""


def gather(directory: LadderDir, ladder: Ladder) -> Material:
    """Read the runs. A run that is gone or damaged is a problem that the report names, never an error."""
    methods = {row.name: row.method for row in ladder.rows}
    problems: list[str] = []
    traces, predictions = [], []
    for entry in ladder.entries:
        run = record.folder(directory, entry) if entry.kind == "run" else None
        if run is None:
            continue
        try:
            found = trace(entry.rung, entry.seed, run.events_file)
        except OSError as error:
            found = None
            problems.append(f"{run.name}/events.jsonl cannot be read: {error.strerror}")
        if found:
            traces.append(found)
            base = FOUR_BIT if method_spec(methods[entry.rung]).quantizes_base and FOUR_BIT in methods else "base"
            predictions.append(Source(entry.rung, base, run.predictions_file))
        else:
            problems.append(f"{run.name} has no events: its directory may have been deleted")
    metric = ladder.work.metric if ladder.work else "loss"
    samples = side_by_side(predictions, metric)
    names = list(dict.fromkeys([*methods, *(entry.rung for entry in ladder.entries)]))
    chosen = styles((name, methods.get(name, name)) for name in names)
    return Material(directory, ladder, chosen, traces, samples, [*problems, *samples.problems])


def figures(material: Material) -> tuple[list[Drawn], list[str]]:
    """(the figures that can be drawn, why the others cannot)."""
    ladder, look, traces = material.ladder, material.styles, material.traces
    drawn: list[Drawn] = []
    missing: list[str] = []
    for figure, why in (
        (tradeoffs.against_time(ladder, look), "Score against time: no rung has both yet."),
        (tradeoffs.against_memory(ladder, look), "Score against memory: no rung has both yet."),
        (tradeoffs.against_money(ladder, look), ""),
        (courses.loss_by_tokens(traces, look), "Losses: no run has recorded a finite one."),
        (courses.loss_by_seconds(traces, look), ""),
        (trials.rates(ladder, look), "Learning-rate trials: none was made; each rung used its own rate."),
    ):
        if figure:
            drawn.append(figure)
        elif why:
            missing.append(why)
    memory = courses.memory(traces, look)
    return [*drawn, *memory], missing if memory else [*missing, "Memory over time: no run has recorded it."]
