"""The report as Markdown, with the same tables and texts, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.config.quantities import integer
from engine.config.text import visible
from engine.ladder.phrases import rung_title
from engine.ladder.report import artifact_tables, benchmark_tables, captions, cost_tables, quality_tables, record
from engine.ladder.report.page import marks
from engine.ladder.report.report_data import ReportData
from engine.ladder.report.samples import ItemAnswers
from engine.ladder.report.table import Cell, ReportTable
from engine.runs.ladder import Ladder
from engine.runs.rung_results import LadderSummary
from engine.runs.tradeoff_text import MAX_COLUMNS, tradeoff_lines

MAX_SAMPLES = 6


def render(data: ReportData) -> str:
    """The Markdown of the report."""
    ladder = data.ladder
    facts = " · ".join([f"ftbench ladder {ladder.name}", *captions.facts(ladder)])
    parts = [f"# {escape_inline(captions.title(ladder))}", escape_inline(facts)]
    if unfinished := captions.unfinished(ladder):
        parts.append(f"> {escape_inline(unfinished)}")
    parts += _summary(data.summary) if data.summary else []
    said = (
        bullets(f"**{topic}.** {escape_inline(text)}" for topic, text in captions.verdict(ladder))
        or captions.NO_VERDICT
    )
    parts += _results(ladder, said) if ladder.rows else ["## Verdict", said]
    parts += ["## Samples", *_samples(data)]
    parts += ["## Configuration", *_configuration(ladder)]
    if warnings := [*ladder.warnings, *data.problems]:
        parts += ["### Warnings", bullets(map(escape_inline, warnings))]
    parts.append("## Reproduce")
    for title, command in record.commands(data.directory, ladder):
        parts += [f"{escape_inline(title)}:", fenced(command)]
    return "\n\n".join(parts) + "\n"


def table(given: ReportTable) -> str:
    """The table with its heading and notes. A cell's details follow its value."""
    heads = [given.first, *(f"{c.group}: {c.head}" if c.group else c.head for c in given.columns)]
    aligned = ["---", *("---" if column.words else "---:" for column in given.columns)]
    rows = [[_cell(line.head), *([*map(_cell, line.cells)] or [escape_inline(line.instead)])] for line in given.lines]
    lines = [list(map(escape_inline, heads)), aligned, *rows]
    notes = "".join(f"\n\n{escape_inline(note)}" for note in given.notes)
    return f"### {escape_inline(given.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + notes


def escape_inline(text: str) -> str:
    """Text on one line in which nothing is markup, with as few escapes as possible."""
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(:\[])", lambda found: f"\\{found[0]}", text)
    text = re.sub(r"^(\s*)([-+](?=\s|$|--)|=+$|>|#)", r"\1\\\2", text)  # at the start of a line: list, heading, quote
    return re.sub(r"^(\s*\d+)([.)]\s)", r"\1\\\2", text)


def fenced(text: str) -> str:
    """Text as a fenced code block that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{captions.shown(text)}\n{fence}"


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _summary(summary: LadderSummary) -> list[str]:
    """Headline, figure and sentences."""
    figure = tradeoff_lines(summary, MAX_COLUMNS)
    return [
        f"**{escape_inline(summary.headline)}**",
        *([fenced("\n".join(figure))] if figure else []),
        "\n".join(f"{number}. {escape_inline(text)}" for number, text in enumerate(summary.sentences, 1)),
    ]


def _results(ladder: Ladder, verdict: str) -> list[str]:
    tables = [
        quality_tables.quality(ladder),
        cost_tables.time_and_price(ladder),
        cost_tables.memory_and_size(ladder),
        *filter(None, [benchmark_tables.benchmarks(ladder), artifact_tables.artifacts(ladder)]),
    ]
    details = filter(None, [quality_tables.by_seed(ladder), quality_tables.comparisons(ladder)])
    reading = bullets(map(escape_inline, [*captions.reading(ladder), captions.COMPARISONS]))
    parts = ["## Results", *map(table, tables), "## Verdict", verdict, *map(table, details)]
    return [*parts, "### How to read these tables", reading]


def _configuration(ladder: Ladder) -> list[str]:
    sections = [
        record.settings_table(ladder),
        record.work(ladder),
        record.two_columns(record.SHARED_SETTINGS, ladder.config),
        record.trials(ladder),
        record.runs(ladder),
        record.two_columns("Versions", ladder.versions),
        record.machine(ladder),
    ]
    return [table(section) for section in sections if section and section.lines]


def _cell(cell: Cell) -> str:
    text = escape_inline(" · ".join([cell.text, *cell.details])) or " "
    return f"[{text}]({cell.link})" if cell.link else text


def _samples(data: ReportData) -> list[str]:
    samples = data.samples
    if not samples.shown:
        return [captions.NO_SAMPLES]
    count = min(MAX_SAMPLES, len(samples.shown))
    parts = [f"{count} of {integer(samples.items)} test items. Items on which the rungs differ most come first."]
    for sample in samples.shown[:MAX_SAMPLES]:
        parts += _sample(data, sample)
    return parts


def _sample(data: ReportData, sample: ItemAnswers) -> list[str]:
    metric = data.ladder.work.metric if data.ladder.work else "loss"
    parts = [f"### Item {sample.item} · {escape_inline(sample.where)}"]
    parts += ["Prompt:", fenced(sample.prompt), captions.targets(sample.targets) + ":", *map(fenced, sample.targets)]
    for name in data.styles:
        if answers := sample.answers.get(name):
            scores = marks(answers if data.styles[name].marker else answers[:1], metric)
            parts += [
                f"{escape_inline(rung_title(name))}{f' ({scores})' if scores else ''}:",
                fenced(answers[0].output),
            ]
    return parts
