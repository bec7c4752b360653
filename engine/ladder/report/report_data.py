"""The data of a report: the ladder's state, and what the directories of its runs contain."""

from __future__ import annotations

from dataclasses import dataclass

from engine.config.method_specs import method_spec
from engine.ladder.recommendation import summarize
from engine.ladder.report import captions, curves, rate_trials, record, tradeoffs
from engine.ladder.report.drawing import ReportFigure
from engine.ladder.report.palette import RungStyle, styles
from engine.ladder.report.samples import PredictionSource, Samples, collect_samples
from engine.ladder.report.summary_figure import summary_figure
from engine.ladder.report.traces import Trace, trace
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir
from engine.runs.rung_results import LadderSummary
from engine.runs.rungs import BASE, BASE_4BIT


@dataclass(frozen=True)
class ReportData:
    """What the HTML page and Markdown are written from."""

    directory: LadderDir
    ladder: Ladder
    styles: dict[str, RungStyle]
    traces: list[Trace]
    samples: Samples
    problems: list[str]
    """What could not be read and is therefore missing from the report."""
    summary: LadderSummary | None = None
    """The ladder's, or of an older ladder one made from its numbers; None if no rung has finished."""

    @property
    def headline_figure(self) -> ReportFigure | None:
        """The figure below the headline."""
        return summary_figure(self.summary, self.styles)


def load_report_data(directory: LadderDir, ladder: Ladder) -> ReportData:
    """Read the runs. A deleted or damaged run is listed in `problems` and raises no error."""
    methods = {row.name: row.method for row in ladder.rows}
    problems: list[str] = []
    traces, predictions = [], []
    for entry in ladder.entries:
        run = record.folder(directory, entry) if entry.kind == "run" else None
        if run is None:
            continue
        try:
            run_trace = trace(entry.rung, entry.seed, run.events_file)
        except OSError as error:
            run_trace = None
            problems.append(f"cannot read {run.name}/events.jsonl: {error.strerror}")
        if run_trace:
            traces.append(run_trace)
            # There is a 4-bit row only if another run scored the unquantized base model.
            # A rung that has not finished a run has no row yet.
            method = methods.get(entry.rung)
            quantized = method is not None and method_spec(method).quantizes_base and BASE_4BIT in methods
            predictions.append(PredictionSource(entry.rung, BASE_4BIT if quantized else BASE, run.predictions_file))
        else:
            problems.append(f"{run.name} has no events: its directory may have been deleted")
    metric = ladder.work.metric if ladder.work else "loss"
    samples = collect_samples(predictions, metric)
    names = list(dict.fromkeys([*methods, *(entry.rung for entry in ladder.entries)]))
    rung_styles = styles((name, methods.get(name, name)) for name in names)
    problems += samples.problems
    return ReportData(directory, ladder, rung_styles, traces, samples, problems, ladder.summary or summarize(ladder))


def figures(data: ReportData) -> tuple[list[ReportFigure], list[str]]:
    """(figures, why others are missing)."""
    ladder, rung_styles, traces = data.ladder, data.styles, data.traces
    drawn: list[ReportFigure] = []
    missing: list[str] = []
    for figure, why in (
        (tradeoffs.against_time(ladder, rung_styles), "Score vs. training time: no rung has both yet."),
        (tradeoffs.against_memory(ladder, rung_styles), "Score vs. peak memory: no rung has both yet."),
        (tradeoffs.against_money(ladder, rung_styles), ""),
        (curves.loss_by_tokens(traces, rung_styles), "Loss: no run has a finite loss yet."),
        (curves.loss_by_seconds(traces, rung_styles), ""),
        (rate_trials.rates(ladder, rung_styles), captions.NO_TRIALS),
    ):
        if figure:
            drawn.append(figure)
        elif why:
            missing.append(why)
    memory = curves.memory(traces, rung_styles)
    return [*drawn, *memory], missing if memory else [*missing, "Memory over time: no run has recorded it yet."]
