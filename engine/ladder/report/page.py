"""The report as one HTML file without scripts and requests, and the same in Markdown for a pull request or a wiki.

Text from files and models is escaped in both.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec, metric_text
from engine.config.quantities import integer, percent
from engine.config.text import amount, visible
from engine.ladder.phrases import margin_text, metric_title, rung_title
from engine.ladder.report import record, tables
from engine.ladder.report.figures import ReportFigure, report_figures, rung_styles, summary_figure
from engine.ladder.report.material import Trace, trace
from engine.ladder.report.tables import Cell, ReportTable
from engine.runs.ladder.answers import RungAnswers, answer_files, item_score
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.ladder.report_hooks import extended, report_hooks
from engine.runs.ladder.summary_drawing import MAX_COLUMNS, plain_lines, tradeoff_lines
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import score
from engine.runs.task_hooks import task_hooks

TOPICS = {"artifact": "Artifacts", "decided": "Decisions"}
"""Topic -> its name in the report, if it differs."""
NO_VERDICT = "No rung has finished yet."
NO_RESULTS = "No results yet."
NO_SAMPLES = "No run has predictions to show."
PARTIAL_REPORT = "Partial report: the ladder is still running"
COMPARISONS = (
    "Differences are paired by test item. Their 95% CIs hold simultaneously for all pairs; the adjusted p is below "
    "0.05 exactly where the CI excludes zero. As good within the margin: the CI excludes being worse by more. The "
    "needed test items and seeds give 80% power if the true difference is the observed one."
)
ARTIFACTS = (
    "Artifacts are exported from the runs, loaded from disk in a new process and scored on the same test items. Their "
    "differences from their runs are paired by item, as means over the seeds; their 95% CIs are about these artifacts "
    "and hold simultaneously for all of them. Differences from the base model and from full fine-tuning hold "
    "simultaneously for the artifacts of one kind."
)


def verdict_paragraphs(ladder: Ladder) -> list[tuple[str, str]]:
    """(topic, text): consecutive sentences with the same topic are one paragraph."""
    paragraphs = []
    for topic, group in itertools.groupby(ladder.verdict, key=lambda sentence: sentence.topic):
        texts = [sentence.text for sentence in group]
        name = TOPICS.get(topic, topic.capitalize())
        paragraphs.append((f"{name}s" if topic == "caveat" and len(texts) > 1 else name, " ".join(texts)))
    return paragraphs


def report_title(ladder: Ladder) -> str:
    return f"{ladder.work.model} on {ladder.work.data}" if ladder.work else ladder.preset


def report_facts(ladder: Ladder) -> list[str]:
    """The line below the title: rungs, test items, seeds, margin, device, date."""
    names = [rung_title(row.name) for row in ladder.rows if not row.source]
    names = names or list(dict.fromkeys(rung_title(entry.rung) for entry in ladder.entries))
    texts = [", ".join(names)] if names else []
    if exported := sum(bool(row.source) for row in ladder.rows):
        texts.append(amount(exported, "artifact"))
    if ladder.work:
        metric = metric_text(metric_title(ladder.work.metric), ladder.work.metric_reason)
        texts.append(f"{amount(ladder.work.test, 'test item')}, metric: {metric}")
    if ladder.seeds:
        texts.append(amount(len(ladder.seeds), "seed"))
    if ladder.margin is not None:
        texts.append(f"margin {margin_text(ladder)}")
    if device := ladder.machine.get("device"):
        texts.append(str(device))
    texts.append(date_text(ladder.created))
    return texts


def date_text(seconds: float) -> str:
    """A date in UTC, so that a report does not depend on where it is written."""
    return time.strftime("%d %B %Y, %H:%M UTC", time.gmtime(seconds)).lstrip("0")


def unfinished_text(ladder: Ladder) -> str:
    """The state of a ladder that is not finished, '' if it is."""
    if ladder.status == "finished":
        return ""
    if ladder.status == "running":
        return f"{PARTIAL_REPORT} ({ladder.stage})."
    end = "was stopped" if ladder.status == "stopped" else "failed"
    when = "" if ladder.stage == "done" else f" while {ladder.stage}"
    return f"Partial report: the ladder {end}{when}{f': {ladder.reason}' if ladder.reason else '.'}"


def reading_help(ladder: Ladder) -> list[str]:
    """What intervals, ranges and times mean."""
    several = len(ladder.seeds) > 1
    # How many looks at the ladder its error rate of 5% allows.
    looks = (
        f"The error rate of 5% holds for all looks together, one after every seed from the second to at most the "
        f"{ladder.max_seeds}th: what a look decides has the interval of that look, at the part of the error rate that "
        "was spent on it (Lan and DeMets 1983)."
    )
    if ladder.max_seeds is None:
        looks = (
            f"The error rate of 5% is that of one look, after {amount(len(ladder.seeds), 'seed')}. Adding seeds until "
            "something is significant finds too much; --until-decided allows a look after every seed."
        )
    spread = "over test items and seeds" if several else "over test items and an assumed spread between seeds"
    texts = [
        f"Brackets are 95% confidence intervals (CI) {spread}, pointwise except for differences.",
        looks,
        *(["Two values with a dash are the lowest and the highest seed."] if several else []),
        "Times of a minute or more are m:ss or h:mm:ss. Training time covers optimizer steps only; total time all "
        "phases except waiting for the device and scoring the base model.",
    ]
    if metric_spec(ladder.metric).lower_is_better:
        name = metric_spec(ladder.metric).title
        texts.append(f"The score is the {name}: lower is better, and a negative difference is an improvement.")
    if any(row.source for row in ladder.rows):
        texts.append(ARTIFACTS)
    if any(row.forgetting for row in ladder.rows):
        texts.append("Forgetting is the rise of the loss on held-out general text over the base model’s.")
    if ladder.tasks:
        texts += [hooks.READING for hooks in task_hooks()]
    return texts


def target_heading(texts: Sequence[str]) -> str:
    return "Target" if len(texts) == 1 else f"Target (any of {len(texts)})"


def shown(text: str) -> str:
    """Text from files and models with line breaks kept and control characters made visible."""
    return "\n".join(visible(line) for line in text.split("\n"))


class ReportData:
    """What the HTML page and Markdown are written from: a ladder with its runs, and what extensions add."""

    def __init__(self, directory: LadderDir, ladder: Ladder) -> None:
        self.ladder = ladder = extended(directory, ladder)
        self.parts = [hooks.part(directory) for hooks in report_hooks()]
        self.styles = rung_styles(ladder.methods)
        # The file of a run that also scored the base model is read twice: its problem is reported once.
        problems: dict[str, None] = {}
        self.traces: list[Trace] = []
        without_events = set[Path]()
        for entry in ladder.entries:
            if entry.kind != "run" or not entry.run:
                continue
            run = RunDir(directory.runs / entry.run)
            try:
                run_trace = trace(entry.rung, run.events_file)
            except OSError as error:
                problems[f"cannot read {run.name}/events.jsonl: {error.strerror}"] = None
                continue
            if run_trace:
                self.traces.append(run_trace)
            else:
                problems[f"{run.name} has no events: its directory may have been deleted"] = None
                without_events.add(run.path)
        self.answers = RungAnswers.of(ladder, ladder.metric, first_texts=True)
        for rung, seed, file, who in answer_files(directory, ladder):
            if file.parent in without_events and not file.exists():
                continue  # its directory was deleted, which is reported already
            try:
                self.answers.add(rung, seed, file, who)
            except UserError as error:
                problems[f"{error.problem}: {error.location}"] = None
        self.problems = list(problems)
        """What could not be read and is therefore missing from the report."""


def shown_items(answers: RungAnswers) -> list[int]:
    """The test items that are shown: first those on which the mean scores of the trained rungs differ most; ties are
    ordered by how much the scores of all rungs and base models differ.
    """
    rungs, every = answers.ranges(answers.trained), answers.ranges(answers.by_rung)
    return sorted(range(len(answers.items)), key=lambda item: (-rungs[item], -every[item], item))[:MAX_SAMPLES]


FOLDER = Path(__file__).parent
MAX_SAMPLES, OPEN_SAMPLES = 30, 6
"""Maximum number of test items in the page, and of those that are unfolded; Markdown has only the latter."""


def render_page(data: ReportData) -> str:
    ladder = data.ladder
    drawn, missing = report_figures(ladder, data.styles, data.traces)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            kind="ladder",
            name=ladder.name,
            title=report_title(ladder),
            facts=report_facts(ladder),
            unfinished=unfinished_text(ladder),
            ladder=ladder,
            summary=ladder.summary,
            summary_table=tables.summary_table(ladder.summary) if ladder.summary else None,
            headline_figure=summary_figure(ladder.summary, data.styles),
            styles=data.styles,
            tables=tables.results(ladder),
            comparisons=tables.comparisons(ladder),
            parts=data.parts,
            figures=drawn,
            missing=missing,
            answers=data.answers,
            shown=shown_items(data.answers),
            differing=sum(map(bool, data.answers.ranges(data.answers.trained))),
            metric=ladder.metric,
            answered=metric_spec(ladder.metric).needs_answers,
            problems=data.problems,
            configuration=record.configuration(ladder),
            commands=record.commands(ladder),
        )
    )


@dataclass(frozen=True, kw_only=True)
class OverviewPage:
    """A page that has tables, and none of the parts of a ladder."""

    kind: str
    name: str
    title: str
    facts: Sequence[str]
    results: Sequence[ReportTable]
    sentences: Sequence[str]
    headline: str = ""
    figures: Sequence[ReportFigure] = ()
    reading: str = ""
    """How to read the tables."""
    unfinished: str = ""
    """Why parts are missing."""
    command: str = ""
    """What writes it again."""

    def render(self) -> str:
        """The page, without scripts and requests."""
        return environment().get_template("overview.html.jinja").render(vars(self), styles={})


@cache
def environment() -> Environment:
    """Templates of the pages, in which everything is escaped."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_literal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "css": Markup((FOLDER / "page.css").read_text("utf-8")),
        "COMPARISONS": COMPARISONS,
        "NO_RESULTS": NO_RESULTS,
        "NO_SAMPLES": NO_SAMPLES,
        "NO_VERDICT": NO_VERDICT,
        "reading_help": reading_help,
        "target_heading": target_heading,
        "verdict_paragraphs": verdict_paragraphs,
        "rung_title": rung_title,
        "integer": integer,
        "open_samples": OPEN_SAMPLES,
        "svg": Markup,
        "marks": marks,
    }
    environment.filters |= {"unbroken": unbroken, "with_code": with_code}
    return environment


