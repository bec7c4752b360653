"""A ladder's report: one HTML page, and the same in Markdown, beside `ladder.json`."""

from __future__ import annotations

from engine.config.files import write_atomically
from engine.ladder.report import markdown, page
from engine.ladder.report.material import gather
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir


def write(ladder_dir: LadderDir, ladder: Ladder) -> None:
    """`report.html` and `report.md`, each whole or not at all. Raises OSError where they cannot be written."""
    material = gather(ladder_dir, ladder)
    write_atomically(ladder_dir.page, page.render(material).encode())
    write_atomically(ladder_dir.markdown, markdown.render(material).encode())
