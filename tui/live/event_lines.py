"""Events as lines of text, for the event log and for terminals without a screen."""

from __future__ import annotations

import math

from engine.config.device_defaults import describe_checkpointing
from engine.config.metric_specs import metric_spec, metric_text
from engine.config.quantities import count, duration, percent, share_percent, size
from engine.config.text import amount, shortened, visible
from engine.memory.formula.automatic import CHECKPOINTING, describe_savings
from engine.runs.run import events
from engine.runs.run.result import TASK, Predicted, Score
from engine.runs.run.usage import account_lines, describe_sharing, summarize_columns, summarize_model, summarize_rows
from engine.runs.score_format import with_bounds
from tui.data_report import DataReport, overlap_in_short
from tui.format import four_digits, moment


def lines(event: events.Event, overhead: int = 0) -> list[str]:
    """The event as zero or more lines; events that only move a progress bar have none.

    `overhead`: bytes that are added to peaks of memory, so that they are those of the whole process.
    """
    match event:
        case events.DataPrepared():
            texts = _data(event)
        case events.ModelLoaded():
            texts = _model(event)
        case _:
            texts = [text] if (text := _text(event, overhead)) else []
    return [shortened(f"{moment(event.t, '%H:%M:%S')} {line}") for line in texts]


def _text(event: events.Event, overhead: int) -> str | None:
    match event:
        case events.Hello(resumed=True):
            return "resumed"
        case events.Phase(name="waiting", note=note):
            return f"waiting in the queue: {note}" if note else "waiting in the queue"
        case events.Plan(measured=Predicted(training=peak)):
            took = f" ({duration(event.probe_seconds)})" if event.probe_seconds is not None else ""
            return f"memory probe: {size(peak + overhead)} peak at micro-batch {event.micro_batch}{took}"
        case events.Plan():
            return _plan(event, overhead)
        case events.Compiled():
            return (
                f"{amount(event.layers, 'decoder layer')} compiled in {duration(event.seconds)}, before the first step"
            )
        case events.Eval(split="validation", when="after"):
            return f"validation after training: {event.rows} rows, loss {four_digits(event.loss)}"
        case events.Selected():
            loss = f", validation loss {four_digits(event.loss)}" if event.loss is not None else ""
            early = f"; stopped early after step {event.steps}: no lower loss since" if event.early else ""
            return f"kept: weights of step {event.step}{loss}{early}"
        case events.Eval(split="validation"):
            return f"validation at step {event.step}: loss {four_digits(event.loss)}"
        case events.Eval(score=Score() as score):
            return f"{event.when} training, {event.rows} test items (95% CI): {_test_score(score)}"
        case events.TaskScored(scores=scores):
            items, value = amount(scores.score.rows, "item"), with_bounds(scores.score, scores.is_share)
            text = f"{event.when} training, {TASK} {visible(scores.task)}, {items} (95% CI)"
            return f"{text}: {visible(scores.metric)} {value} ({duration(scores.seconds)})"
        case events.Checkpoint():
            waited = event.seconds if event.blocked is None else event.blocked
            differs = not math.isclose(waited, event.seconds, rel_tol=0.05, abs_tol=0.1)
            waiting = f", training waited {duration(waited)}" if differs else ""
            return f"checkpoint: {event.path}, {size(event.bytes)} ({duration(event.seconds)}{waiting})"
        case events.Warning():
            return f"warning: {event.text} [{event.code}]"
        case events.Load(training=load) if load.disturbance():
            return f"disturbed timing: {load.disturbance()}"
        case events.End(status="finished"):
            return "finished"
        case events.End():
            return f"{event.status.replace('_', ' ')}: {event.reason}"
    return None


def _data(event: events.DataPrepared) -> list[str]:
    """Rows and tokens, column roles, metric and overlaps of the data."""
    report = DataReport.of(event)
    rows = f"{event.train:,} train, {event.validation:,} validation, {event.test:,} test rows"
    if report.data_usage is not None:
        rows = summarize_rows(report.data_usage)
    why = "" if event.columns else f"{event.format_reason}; "
    tokens = f"{count(event.tokens)} tokens per epoch, {count(event.answer_tokens)} in the loss"
    texts = [f"data: {rows}; {why}{tokens}"]
    texts += [f"format: {event.format}; columns: {summarize_columns(report.columns)}"] if report.columns else []
    texts += [f"metric: {metric_text(event.metric, event.metric_reason)}"] if event.metric else []
    return texts + [f"overlap: {overlap_in_short(pair, overlap)}" for pair, overlap in report.overlap.items()]


def _model(event: events.ModelLoaded) -> list[str]:
    """The model, and how its weights are used."""
    trainable = f"{count(event.trainable)} trainable ({share_percent(event.trainable / max(1, event.parameters))})"
    start = f", starting from {event.from_run}" if event.from_run else ""
    texts = [
        f"model: {event.id}{start} ({event.architecture}, {event.dtype}), {count(event.parameters)} parameters, "
        f"{trainable}, optimizer {event.optimizer}, attention {event.attention}, on {event.device}"
    ]
    if event.account:
        texts.append(f"weights: {summarize_model(event.account)}")
        texts += [f"weights, {part}: {use}" for part, use in account_lines(event.account)]
    return texts


def _plan(event: events.Plan, overhead: int) -> str:
    start = f" from step {event.start_step}" if event.start_step else ""
    checkpointing = describe_checkpointing(event.gradient_checkpointing)
    checkpointing = f", activation checkpointing of {checkpointing}" if event.gradient_checkpointing else ""
    savings = {key: value for key, value in event.automatic.items() if key != CHECKPOINTING}
    saved = f", {describe_savings(savings)}" if savings else ""
    peaks = event.predictions
    predicted = f", predicted peak {size(peaks[-1].training + overhead)}" if peaks else ""
    packing = describe_sharing(event.shared_prefix, event.shared_rows, event.token_ratio) or event.packing
    micro_batch = f"micro-batch {event.micro_batch}, {packing}"
    devices = f" on {event.devices} devices{', weights sharded' if event.sharded else ''}" if event.devices > 1 else ""
    batch = f"batch size {event.batch} ({micro_batch}){devices}"
    return f"plan: {event.steps} steps{start}, {batch}{checkpointing}{saved}{predicted}"


def _test_score(score: Score) -> str:
    """Loss and scores with their intervals."""
    is_loss, metric = metric_spec(score.metric).is_loss, ""
    for name, value in (score.extra if is_loss else {score.metric: score.score}).items():
        spec = metric_spec(name)
        metric += f", {spec.title if is_loss else name} {with_bounds(value, spec.is_share)}"
    metric += f", {percent(score.ended.mean)} of answers end" if score.ended else ""
    metric += f", {percent(score.format_errors.mean)} format errors" if score.format_errors else ""
    loss = score.loss
    return (
        f"loss {four_digits(loss.mean)} [{four_digits(loss.low)}, {four_digits(loss.high)}], "
        f"perplexity {four_digits(score.perplexity)}{metric} ({duration(score.seconds)})"
    )
