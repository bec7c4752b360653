"""A drawn figure as inline SVG that takes its colours and fonts from the page: light, dark and on paper."""

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
"""So that the same numbers give the same bytes."""


def inline(figure: Figure, name: str, description: str) -> str:
    """The figure's `<svg>` element; `name` (letters and dashes) keeps its ids apart from other figures'."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata=NO_METADATA)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    for unwanted in (r"<!--.*?-->", r"<metadata>.*?</metadata>", r"<style\b.*?</style>"):  # the style would leak
        text = re.sub(unwanted, "", text, flags=re.DOTALL)
    text = _own_ids(text, name)
    text = re.sub("|".join(VARIABLES), lambda found: f"var({VARIABLES[found[0]]})", text)
    # The page's font, in the figure's size: what is written in the attribute would win over the style sheet.
    text = re.sub(r"font: (?:[a-z]+ |\d+ )*([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"\n\s*", "\n", text)
    return _with_root(text, description).strip()


def _own_ids(text: str, name: str) -> str:
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text)
    return re.sub(r'xlink:href="#', f'href="#{name}-', text)


def _with_root(text: str, description: str) -> str:
    """The root element: as wide as its place, with a text for who cannot see it."""
    box = re.search(r'viewBox="[^"]*"', text)
    if box is None:
        raise ValueError("matplotlib wrote an SVG without a viewBox")
    return re.sub(
        r"<svg\b[^>]*>",
        lambda _: f'<svg {box[0]} role="img" aria-label="{escape(visible(description))}">',
        text,
        count=1,
    )
