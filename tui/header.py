"""The header of the bench, what the selection changed, and the welcome of an empty bench."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from engine.config.method_specs import method_title
from engine.config.text import visible
from engine.runs.home import tilde
from engine.runs.run.folder import current_directory, short_name
from tui.format import last_part
from tui.keymap import CommandKeys

if TYPE_CHECKING:  # for annotations only: presets and runs are read after the first paint
    from engine.config.preset import EffectiveConfig
    from engine.config.schema import Config
    from engine.runs.run.run_dir import RunDir


def head_line(left: Content, waiting: int, others: int, width: int) -> Content:
    """The watched run at the left, truncated if needed; host, queue and time at the right.

    `waiting` runs are in the queues, `others` other runs are running.
    """
    right = [visible(socket.gethostname(), 24)]
    right += [f"queue {waiting}"] if waiting else []
    right += [f"+{others} active"] if others else []
    right.append(time.strftime("%H:%M"))
    end = "  ".join(right) + " "
    left = left.truncate(max(9, width - len(end) - 1), ellipsis=True)
    return Content.assemble(left, " " * max(1, width - left.cell_length - len(end)), (end, "$foreground-muted"))


def run_text(run: RunDir, config: Config | None, live: bool | None, waiting: bool) -> Content:
    """`▶ qlora-51b3  Qwen3-8B QLoRA on mails.csv`, and where it was started if that is another directory."""
    mark, style = ("…" if waiting else "▶", "$text-success") if live else ("■", "$foreground-muted")
    what = ""
    if config is not None:
        what = f"  {last_part(config.model.id)} {method_title(config.method)} on {last_part(config.data.id)}"
    directory = run.started_in()
    elsewhere = f" · {tilde(directory)}" if directory not in ("", current_directory()) else ""
    return Content.assemble((f" {mark} {visible(short_name(run.name))}", f"bold {style}"), visible(what + elsewhere))


def selection_line(
    effective: EffectiveConfig | None, changed: Sequence[str], before: str, width: int, keys: CommandKeys
) -> Content:
    """What the selection changed, else what its preset is about."""
    if effective is None:
        return Content(f" no valid preset: press {keys.of('bench.presets')} to list them with their errors")
    if before and changed:
        fitting = _fitting(changed, width, before, keys.of("bench.config"))
        return Content.assemble((visible(f" changes from {before}: "), "$foreground-muted"), fitting)
    return Content.styled(visible(f" {effective.config.about or effective.config.title}"), "$foreground-muted")


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
    ("bench.start", "preview the run, then start it", "Memory, time, steps, problems."),
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


def welcome(keys: CommandKeys, width: int, height: int, resumable: Sequence[str] = ()) -> list[Content]:
    """The help text for the given size; first the runs that can be resumed."""
    if resumable:
        lines = [Content.assemble(("Can be resumed", "bold"), f" with {keys.of('bench.resume')}, the first one:")]
        lines += [Content.assemble(("  ", ""), visible(text)) for text in resumable]
        return [*lines[: height - 2], *welcome(keys, width, max(2, height - len(lines)))][:height]
    if height < ROOMY:
        ask = f"{keys.of('app.help')} all keys"
        title = Content.styled("To start a run, press", "bold")
        gap = width - title.cell_length - len(ask)
        head = Content.assemble(title, " " * gap, (ask, "$foreground-muted")) if gap > 1 else title
        if height <= len(STEPS):
            steps = (_row(key, re.split("[:,]", what)[0], keys, 0) for key, what, _ in STEPS)
            return [head, Content("  ").join(steps)][:height]
        return [head, *(_row(key, what, keys) for key, what, _ in STEPS)]
    lines = [Content(""), Content.styled("Train on your data; see what each method costs.", "bold")]
    for key, what, more in STEPS:
        details = more.format(presets=keys.of("bench.presets"))
        lines += [Content(""), _row(key, what, keys), Content.styled(f"{'':9}{details}", "$foreground-muted")]
    rest = [Content(""), *(_row(key, what, keys) for key, what in MORE)]
    return [*lines, *rest[: max(0, height - len(lines))]]


def _row(command: str, what: str, keys: CommandKeys, key_width: int = 7) -> Content:
    key = keys.presets if command == "presets" else keys.of(command)
    return Content.assemble((f"  {f'{key} ':<{key_width}}", "bold $primary"), what)
