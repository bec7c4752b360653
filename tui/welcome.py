"""Help shown in place of the charts until a run has been started: which keys to press first."""

from __future__ import annotations

from collections.abc import Mapping

from textual.content import Content

from tui.keymap import key_of

STEPS = (
    ("1-9", "preset: model, method, settings", "P lists all presets."),
    ("bench.data", "data: a file, a folder, a Hub id", "Try it on the embedded tickets first."),
    ("bench.start", "preview the run, then start it", "Memory, steps, disk space, problems."),
    ("app.quit", "detach: the run continues", "Reattach later from any terminal."),
)
"""(key or command, purpose, details if there is room); each fits into 50 columns, the pane's width at 120."""
MORE = (
    ("bench.run_ladder", "ladder: every method on the same data"),
    ("bench.runs", "earlier runs: compare, resume, run again"),
    ("app.palette", "search commands, presets, runs and data"),
    ("app.help", "show all keys"),
)
ROOMY = 15
"""Height from which there is room for more than the four steps."""


def welcome(keys: Mapping[str, str], width: int, height: int) -> list[Content]:
    """The help text for the given size; `keys` are the user's key bindings."""
    if height < ROOMY:
        ask = f"{_key('app.help', keys)} all keys"
        title = Content.styled("No active run. Press", "bold")
        gap = width - title.cell_length - len(ask)
        head = Content.assemble(title, " " * gap, (ask, "$foreground-muted")) if gap > 1 else title
        return [head, *(_row(key, what, keys) for key, what, _ in STEPS)][:height]
    lines = [Content(""), Content.styled("Train on your data; see what each method costs.", "bold")]
    for key, what, more in STEPS:
        lines += [Content(""), _row(key, what, keys), Content.styled(f"{'':9}{more}", "$foreground-muted")]
    rest = [Content(""), *(_row(key, what, keys) for key, what in MORE)]
    return [*lines, *rest[: max(0, height - len(lines))]]


def _row(key: str, what: str, keys: Mapping[str, str]) -> Content:
    return Content.assemble((f"  {_key(key, keys):<7}", "bold $primary"), what)


def _key(key: str, keys: Mapping[str, str]) -> str:
    return key_of(key, keys) if "." in key else key
