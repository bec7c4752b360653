"""Figures as inline SVG with the page's colors and fonts, for light and dark screens and print."""

from __future__ import annotations

import io
import re
from html import escape
from typing import TYPE_CHECKING

from engine.config.text import visible
from engine.ladder.report.palette import VARIABLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
"""Left out, so that the same numbers give the same bytes."""


def inline_svg(figure: Figure, name: str, description: str) -> str:
    """The figure's `<svg>` element. `name` (letters and dashes) makes its ids unique on the page."""
    from matplotlib import rc_context  # see drawing.new_figure

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (
        r"<!--.*?-->",
        r"<metadata>.*?</metadata>",
        r"<style\b.*?</style>",
    ):  # a style would apply to the whole page
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = _prefix_ids(text, name)
    text = re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", text)
    # Keep the size only: a font in the attribute would override the page's font.
    text = re.sub(r"font: (?:[a-z]+ |\d+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\n\s*", "\n", text)
    return _with_root(text, description).strip()


def _prefix_ids(text: str, name: str) -> str:
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'href="#{name}-', text)


def _with_root(text: str, description: str) -> str:
    """The root element with a text for screen readers and without a fixed width."""
    box = re.search(r'viewBox="[^"]*"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    return re.sub(
        r"<svg\b[^>]*>",
        lambda _: f'<svg {box[0]} role="img" aria-label="{escape(visible(description))}">',
        text,
        count=1,
    )