def _literal(text: Any) -> Any:
    """Applied to every `{{ … }}` before escaping: makes control characters visible and keeps line breaks."""
    return shown(text) if isinstance(text, str) and not isinstance(text, Markup) else text


def with_code(text: str) -> Markup:
    """The text as HTML, with what is between backticks as code."""
    return Markup(re.sub(r"`([^`\n]+)`", r"<code>\1</code>", str(escape(shown(text)))))


def unbroken(text: str) -> str:
    """The text with no-break spaces between numbers and units."""
    units = r"s|points|nats/token|[KMGT]iB|k?J|kWh|[A-Z]{3}"
    return re.sub(rf"(?<=\d) (?=(?:{units})(?![\w]))", "\u00a0", text)


def marks(answers: list[ScoredItem], metric: str) -> str:
    """The scores of a rung's seeds on one test item."""
    spec = metric_spec(metric)
    values = [item_score(answer, metric) for answer in answers]
    texts = [percent(v, 0) if spec.is_share else score(v, metric) for v in values if v is not None]
    return (", ".join(texts) + ("" if spec.is_share else f" {spec.unit}")) if texts else ""


def render_markdown(data: ReportData) -> str:
    ladder, summary, metric = data.ladder, data.ladder.summary, data.ladder.metric
    facts = " · ".join([f"ftbench ladder {ladder.name}", *report_facts(ladder)])
    parts = [f"# {escape_inline(report_title(ladder))}", escape_inline(facts)]
    if unfinished := unfinished_text(ladder):
        parts.append(f"> {escape_inline(unfinished)}")
    if summary:
        parts += [f"**{escape_inline(' · '.join(summary.decision))}**", markdown_lines(tables.summary_table(summary))]
        if figure := tradeoff_lines(summary, MAX_COLUMNS):
            parts.append(fenced("\n".join(plain_lines(figure))))
        parts.append(escape_inline(summary.headline))
    verdict = bullets(f"**{topic}.** {escape_inline(text)}" for topic, text in verdict_paragraphs(ladder))
    parts.append(verdict or NO_VERDICT)

    if ladder.rows:
        added = [table for part in data.parts for table in part.tables]
        shown_tables = [*tables.results(ladder), *added, tables.comparisons(ladder)]
        parts += ["## Results", *(markdown_table(table) for table in shown_tables if table)]
        notes = [*reading_help(ladder), COMPARISONS, *(part.note for part in data.parts if part.tables)]
        parts += ["### How to read these tables", bullets(map(escape_inline, notes))]

    answers, samples = data.answers, shown_items(data.answers)[:OPEN_SAMPLES]
    count = f"{len(samples)} of {integer(len(answers.items))} test items"
    order = "Items on which the rungs differ most come first."
    parts += ["## Samples", f"{count}. {order}" if samples else NO_SAMPLES]
    for number in samples:
        line = answers.items[number]
        parts += [f"### Item {line.item} · {escape_inline(line.where)}", "Prompt:", fenced(line.prompt)]
        parts += [f"{target_heading(line.targets)}:", *map(fenced, line.targets)]
        for name in filter(answers.by_rung.__contains__, data.styles):
            given = answers.of_item(name, number)
            scores = marks(given, metric)
            scored = f" ({scores})" if scores else ""
            parts += [f"{escape_inline(rung_title(name))}{scored}:", fenced(given[0].output)]

    parts += ["## Configuration", *map(markdown_table, itertools.chain(*record.configuration(ladder).values()))]
    for title, text in (folded for part in data.parts for folded in part.texts):
        parts += [f"### {escape_inline(title)}", fenced(text)]
    if warnings := [*ladder.warnings, *data.problems]:
        parts += ["### Warnings", bullets(map(escape_inline, warnings))]
    parts.append("## Reproduce")
    for title, command in record.commands(ladder):
        parts += [f"{escape_inline(title)}:", fenced(command)]
    return "\n\n".join(parts) + "\n"


