"""The inspector's views as text of any width: rows token by token, report, chat template."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, field
from textual.content import Content

from engine.config.quantities import share_percent
from engine.config.text import amount, visible
from tui.charts import Histogram, draw_histogram
from tui.data_report import DataReport, ReportLine, repeat_lines, result_line, usage_lines, warning_lines

SPLITS = ("train", "validation", "test", "noticed")
NAMES = {"noticed": "flagged"}
"""Split -> name displayed, where it differs."""
COLORS = {
    "kept": "$primary",
    "cut": "$text-error",
    "axis": "$foreground-muted",
    "mark": "$text-error",
    "": "",
    "good": "$text-success",
    "warning": "$text-warning",
    "error": "bold $text-error",
}
"""Colors of the histogram's parts and of lines by style."""
CHART_ROWS = 5
_LABEL = 12


class Token(Struct, frozen=True):
    """One token of a row."""

    text: str
    id: int
    trained: bool
    special: bool
    partial: bool = False
    """Whether its text is displayed with a later token, which completes the character."""


class InspectedRow(Struct, frozen=True):
    """One prepared row; `omitted` tokens after the first `head` are left out."""

    where: str
    target: str
    cut: bool
    length: int
    """Tokens before truncation."""
    loss_tokens: int
    answer: int
    """Tokens in the loss before truncation."""
    notes: list[str]
    omitted: int
    head: int
    tokens: list[Token]


class Inspection(Struct, frozen=True):
    """The response to `data.inspect`."""

    report: dict[str, Any]
    samples: dict[str, list[InspectedRow]]
    noticed: int
    histograms: dict[str, Histogram | None]
    chat_template: str | None = None
    special_tokens: dict[str, str | None] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """Number of rows of a split; `noticed` are rows that are truncated or have notes."""
        return self.noticed if split == "noticed" else int(self.report["rows"][split])


@dataclass(frozen=True)
class TokenDisplay:
    """How tokens are displayed."""

    ascii: bool = False
    parted: bool = False
    """Separate tokens by bars, for terminals without background shades."""


def sample_text(sample: InspectedRow, manner: TokenDisplay) -> Content:
    """The tokens in order: in the loss green and underlined, special ones bold, neighbors in two shades."""
    parts: list[tuple[str, str]] = []
    inside = False
    for number, token in enumerate(sample.tokens):
        if sample.omitted and number == sample.head:
            parts.append((f"\n… {sample.omitted:,} tokens not shown …\n", "$text-warning"))
        if manner.ascii and token.trained != inside:
            parts.append(("[" if token.trained else "]", "bold"))
            inside = token.trained
        elif manner.parted and parts and not parts[-1][0].endswith("\n"):
            parts.append(("│", "$foreground-muted"))
        parts += _token(token, number, manner)
    if inside:
        parts.append(("]", "bold"))
    return Content.assemble(*parts)


def _token(token: Token, number: int, manner: TokenDisplay) -> Iterator[tuple[str, str]]:
    """Text of a token, styled; a line feed is shown as a symbol and also breaks the line."""
    style = "$text-success underline" if token.trained else ""
    if token.special:
        style = f"{style} bold" if token.trained else "$text-warning bold"
    shade = "" if manner.ascii else f" on $foreground {6 if number % 2 else 14}%"
    if token.partial and manner.parted:
        yield ("~" if manner.ascii else "⋯"), f"{style} dim{shade}".strip()
    lines = token.text.split("\n")
    for at, text in enumerate(lines):
        if text:
            yield visible(text), f"{style}{shade}".strip()
        if at < len(lines) - 1:
            yield ("\\n" if manner.ascii else "⏎"), f"{style} dim{shade}".strip()
            yield "\n", ""


