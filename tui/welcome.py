"""Help shown in place of the charts until a run has been started: which keys to press first."""

from __future__ import annotations

from textual.content import Content

from tui.keymap import CommandKeys

STEPS = (
    ("presets", "preset: model, method, settings", "{presets} lists all presets."),
    ("bench.data", "data: a file, a folder, a Hub id", "Try it on the embedded tickets first."),
    ("bench.start", "preview the run, then start it", "Memory, steps, disk space, problems."),
    ("app.quit", "detach: the run continues", "Reattach later from any terminal."),
)
"""(command, or `presets` for the keys of the presets; purpose; details if there is room).

Each fits into 50 columns, the pane's width at 120.
"""
MORE = (
    ("bench.run_ladder", "ladder: every method on the same data"),
    ("bench.runs", "earlier runs: compare, resume, run again"),
    ("app.palette", "search commands, presets, runs and data"),
    ("app.help", "show all keys"),
)
ROOMY = 15
"""Height from which there is room for more than the four steps."""


def welcome(keys: CommandKeys, width: int, height: int) -> list[Content]:
    """The help text for the given size."""
    if height < ROOMY:
        ask = f"{keys.of('app.help')} all keys"
        title = Content.styled("To start a run, press", "bold")
        gap = width - title.cell_length - len(ask)
        head = Content.assemble(title, " " * gap, (ask, "$foreground-muted")) if gap > 1 else title
        return [head, *(_row(key, what, keys) for key, what, _ in STEPS)][:height]
    lines = [Content(""), Content.styled("Train on your data; see what each method costs.", "bold")]
    for key, what, more in STEPS:
        details = more.format(presets=keys.of("bench.presets"))
        lines += [Content(""), _row(key, what, keys), Content.styled(f"{'':9}{details}", "$foreground-muted")]
    rest = [Content(""), *(_row(key, what, keys) for key, what in MORE)]
    return [*lines, *rest[: max(0, height - len(lines))]]


def _row(command: str, what: str, keys: CommandKeys) -> Content:
    key = keys.presets if command == "presets" else keys.of(command)
    return Content.assemble((f"  {key:<7}", "bold $primary"), what)