def markdown_table(given: ReportTable) -> str:
    """The table with its heading."""
    return f"### {escape_inline(given.title)}\n\n{markdown_lines(given)}"


def markdown_lines(given: ReportTable) -> str:
    """The table with its notes. A cell's details follow its value."""

    def cell_text(cell: Cell) -> str:
        text = escape_inline(" · ".join([cell.text, *cell.details])) or " "
        return f"[{text}]({cell.link})" if cell.link else text

    heads = [given.first, *(f"{c.group}: {c.head}" if c.group else c.head for c in given.columns)]
    lines = [list(map(escape_inline, heads)), ["---", *("---" if c.words else "---:" for c in given.columns)]]
    for line in given.lines:
        lines.append([cell_text(line.head), *([*map(cell_text, line.cells)] or [escape_inline(line.instead)])])
    notes = "".join(f"\n\n{escape_inline(note)}" for note in given.notes)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + notes


def escape_inline(text: str) -> str:
    """Text on one line in which nothing is markup, with as few escapes as possible."""
    text = visible(text).replace("&", "&amp;").replace("<", "&lt;")
    text = re.sub(r"[\\`*|~$]|(?<!\w)_|_(?!\w)|\](?=[(:\[])", lambda match: f"\\{match[0]}", text)
    text = re.sub(r"^(\s*)([-+](?=\s|$|--)|=+$|>|#)", r"\1\\\2", text)  # at the start of a line: list, heading, quote
    return re.sub(r"^(\s*\d+)([.)]\s)", r"\1\\\2", text)


def fenced(text: str) -> str:
    """Text as a fenced code block that it cannot close."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{shown(text)}\n{fence}"


def bullets(texts: Iterable[str]) -> str:
    return "\n".join(f"- {text}" for text in texts)
