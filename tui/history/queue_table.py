"""The device queue as a table: who uses each device and who waits, since when, from which directory."""

from __future__ import annotations

from textual.content import Content

from engine.config.quantities import duration
from engine.config.text import visible
from engine.runs.home import tilde
from engine.runs.queue.device_queue import QueuePlace
from engine.runs.run.folder import short_name
from tui.format import moment

COLUMNS = ("device", "state", "run", "since", "for", "process", "started in")
EMPTY_QUEUE = "no run uses or waits for a device"


def cells(entry: QueuePlace, now: float) -> list[str]:
    """The cells of COLUMNS: `GPU 0`, `running` or the place in the queue, run, date, duration, process, directory."""
    run = short_name(entry.name) or "another program"
    return [
        entry.title,
        "running" if entry.place == 0 else f"waiting, place {entry.place}",
        run if entry.what == "run" else f"ftbench {entry.what} {run}",
        moment(entry.since, "%H:%M" if now - entry.since < 86400 / 2 else "%m-%d %H:%M"),
        duration(max(0.0, now - entry.since)),
        str(entry.pid or "–"),
        tilde(entry.started_in) if entry.started_in else "–",
    ]


def queue_lines(entries: list[QueuePlace], now: float, most: int) -> Content:
    """One line per run in the queue, at most `most` lines; how many more there are."""
    if not entries:
        return Content.styled(EMPTY_QUEUE, "$foreground-muted")
    shown = entries if len(entries) <= most else entries[: most - 1]
    rows = [list(map(visible, cells(entry, now))) for entry in shown]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for entry, row in zip(shown, rows, strict=True):
        text = "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        lines.append(Content.styled(text, "$text-success" if entry.place == 0 else "$text-warning"))
    if len(entries) > len(shown):
        lines.append(Content.styled(f"{len(entries) - len(shown)} more waiting", "$text-warning"))
    return Content("\n").join(lines)
