"""The report as Markdown: the same tables and the same strings, for a pull request or a wiki."""

from __future__ import annotations

import re
from collections.abc import Iterable

from engine.config.text import visible
from engine.ladder.format import rung, whole
from engine.ladder.report import cost, kept, record, words
from engine.ladder.report.material import Material
from engine.ladder.report.page import marks
from engine.ladder.report.samples import Sample
from engine.ladder.report.table import Cell, Table

SAMPLES = 6


def render(material: Material) -> str:
    """The report's text."""
    ladder = material.ladder
    about = " · ".join([f"ftbench ladder {ladder.name}", *words.facts(ladder)])
    parts = [f"# {inline(words.title(ladder))}", inline(about)]
    if unfinished := words.unfinished(ladder):
        parts.append(f"> {inline(unfinished)}")
    parts.append("## Verdict")
    parts.append(
        bullets(f"**{topic}.** {inline(said)}" for topic, said in words.verdict(ladder)) or "There is none yet."
    )
    if ladder.rows:
        tables = [kept.quality(ladder), cost.time_and_money(ladder), cost.memory_and_size(ladder)]
        parts += [table(t) for t in (*tables, kept.by_seed(ladder), kept.comparisons(ladder)) if t]
        parts += ["### How to read these tables", bullets(map(inline, [*words.reading(ladder), words.comparing()]))]
    parts += ["## Samples", *_samples(material)]
    parts.append("## Configuration")
    shared = record.two_columns("The configuration all rungs share", ladder.config)
    where = [record.two_columns("Versions", ladder.versions), record.machine(ladder)]
    every = [record.differing(ladder), record.work(ladder), shared, record.runs(ladder), *where]
    parts += [table(t) for t in every if t and t.lines]
    if warnings := [*ladder.warnings, *material.problems]:
        parts += ["### Warnings", bullets(map(inline, warnings))]
    parts.append("## Repeat it")
    for what, command in record.commands(material.directory, ladder):
        parts += [f"{inline(what)}:", fenced(command)]
    return "\n\n".join(parts) + "\n"


def table(given: Table) -> str:
    """A heading, the table, its notes. A cell's details follow its value."""
    heads = [given.first, *(f"{c.group}: {c.head}" if c.group else c.head for c in given.columns)]
    aligned = ["---", *("---" if column.words else "---:" for column in given.columns)]
    rows = [[_cell(line.head), *([*map(_cell, line.cells)] or [inline(line.instead)])] for line in given.lines]
    lines = [list(map(inline, heads)), aligned, *rows]
    notes = "".join(f"\n\n{inline(note)}" for note in given.notes)
    return f"### {inline(given.title)}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + notes


def inline(text: str) -> str:
    """Foreign text on one line in which nothing is markup, with as few escapes as that takes."""
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(:\[])", lambda found: f"\\{found[0]}", text)
    text = re.sub(
        r"^(\s*)([-+](?=\s|$|--)|=+$|>|#)", r"\1\\\2", text
    )  # at a line's beginning: list, heading, quotation
    return re.sub(r"^(\s*\d+)([.)]\s)", r"\1\\\2", text)


def fenced(text: str) -> str:
    """Foreign text as a block that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{words.shown(text)}\n{fence}"


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)


def _cell(cell: Cell) -> str:
    return inline(" · ".join([cell.text, *cell.details])) or " "


def _samples(material: Material) -> list[str]:
    found = material.samples
    if not found.shown:
        return ["No run has left answers to show."]
    few = min(SAMPLES, len(found.shown))
    parts = [f"{few} of {whole(found.items)} test items, those first on which the rungs differ."]
    for sample in found.shown[:SAMPLES]:
        parts += _sample(material, sample)
    return parts


def _sample(material: Material, sample: Sample) -> list[str]:
    metric = material.ladder.work.metric if material.ladder.work else "loss"
    parts = [f"### Item {sample.item} · {inline(sample.where)}"]
    parts += ["Prompt:", fenced(sample.prompt), words.targets(sample.targets) + ":", *map(fenced, sample.targets)]
    for name in material.styles:
        if answers := sample.answers.get(name):
            told = marks(answers if material.styles[name].marker else answers[:1], metric)
            parts += [f"{inline(rung(name))}{f' ({told})' if told else ''}:", fenced(answers[0].output)]
    return parts
