"""The report as one HTML file without scripts and requests; text from files and models is escaped."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.config.metric_specs import LOSS, metric_spec
from engine.config.quantities import integer, percent
from engine.ladder.phrases import rung_title
from engine.ladder.report import artifact_tables, benchmark_tables, captions, cost_tables, quality_tables, record
from engine.ladder.report.report_data import ReportData, figures
from engine.ladder.report.samples import ModelAnswer, value
from engine.runs.score_format import score

FOLDER = Path(__file__).parent
OPEN_SAMPLES = 6
"""Samples shown unfolded."""


def render(data: ReportData) -> str:
    """The HTML of the page."""
    ladder = data.ladder
    drawn, missing = figures(data)
    return (
        environment()
        .get_template("page.html.jinja")
        .render(
            ladder=ladder,
            summary=data.summary,
            headline_figure=data.headline_figure,
            styles=data.styles,
            tables=[
                quality_tables.quality(ladder),
                cost_tables.time_and_price(ladder),
                cost_tables.memory_and_size(ladder),
                *filter(None, [benchmark_tables.benchmarks(ladder), artifact_tables.artifacts(ladder)]),
            ],
            by_seed=quality_tables.by_seed(ladder),
            comparisons=quality_tables.comparisons(ladder),
            figures=drawn,
            missing=missing,
            samples=data.samples,
            metric=ladder.work.metric if ladder.work else LOSS.name,
            answered=ladder.work is not None and metric_spec(ladder.work.metric).needs_answers,
            problems=data.problems,
            work=record.work(ladder),
            differing=record.settings_table(ladder),
            shared=record.two_columns(record.SHARED_SETTINGS, ladder.config),
            runs=record.runs(ladder),
            trials=record.trials(ladder),
            versions=record.two_columns("Versions", ladder.versions),
            machine=record.machine(ladder),
            commands=record.commands(data.directory, ladder),
        )
    )


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
        "captions": captions,
        "rung_title": rung_title,
        "integer": integer,
        "open_samples": OPEN_SAMPLES,
        "svg": Markup,
        "marks": marks,
    }
    environment.filters |= {"unbroken": unbroken}
    return environment


def _literal(text: Any) -> Any:
    """Applied to every `{{ … }}` before escaping: makes control characters visible and keeps line breaks."""
    return captions.shown(text) if isinstance(text, str) and not isinstance(text, Markup) else text


def unbroken(text: str) -> str:
    """The text with no-break spaces between numbers and units."""
    units = r"s|points|nats/token|[KMGT]iB|k?J|kWh|[A-Z]{3}"
    return re.sub(rf"(?<=\d) (?=(?:{units})(?![\w]))", "\u00a0", text)


def marks(answers: list[ModelAnswer], metric: str) -> str:
    """The scores of a rung's seeds on one test item."""
    spec = metric_spec(metric)
    values = [value(answer, metric) for answer in answers]
    texts = [percent(v, 0) if spec.is_share else score(v, metric) for v in values if v is not None]
    return (", ".join(texts) + ("" if spec.is_share else f" {spec.unit}")) if texts else ""