def sample_head(sample: InspectedRow, split: str, number: int, total: int) -> Content:
    """Header of a row: split, number, place, tokens, tokens in the loss, notes."""
    name = NAMES.get(split, split)
    figures = f"{sample.length:,} tokens, {sample.loss_tokens:,} in the loss"
    heading = f"{name} row {number:,} of {total:,} · {sample.where} · {figures}"
    parts: list[tuple[str, str]] = [(visible(heading), "bold")]
    if sample.cut:
        lost = sample.answer - sample.loss_tokens
        text = f" · truncated at max_length{f', {lost:,} answer tokens lost' if lost else ''}"
        parts.append((text, "bold $text-error"))
    parts += [(f" · {visible(note)}", "$text-warning") for note in sample.notes]
    return Content.assemble(*parts)


def facts(inspection: Inspection, split: str, width: int, max_length: int) -> Content:
    """The report view: whether a run would start, use of columns and rows, warnings, lengths, files."""
    split = split if split != "noticed" else "train"
    lines = [
        *(_shown(line, width) for line in report_lines(inspection.report)),
        Content(""),
        *_lengths(inspection, split, width, max_length),
        Content(""),
        *(_shown(line, width) for line in source_lines(inspection)),
    ]
    return Content("\n").join(lines)


def report_lines(report: dict[str, Any]) -> Iterator[ReportLine]:
    """The result first, then the use of every column and row, then the warnings."""
    known = DataReport.of(report)
    yield result_line(report)
    yield ReportLine("format", report["why"])
    yield from usage_lines(known)
    yield from repeat_lines(report)
    yield from warning_lines(known.warnings)


def source_lines(inspection: Inspection) -> Iterator[ReportLine]:
    """Chat template, special tokens, files, and how the rows were split."""
    report = inspection.report
    yield ReportLine("template", report["template"])
    specials = {name: text for name, text in inspection.special_tokens.items() if text}
    yield ReportLine("tokens", "  ".join(f"{name} {text}" for name, text in specials.items()))
    for name in ("train", "validation", "test"):
        files = ", ".join(report["files"].get(name, []))
        tokens = f"{report['tokens'][name]:,} tokens, {report['loss_tokens'][name]:,} in the loss"
        yield ReportLine(name, f"{amount(report['rows'][name], 'row')}, {tokens}" + (f" ({files})" if files else ""))
    yield from (ReportLine("", sentence) for sentence in (*report["split"], *report["notes"]))


def _shown(line: ReportLine, width: int) -> Content:
    """Name and text, wrapped with a hanging indent."""
    text = f"\n{'':{_LABEL}}".join(line.wrapped(max(10, width - _LABEL)))
    return Content.assemble((f"{line.name:<{_LABEL}}", "$foreground-muted"), (text, COLORS[line.style]))


def _lengths(inspection: Inspection, split: str, width: int, max_length: int) -> Iterator[Content]:
    """Histogram and percentiles of the row lengths."""
    histogram = inspection.histograms.get(split)
    if histogram is None:
        yield _shown(ReportLine("length", f"no {split} rows"), width)
        return
    yield Content.styled(f"tokens per row, {split}", "bold")
    for row in draw_histogram(histogram, max_length, max(10, width - 7), CHART_ROWS):
        yield Content.assemble(*((text, COLORS[style]) for text, style in row))
    lengths = inspection.report["lengths"].get(split)
    if lengths:
        for key, name in (("tokens", "length"), ("answer", "in the loss")):
            figures = " ".join(f"{point} {value:,}" for point, value in lengths[key].items())
            yield _shown(ReportLine(name, figures), width)
        yield _shown(ReportLine("truncated", f"{share_percent(lengths['answers_cut'])} of the answers"), width)
    if histogram.lost:
        text = f"{amount(histogram.lost, 'row')} left out: no tokens in the loss after truncation"
        yield Content.styled(text, "$text-error")


def template_text(inspection: Inspection) -> Content:
    """The tokenizer's chat template with control characters visible."""
    if inspection.chat_template is None:
        return Content(visible(inspection.report["template"]))
    return Content("\n").join(Content(visible(line)) for line in inspection.chat_template.split("\n"))
