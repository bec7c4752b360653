"""The curves of a run: its loss, all metrics next to those of earlier runs; and what it answers as it learns."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich.cells import cell_len
from textual.content import Content

from engine.config.quantities import rate, size
from engine.config.text import SPECIAL_TOKEN, visible
from engine.runs.run.events import Sample
from engine.runs.run.folder import short_name
from tui.charts import AXIS, DASHES, ChartRow, ChartStyle, Curve, Series, draw, line_sample, reach
from tui.format import number
from tui.live.run_state import RunState

COLORS = {
    "axis": "$foreground-muted",
    "live": "$primary",
    "eval": "$text-warning",
    "best": "bold $text-success",
    "earlier0": "$text-success",
    "earlier1": "$text-error",
    "earlier2": "$text-secondary",
    "earlier3": "$text-accent",
    "cursor": "reverse",
    "": "",
}
"""Colors of the parts of charts."""
TEMPLATE_END = re.compile(rf"(?:(?:{SPECIAL_TOKEN.pattern})\s*(?:\w+\s*)?)+(?:<think>\s*(?:</think>\s*)?)?$")
"""Special tokens and roles with which a chat template ends a prompt."""
ROLE = re.compile(r"^\w+\n")
"""The role of a message, after its first special token."""
WHEN = {"before": "base", "after": "trained"}


def sample_lines(samples: Sequence[Sample], step: int | None, width: int, height: int) -> list[Content]:
    """For each prompt: its last turn, the expected answer, and the model's answers, the latest last.

    `step`: answers up to this step; None for all.
    """
    if not samples:
        text = "no answer yet: the model answers at each validation"
        return [Content.styled(line, "$foreground-muted") for line in textwrap.wrap(text, max(20, width))][:height]
    by_prompt: dict[str, list[Sample]] = {}
    for sample in samples:
        if step is None or sample.when == "before" or (sample.step or 0) <= step:
            by_prompt.setdefault(sample.prompt, []).append(sample)
    shown = list(by_prompt.items())[-3:]
    rows_each = max(3, height // max(1, len(shown)))
    lines: list[Content] = []
    for prompt, answers in shown:
        end = visible(" ".join(last_turn(prompt).split()), 4000)  # the question is at the end
        rows = [Content.styled(end if len(end) <= width else f"…{end[1 - width :]}", "$foreground-muted")]
        rows.append(_labeled("expected", answers[-1].target, width, "$text-success"))
        for sample in answers[-(rows_each - 2) :]:
            when = f"step {sample.step}" if sample.when == "during" else WHEN[sample.when]
            rows.append(_labeled(when, sample.output, width, ""))
        lines += rows[:rows_each]
    return lines[:height]


def last_turn(prompt: str) -> str:
    """The text of the last message of a prompt, without special tokens and role."""
    *earlier, text = SPECIAL_TOKEN.split(TEMPLATE_END.sub("", prompt))
    return ROLE.sub("", text) if earlier else text


def _labeled(label: str, text: str, width: int, style: str) -> Content:
    name = f"{label:<9} "
    shown = Content.styled(visible(" ".join(text.split()), 4000), style)
    return Content.assemble((name, "$foreground-muted"), shown.truncate(max(10, width - len(name)), ellipsis=True))


def lowest_loss(state: RunState) -> str:
    """`lowest 0.9715 at step 8`, or `kept` once training has ended; '' before the first validation."""
    kept = state.selected or state.lowest
    if kept is None or kept.loss is None:
        return ""
    return f"{'kept' if state.selected else 'lowest'} {number(kept.loss)} at step {kept.step}"


def loss_curves(state: RunState) -> list[Curve]:
    """Training loss, and the marks of validations and of the weights that are kept."""
    return [
        Curve(state.loss, "live"),
        Curve(state.validation, "eval", marks=True, letter="o"),
        Curve(state.best(), "best", marks=True, letter="*"),
    ]


def _colored(row: ChartRow) -> Content:
    return Content.assemble(*((text, COLORS.get(style, style)) for text, style in row))


def loss_end(state: RunState) -> float | None:
    """Where the x axis of the loss ends: slightly beyond a growing curve."""
    span = state.loss.span()
    if state.step is None or state.end is not None or span is None:
        return None
    return reach(span[1], state.step.steps)


def loss_rows(state: RunState, width: int, height: int, options: ChartStyle) -> list[Content]:
    """What is special about the curve and the chart, or a status line while there is no point yet."""
    if not state.loss.buckets:
        text = f"{state.phase or 'starting'}: no step yet"
        if state.end is not None:
            text = "ended before the first step"
        if state.step is not None:
            text = f"no finite loss in {state.loss.absent:,} steps"
        return [Content.styled(text, "$foreground-muted")]
    legend = Content()
    if state.loss.absent:
        legend += Content.styled(f"  {state.loss.absent:,} not finite", "$text-error")
    if state.sampled:
        legend += Content.styled("  sampled; reading all events", "$text-warning")
    rows = height - bool(legend.cell_length)
    lines = [_colored(row) for row in draw(loss_curves(state), width, rows, options, loss_end(state))]
    return [legend, *lines] if legend.cell_length else lines


def loss_values(state: RunState) -> str:
    """`0.412  validation 0.455 @400  lowest 0.4511 at step 300`."""
    latest, validation = state.loss.latest, state.validation
    parts = [number(latest)] if latest is not None else []
    if validation.latest is not None:
        parts += [f"validation {number(validation.latest)} @{validation.buckets[-1].last:.0f}", lowest_loss(state)]
    return "  ".join(filter(None, parts))


def rate_values(state: RunState) -> str:
    """`lr 1.6e-4  grad 0.31  3,912 tokens/s`."""
    values = [f"lr {rate(state.rate.latest)}"] if state.rate.latest is not None else []
    values += [f"grad {number(state.grad_norm.latest)}"] if state.grad_norm.latest is not None else []
    values += [f"{state.speed.latest:,.0f} tokens/s"] if state.speed.latest is not None else []
    return "  ".join(values)


MAX_EARLIER = len(DASHES) - 1
"""Number of earlier runs that are shown at once: each has its own color and dashes."""
CURSOR = "│"


@dataclass(frozen=True)
class Metric:
    """One chart of the grid."""

    name: str
    series: Callable[[RunState], Series]
    shown: Callable[[float], str] = number
    """A value as text."""


METRICS = (
    Metric("loss", lambda state: state.loss),
    Metric("learning rate", lambda state: state.rate, rate),
    Metric("gradient norm", lambda state: state.grad_norm),
    Metric("tokens/s", lambda state: state.speed, lambda value: f"{value:,.0f}"),
    Metric("memory", lambda state: state.memory_use, size),
)
MIB = 1 << 20


@dataclass(frozen=True)
class ChartGrid:
    """The runs that are shown and the step at which values are read."""

    state: RunState
    earlier: Sequence[RunState] = ()
    cursor: int | None = None
    """A step; None for the latest values."""
    style: ChartStyle = field(default_factory=ChartStyle)

    @property
    def span(self) -> tuple[float, float] | None:
        """First and last step of the x axis, the same for all charts."""
        spans = [span for state in (self.state, *self.earlier) if (span := state.loss.span())]
        if not spans:
            return None
        own = self.state.loss.span()
        first, last = min(low for low, _ in spans), max(high for _, high in spans)
        if own and self.state.step and self.state.end is None:
            last = max(last, reach(own[1], self.state.step.steps))
        return first, last

    def legend(self, width: int) -> Content:
        """The runs with their lines, and the step of the cursor."""
        at = f"step {self.cursor:,}" if self.cursor is not None else "latest"
        parts = [Content.styled(at, "bold")]
        for place, run in enumerate((self.state, *self.earlier)):
            color = COLORS[f"earlier{place - 1}" if place else "live"]
            name = visible(short_name(run.name), 40)
            parts.append(Content.styled(f"{line_sample(place, self.style.ascii)} {name}", color))
        return Content("   ").join(parts).truncate(width, ellipsis=True)

    def rows(self, metric: Metric, width: int, height: int) -> list[Content]:
        """A line of values, and the chart below it."""
        span = self.span
        if span is None:
            return [Content.styled(f"{metric.name}: no step yet", "$foreground-muted")]
        scale = MIB if metric.name == "memory" else 1
        curves = [
            Curve(_scaled(metric.series(run), scale), f"earlier{n}", place=n + 1) for n, run in enumerate(self.earlier)
        ]
        own = Curve(_scaled(metric.series(self.state), scale), "live")
        curves += loss_curves(self.state) if metric.name == "loss" else [own]
        chart = draw(curves, width, height - 1, self.style, span[1], span[0])
        if self.cursor is not None and chart:
            column = AXIS + cursor_column(self.cursor, span, width - AXIS)
            chart = [*(_marked(row, column) for row in chart[:-1]), chart[-1]]
        return [self._values(metric).truncate(width, ellipsis=True), *map(_colored, chart)]

    def _values(self, metric: Metric) -> Content:
        """`loss 0.512  0.498`: the value of every run at the cursor, in its color."""
        name = f"{metric.name} (MiB)" if metric.name == "memory" else metric.name
        parts = [Content.styled(name, "bold")]
        for state, color in ((self.state, "live"), *((run, f"earlier{n}") for n, run in enumerate(self.earlier))):
            series, step = metric.series(state), self.cursor
            value = series.latest
            if step is not None:  # none after the last step: runs have different numbers of steps
                value = series.at(step) if (span := series.span()) and step <= span[1] else None
            parts.append(Content.styled(metric.shown(value) if value is not None else "–", COLORS[color]))
        if metric.name == "loss":
            series = self.state.validation
            value = series.latest if self.cursor is None else series.at(self.cursor)
            if value is not None:
                parts.append(Content.styled(f"validation {number(value)}", COLORS["eval"]))
            if lowest := lowest_loss(self.state):
                parts.append(Content.styled(lowest, COLORS["best"]))
        return Content("  ").join(parts)


def cursor_column(step: int, span: tuple[float, float], columns: int) -> int:
    """The column of a step on an x axis of `columns` columns."""
    share = (step - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.0
    return min(columns - 1, max(0, int(share * columns)))


def step_of_column(column: int, span: tuple[float, float], columns: int) -> int:
    """A step in the middle of a column: the inverse of `cursor_column`."""
    return round(span[0] + (column + 0.5) * (span[1] - span[0]) / columns)


def _scaled(series: Series, factor: int) -> Series:
    """The series in another unit: labels of the axis have six characters."""
    if factor == 1:
        return series
    scaled = Series(series.most)
    scaled.extend((bucket.last, bucket.mean / factor) for bucket in series.buckets)
    return scaled


def _marked(row: ChartRow, column: int) -> ChartRow:
    """The row with the cursor in one column; a curve stays visible below it."""
    marked: ChartRow = []
    left = 0
    for text, style in row:
        width = cell_len(text)
        at = column - left
        if 0 <= at < width:
            mark = text[at] if text[at].strip() and text[at] != "\u2800" else CURSOR
            marked += [(text[:at], style), (mark, style if mark == text[at] else "axis"), (text[at + 1 :], style)]
        else:
            marked.append((text, style))
        left += width
    return marked
