"""The header of the bench, and the welcome of an empty one."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from engine.config.text import visible
from engine.runs.queue.device_queue import COMMANDS
from engine.runs.run.folder import short_name
from tui.keymap import CommandKeys

if TYPE_CHECKING:  # for annotations only: presets and the queue are read after the first paint
    from engine.config.preset import EffectiveConfig
    from engine.runs.queue.device_queue import QueuePlace
    from tui.keymap import CommandKeys


def head_line(effective: EffectiveConfig | None, name: str, live: Content, width: int) -> Content:
    """Host and selection at the left, truncated if needed; active runs at the right."""
    what = f" {socket.gethostname()}"
    if effective is not None:
        config = effective.config
        data = Path(config.data.id).name if config.data.id.startswith("/") else config.data.id
        what += f" · {config.title or name} · {config.method} · {config.model.id} on {data}"
    left = Content.assemble((" ftbench ", "bold reverse"), visible(what))
    room = width - live.cell_length - 1
    left = left.truncate(max(9, room), ellipsis=True)
    return Content.assemble(left, " " * max(1, width - left.cell_length - live.cell_length), live)


def live_runs(turns: Sequence[QueuePlace], others: int, watched: Path | None, room: int) -> Content:
    """`▶ lora-3f2a  1 full-b2c4  2 lora-99aa`: the running run, then the queue; the watched run is underlined.

    `others` is the number of active runs outside the queue, started with --now. Runs that do not fit into `room`
    columns are counted.
    """
    shown = list(turns)
    while True:
        left = len(turns) - len(shown)
        parts = [_turn(turn, turn.run == watched) for turn in shown]
        parts += [Content.styled(f"{left} more queued", "$text-warning")] if left else []
        parts += [Content.styled(f"+{others} active", "$text-success")] if others else []
        line = Content("  ").join(parts)
        spare = [turn for turn in shown if turn.place and turn.run != watched]
        if line.cell_length <= room or not spare:
            return line
        shown.remove(spare[-1])


def _turn(turn: QueuePlace, watched: bool) -> Content:
    style = "$text-success" if turn.place == 0 else "$text-warning"
    style += " bold underline" if watched else ""
    return Content.styled(f"{turn.place or '▶'} {visible(_queued_name(turn.run))}", style)


def _queued_name(run: Path) -> str:
    """`lora-3f2a`, or `export lora-3f2a`."""
    command = f"{run.name} " if run.name in COMMANDS else ""
    return command + short_name(run.parent.name if command else run.name)


def selection_lines(
    effective: EffectiveConfig | None, changed: Sequence[str], before: str, width: int, keys: CommandKeys
) -> list[Content]:
    """Description of the chosen preset, and its differences from the previous selection."""
    if effective is None:
        key = keys.of("bench.presets")
        return [Content(f"no valid preset: press {key} to list them with their errors"), Content("")]
    about = Content.styled(visible(f" {effective.config.about or effective.config.title}"), "$foreground-muted")
    if not before:
        other = f" press {keys.presets} for a preset, {keys.of('bench.method')} for a method"
        return [about, Content(f"{other}, {keys.of('bench.start')} to preview the run")]
    if not changed:
        return [about, Content.styled(visible(f" same as {before}"), "$foreground-muted")]
    fitting = _fitting(changed, width, before, keys.of("bench.config"))
    return [about, Content.assemble((visible(f" changes from {before}: "), "$foreground-muted"), fitting)]


def _fitting(changed: Sequence[str], width: int, before: str, key: str) -> str:
    """As many changes as fit, and the number of the others with the key that shows them."""
    room = width - cell_len(f" changes from {before}: ") - 1
    shown: list[str] = []
    for number, change in enumerate(changed):
        rest = len(changed) - number - 1
        tail = f", {rest} more ({key})" if rest else ""
        if cell_len(", ".join([*shown, visible(change)]) + tail) > room:
            return ", ".join([*shown, f"{len(changed) - len(shown)} more ({key})"])
        shown.append(visible(change))
    return ", ".join(shown)


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
