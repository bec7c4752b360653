"""The lines around the panes of the bench: head, about and status."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from engine.runs.folder import current_directory
from engine.runs.home import tilde
from tui.header import head_line, live_runs, selection_lines
from tui.keymap import CommandKeys
from tui.screens.live_runs import LiveRuns
from tui.screens.run_follower import RunFollower
from tui.settings import Settings
from tui.widgets.selection_pane import SelectionPane
from tui.widgets.status_line import status

if TYPE_CHECKING:  # imported where it is used: the first frame shows no run
    from engine.runs.run_dir import RunDir


def head_texts(
    selection_pane: SelectionPane, follower: RunFollower, live: LiveRuns, keys: CommandKeys, width: int
) -> tuple[Content, Content]:
    """Host, selection and live runs; below them what the preset is about and what the selection changed."""
    watched = follower.run.path if follower.run else None
    right = live_runs(live.turns, len(live.unqueued), watched, width - 24)
    name = selection_pane.selection.name if selection_pane.effective else ""
    head = head_line(selection_pane.effective, name, right, width)
    if not selection_pane.started:
        return head, Content()
    lines = selection_lines(selection_pane.effective, selection_pane.changed, selection_pane.previous, width, keys)
    return head, Content("\n").join(lines)


def run_title(run: RunDir) -> str:
    """The name of a run, and the directory it was started from where that is not the working directory."""
    directory = run.started_in()
    return f"{run.name} · {tilde(directory)}" if directory not in ("", current_directory()) else run.name


def status_text(follower: RunFollower, live: LiveRuns, settings: Settings, width: int) -> Content:
    """What the watched run is doing, or how it ended and what to do next."""
    return status(
        follower.state,
        follower.live,
        follower.last_output,
        width,
        CommandKeys(settings.keys),
        settings.ascii,
        follower.paused,
        follower.deleted,
        live.has_device(follower.run),
    )
