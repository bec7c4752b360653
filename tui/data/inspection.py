"""What the inspector shows of the engine's answer, as text for any width: samples token by token, and the facts."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from msgspec import Struct, field
from textual.content import Content

from engine.contract.text import visible
from tui.drawing.histogram import Histogram, draw

SPLITS = ("train", "validation", "test", "noticed")
COLOURS = {"kept": "$primary", "cut": "$text-error", "axis": "$foreground-muted", "mark": "$text-error"}
CHART_ROWS = 5
_LABEL = 12


class Token(Struct, frozen=True):
    """One token as the model gets it."""

    text: str
    id: int
    trained: bool
    special: bool


class Sample(Struct, frozen=True):
    """One row as it is trained on; `omitted` tokens are missing behind the first `head`."""

    where: str
    target: str
    cut: bool
    length: int
    """Tokens before the cut."""
    learnt: int
    answer: int
    """Learnt tokens before the cut."""
    notes: list[str]
    omitted: int
    head: int
    tokens: list[Token]


class Inspection(Struct, frozen=True):
    """The answer to `data.inspect`."""

    report: dict[str, Any]
    samples: dict[str, list[Sample]]
    noticed: int
    histograms: dict[str, Histogram | None]
    chat_template: str | None = None
    special_tokens: dict[str, str | None] = field(default_factory=dict)

    def count(self, split: str) -> int:
        """Rows that can be looked at in a split; `noticed` are those that were cut or have notes."""
        return self.noticed if split == "noticed" else int(self.report["rows"][split])


@dataclass(frozen=True)
class Manner:
    """How tokens are drawn."""

    ascii: bool = False
    parted: bool = False
    """A bar between tokens, where shades cannot be told apart."""


def sample_text(sample: Sample, manner: Manner) -> Content:
    """The tokens in order: trained ones green and underlined, special ones bold; neighbours in two shades."""
    parts: list[tuple[str, str]] = []
    inside = False
    for number, token in enumerate(sample.tokens):
        if sample.omitted and number == sample.head:
            dots = "..." if manner.ascii else "…"
            parts.append((f"\n{dots} {sample.omitted:,} tokens not shown {dots}\n", "$text-warning"))
        if manner.ascii and token.trained != inside:
            parts.append(("[" if token.trained else "]", "bold"))
            inside = token.trained
        elif manner.parted and parts and not parts[-1][0].endswith("\n"):
            parts.append(("|" if manner.ascii else "│", "$foreground-muted"))
        parts += _token(token, number, manner)
    if inside:
        parts.append(("]", "bold"))
    return Content.assemble(*parts)


def _token(token: Token, number: int, manner: Manner) -> Iterator[tuple[str, str]]:
    """Literal text; a line feed is shown as a sign, and then made."""
    style = "$text-success underline" if token.trained else ""
    if token.special:
        style = f"{style} bold" if token.trained else "$text-warning bold"
    shade = "" if manner.ascii else f" on $foreground {6 if number % 2 else 14}%"
    lines = token.text.split("\n")
    for at, text in enumerate(lines):
        if text:
            yield visible(text), f"{style}{shade}".strip()
        if at < len(lines) - 1:
            yield ("\\n" if manner.ascii else "⏎"), f"{style} dim{shade}".strip()
            yield "\n", ""


def sample_head(sample: Sample, split: str, number: int, total: int) -> Content:
    """Which row this is, how long, how much of it is trained, and what was noticed about it."""
    said = f"{split} {number:,} of {total:,} · {sample.where} · {sample.length:,} tokens, {sample.learnt:,} trained"
    parts: list[tuple[str, str]] = [(visible(said), "bold")]
    if sample.cut:
        lost = sample.answer - sample.learnt
        parts.append((f" · cut{f', {lost:,} trained tokens lost' if lost else ''}", "bold $text-error"))
    parts += [(f" · {visible(note)}", "$text-warning") for note in sample.notes]
    return Content.assemble(*parts)


def facts(found: Inspection, split: str, width: int, max_length: int, ascii_only: bool) -> Content:
    """Format and why, splits, lengths with the cut, and every problem with its place."""
    report = found.report
    split = split if split != "noticed" else "train"
    lines = [
        _pair("format", report["format"], width, "bold"),
        _pair("why", report["why"], width),
        _pair("template", report["template"], width),
        _pair("specials", "  ".join(f"{name} {text}" for name, text in found.special_tokens.items() if text), width),
        *(_pair(name, _split(report, name), width) for name in ("train", "validation", "test")),
        *(_pair("", sentence, width) for sentence in (*report["split"], *report["notes"])),
        Content(""),
        *_lengths(found, split, width, max_length, ascii_only),
        Content(""),
        *problems(report),
    ]
    return Content("\n").join(lines)


def _pair(name: str, value: str, width: int, style: str = "") -> Content:
    """Name and value, further lines of it below the first."""
    text = f"\n{'':{_LABEL}}".join(textwrap.wrap(visible(value), max(10, width - _LABEL)))
    return Content.assemble((f"{name:<{_LABEL}}", "$foreground-muted"), (text, style))


def _split(report: dict[str, Any], name: str) -> str:
    files = ", ".join(report["files"].get(name, []))
    return f"{report['rows'][name]:,} rows, {report['tokens'][name]:,} tokens" + (f" ({files})" if files else "")


def _lengths(found: Inspection, split: str, width: int, max_length: int, ascii_only: bool) -> Iterator[Content]:
    """The histogram, and percentiles in words."""
    histogram = found.histograms.get(split)
    if histogram is None:
        yield _pair("lengths", f"no {split} rows", width)
        return
    yield Content.styled(f"tokens a row, {split}", "bold")
    for row in draw(histogram, max_length, max(10, width - 7), CHART_ROWS, ascii_only):
        yield Content.assemble(*((text, COLOURS[style]) for text, style in row))
    lengths = found.report["lengths"].get(split)
    if lengths:
        for name in ("tokens", "answer"):
            yield _pair(name, " ".join(f"{point} {value:,}" for point, value in lengths[name].items()), width)
        yield _pair("answers cut", f"{lengths['answers_cut'] * 100:.1f} % of the rows", width)
    if histogram.lost:
        yield Content.styled(f"{histogram.lost:,} rows keep nothing to learn after the cut: left out", "$text-error")


def problems(report: dict[str, Any]) -> Iterator[Content]:
    """What is wrong or worth knowing, worst first, each with places."""
    found = list(_problems(report))
    yield Content.styled("problems" if found else "no problem found", "bold" if found else "$text-success")
    yield from found


def _problems(report: dict[str, Any]) -> Iterator[Content]:
    if report["refused"]:
        yield Content.styled(visible(f"training would not begin: {report['refused']}"), "bold $text-error")
    for warning in (notice["text"] for notice in report["warnings"]):
        yield Content.styled(visible(f"! {warning}"), "$text-warning")
    for split, kinds in report["dropped"].items():
        for kind, some in kinds.items():
            yield _places(f"left out of {split}, {kind}", some)
    for split, kinds in report["noticed"].items():
        for kind, some in kinds.items():
            yield _places(f"noticed in {split}, {kind}", some)
    for name in ("duplicates", "conflicting_labels", "multiple_references", "unknown_roles"):
        if report[name]["rows"]:
            yield _places(name.replace("_", " "), report[name])
    for pair, some in report["overlap"].items():
        if some["prompt"]:
            yield _places(f"prompts in both {pair.replace('/', ' and ')}", {**some, "rows": some["prompt"]})


def _places(what: str, some: dict[str, Any]) -> Content:
    """`duplicates: 12 rows (a = b; c = d …)`."""
    places = "; ".join(" = ".join(place) if isinstance(place, list) else str(place) for place in some["where"])
    return Content(visible(f"- {what}: {some['rows']:,} rows ({places})"))


def template_text(found: Inspection) -> Content:
    """The chat template as the tokenizer has it, its control characters visible."""
    if found.chat_template is None:
        return Content(visible(found.report["template"]))
    return Content("\n").join(Content(visible(line)) for line in found.chat_template.split("\n"))
