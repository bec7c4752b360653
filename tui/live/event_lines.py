"""Events as lines of text, for terminals without a screen and for logs."""

from __future__ import annotations

from engine.config.metric_specs import metric_spec
from engine.config.text import shortened
from engine.runs import events
from engine.runs.account import columns_in_short, rows_in_short
from tui.data_report import DataReport, overlap_in_short
from tui.format import count, duration, moment, size


def lines(event: events.Event) -> list[str]:
    """What an event says, one line or more; none for those that only move a progress bar."""
    text = _text(event)
    more = _data(event) if isinstance(event, events.Data) else []
    return [shortened(f"{moment(event.t, '%H:%M:%S')} {one}") for one in [*([text] if text else []), *more]]


def _data(event: events.Data) -> list[str]:
    """The account of columns and rows that a run trains on; a run of an earlier version has none."""
    report = DataReport.of(event)
    found = [f"format: {event.format}; {columns_in_short(report.columns)}"] if report.columns else []
    return found + [f"overlap: {overlap_in_short(pair, one)}" for pair, one in report.overlap.items()]


def _text(event: events.Event) -> str | None:
    match event:
        case events.Hello(resumed=True):
            return "resumed"
        case events.Phase(name="waiting", note=note):
            return f"waiting: {note}"
        case events.Data():
            account = DataReport.of(event).account
            rows = (
                f"{event.train:,} train, {event.validation:,} validation, {event.test:,} test rows"
                if account is None
                else rows_in_short(account)
            )
            why = "" if event.columns else f"{event.format_reason}; "
            tokens = f"{count(event.tokens)} tokens per epoch, {count(event.answer_tokens)} in the loss"
            return f"data: {rows}; {why}{tokens}"
        case events.ModelLoaded():
            return (
                f"model: {event.id}, {event.architecture}, {count(event.parameters)} parameters in {event.dtype}, "
                f"{count(event.trainable)} trained by {event.optimizer}; on {event.device}, {event.attention} attention"
            )
        case events.Plan(measured=int(measured)):
            took = f" in {duration(event.probe_seconds)}" if event.probe_seconds is not None else ""
            return f"longest batch tried{took}: {size(measured)}, {event.micro_batch} rows a pass"
        case events.Plan():
            checkpointing = ", gradient checkpointing" if event.gradient_checkpointing else ""
            begin = f", from step {event.start_step}" if event.start_step else ""
            return (
                f"plan: {event.steps} steps of {event.batch} rows{begin}, at most {event.micro_batch} a pass, "
                f"{event.packing}{checkpointing}{_expected(event)}"
            )
        case events.Eval(split="validation", when="after"):
            return f"validation after training: {event.rows} rows, loss {number(event.loss)}"
        case events.Eval(split="validation"):
            return f"validation at step {event.step}: loss {number(event.loss)}"
        case events.Eval():
            return _test_score(event)
        case events.Checkpoint():
            return f"checkpoint: {event.path}, {size(event.bytes)} in {duration(event.seconds)}"
        case events.Warning():
            return f"warning: {event.text} [{event.code}]"
        case events.End(status="finished"):
            return "finished"
        case events.End():
            return f"{event.status.replace('_', ' ')}: {event.reason}"
    return None


def _expected(plan: events.Plan) -> str:
    return f"; about {size(plan.predicted)} expected" if plan.predicted is not None else ""


def _test_score(event: events.Eval) -> str:
    metric = (
        f", {event.metric} {percent(event.score, event.low, event.high)}"
        if metric_spec(event.metric).needs_answers
        else ""
    )
    return (
        f"{event.when} training, {event.rows} test rows: loss {number(event.loss)} "
        f"[{number(event.loss_low)}, {number(event.loss_high)}], perplexity {number(event.perplexity)}{metric} "
        f"({duration(event.seconds)})"
    )


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def percent(value: float | None, low: float | None, high: float | None) -> str:
    """`71.3 % [68.0, 74.4]`."""
    if value is None:
        return "–"
    interval = f" [{low * 100:.1f}, {high * 100:.1f}]" if low is not None and high is not None else ""
    return f"{value * 100:.1f} %{interval}"
