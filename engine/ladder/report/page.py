"""The report as one HTML file: no script, no request, every foreign string literal text."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from engine.config.metric_specs import metric_spec
from engine.ladder.format import percent, rung, score, whole
from engine.ladder.report import cost, kept, record, words
from engine.ladder.report.material import Material, figures
from engine.ladder.report.samples import Answer, value

HERE = Path(__file__).parent
OPEN = 6
"""Samples shown unfolded."""


def render(material: Material) -> str:
    """The page's text."""
    ladder = material.ladder
    drawn, undrawn = figures(material)
    return (
        _environment()
        .get_template("page.html.jinja")
        .render(
            ladder=ladder,
            styles=material.styles,
            tables=[kept.quality(ladder), cost.time_and_money(ladder), cost.memory_and_size(ladder)],
            by_seed=kept.by_seed(ladder),
            comparisons=kept.comparisons(ladder),
            figures=drawn,
            undrawn=undrawn,
            samples=material.samples,
            metric=ladder.work.metric if ladder.work else "loss",
            problems=material.problems,
            work=record.work(ladder),
            differing=record.differing(ladder),
            shared=record.two_columns("The configuration all rungs share", ladder.config),
            runs=record.runs(ladder),
            versions=record.two_columns("Versions", ladder.versions),
            machine=record.machine(ladder),
            commands=record.commands(material.directory, ladder),
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_literal,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "css": Markup((HERE / "page.css").read_text("utf-8")),
        "words": words,
        "rung": rung,
        "whole": whole,
        "open_samples": OPEN,
        "svg": Markup,
        "marks": marks,
    }
    environment.filters |= {"unbroken": unbroken}
    return environment


def _literal(text: Any) -> Any:
    """What every `{{ … }}` goes through before it is escaped: control characters become visible, lines stay lines."""
    return words.shown(text) if isinstance(text, str) and not isinstance(text, Markup) else text


def unbroken(text: str) -> str:
    """The text with its numbers kept beside their units at a line's end."""
    units = r"%|×|s|points|[KMGT]iB|k?J|kWh|[kMB]|[A-Z]{3}"
    return re.sub(rf"(?<=\d) (?=(?:{units})(?![\w]))", "\u00a0", text)


def marks(answers: list[Answer], metric: str) -> str:
    """The scores of a rung's seeds on one item."""
    spec = metric_spec(metric)
    values = [value(answer, metric) for answer in answers]
    texts = [percent(v, 0) if spec.is_share else score(v, metric) for v in values if v is not None]
    return (", ".join(texts) + ("" if spec.is_share else f" {spec.unit}")) if texts else ""
