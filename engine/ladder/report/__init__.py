"""A ladder's report: one HTML page, and the same in Markdown, next to `ladder.json`."""

from __future__ import annotations

from engine.config.files import write_atomically
from engine.ladder.report import page
from engine.ladder.report.page import ReportData
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.run_dir import RunDir


def write_again(subject: LadderDir | RunDir) -> None:
    """Write a ladder's report with what an extension adds now; an active ladder writes its own, and runs have none."""
    if isinstance(subject, LadderDir) and not subject.is_active() and (state := subject.state()) is not None:
        write(subject, state)


def write(ladder_dir: LadderDir, ladder: Ladder) -> None:
    """Write `report.html` and `report.md`, each atomically. Raises OSError if they cannot be written."""
    data = ReportData(ladder_dir, ladder)
    write_atomically(ladder_dir.page, page.render_page(data).encode())
    write_atomically(ladder_dir.markdown, page.render_markdown(data).encode())
