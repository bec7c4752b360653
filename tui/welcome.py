"""What stands where the curves will be, as long as nothing has been started: what to press first."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from tui.commands import key_of

STEPS = (
    ("1-9", "a preset: model, method, settings", "A whole recipe each; P lists them all."),
    ("bench.data", "your data: a file, a folder, a Hub id", "The embedded tickets do for a first try."),
    ("bench.start", "what will happen, then start", "Memory, steps, disk, and what is wrong."),
    ("app.quit", "leave: the run goes on without you", "Come back later, from any terminal."),
)
"""(key or command, what it is for, more where there is room); each fits the 50 columns of the pane at 120."""
MORE = (
    ("bench.run_ladder", "a ladder: every method on the same rows"),
    ("bench.runs", "earlier runs: compare, resume, run again"),
    ("app.palette", "search commands, presets, runs and data"),
    ("app.help", "every key"),
)
ROOMY = 15
"""Rows from which there is room for more than the four steps."""


def welcome(keys: Mapping[str, str], width: int, height: int) -> list[Content]:
    """As much as has room; `keys` are the user's own."""
    if height < ROOMY:
        ask = f"{_key('app.help', keys)} every key"
        title = Content.styled("Nothing runs. Press", "bold")
        gap = width - title.cell_length - len(ask)
        head = Content.assemble(title, " " * gap, (ask, "$foreground-muted")) if gap > 1 else title
        return [head, *(_row(key, what, keys) for key, what, _ in STEPS)][:height]
    lines = [Content(""), Content.styled("Train on your rows; see what each method costs.", "bold")]
    for key, what, more in STEPS:
        lines += [Content(""), _row(key, what, keys), Content.styled(f"{'':9}{more}", "$foreground-muted")]
    rest = [Content(""), *(_row(key, what, keys) for key, what in MORE)]
    return [*lines, *rest[: max(0, height - len(lines))]]


def _row(key: str, what: str, keys: Mapping[str, str]) -> Content:
    return Content.assemble((f"  {_key(key, keys):<7}", "bold $primary"), what)


def _key(key: str, keys: Mapping[str, str]) -> str:
    return key_of(key, keys) if "." in key else key
