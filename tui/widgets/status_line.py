"""The lines at the top of the bench: the watched run, its status, and what the selection changed."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.cells import cell_len
from textual.content import Content

from engine.config.method_specs import method_title
from engine.config.metric_specs import metric_spec
from engine.config.quantities import size
from engine.config.text import visible
from engine.runs.home import tilde
from engine.runs.run.folder import current_directory, short_name
from tui.commands import ADDED_KEYS, CommandKeys
from tui.format import last_part, number

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.config.preset import EffectiveConfig
    from engine.config.schema import Config
    from engine.runs.ladder.ladder_state import Ladder
    from engine.runs.run.run_dir import RunDir
    from tui.live.run_state import RunState
    from tui.preview.launches import FittingRun


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
    if not before or not changed:
        return Content.styled(visible(f" {effective.config.about or effective.config.title}"), "$foreground-muted")
    # as many as fit, and the number of the others with the key that shows them
    head, shown, key = visible(f" changes from {before}: "), list[str](), keys.of("bench.config")
    for place, change in enumerate(map(visible, changed)):
        others = len(changed) - place - 1
        tail = f", {others} more ({key})" if others else ""
        if cell_len(", ".join([*shown, change]) + tail) > width - cell_len(head) - 1:
            shown.append(f"{others + 1} more ({key})")
            break
        shown.append(change)
    return Content.assemble((head, "$foreground-muted"), ", ".join(shown))


SILENT_EXIT = "no error message: the worker was killed, or the machine ran out of memory"


def status(
    state: RunState | None,
    live: bool | None,
    last_output: str | None,
    width: int = 200,
    keys: CommandKeys | None = None,
    paused: bool = False,
    deleted: bool = False,
    has_device: bool = False,
    ladder: Ladder | None = None,
    fitting: Sequence[FittingRun] = (),
) -> Content:
    """One line for a running run; for an ended one, what happened in at most two lines and the keys that help now.

    `last_output`: the last line printed by a worker that exited without an `end` event, None for every other run.
    `keys`: the default ones if None. `deleted`: the run's directory was deleted. `has_device`: it is first in the
    device queue, which its events tell only with the next phase. `ladder`: the running one that the run belongs to.
    `fitting`: what fits in place of a run that ran out of memory.
    """
    keys = keys or CommandKeys()
    if state is None:
        text = f"ready: {keys.presets} preset, {keys.of('bench.start')} start, {keys.of('bench.runs')} runs, "
        return Content.styled(f"{text}{keys.of('app.help')} all keys", "$foreground-muted")
    outcome, reason, style, todo, end = "", "", "$text-error", "", state.end
    if deleted:
        outcome, reason = "run deleted", "its directory no longer exists"
        todo = f"{keys.of('bench.start')} start another   {keys.of('bench.runs')} runs"
    elif last_output is not None:
        phase = f" in phase {state.phase}" if state.phase else ""
        why = f"last log line: {last_output}" if last_output else SILENT_EXIT
        outcome, reason, todo = "died", f"worker exited unexpectedly{phase}; {why}", _next(state, "died", keys)
    elif end is not None and end.status == "stopped" and paused:
        where = f"checkpoint at step {state.checkpoint.step}" if state.checkpoint else "before the first step"
        outcome, reason, style = "paused", f"{where}; uses no GPU", "$text-warning"
        todo = _next(state, "stopped", keys)
    elif end is not None:
        outcome, reason, todo = end.status.replace("_", " "), end.reason, _next(state, end.status, keys, fitting)
        if end.status == "finished":
            reason, style = _score(state), "$text-success"
        elif end.status == "stopped":
            style = "$text-warning"
    if outcome:
        text = f": {visible(reason, max(20, 2 * width - len(outcome) - 10))}" if reason else ""
        mark = MARKS.get(outcome, "✗")
        head = Content.assemble((f"{mark} {outcome}", f"bold {style}"), (text, style))
        gap = "   " if head.cell_length + len(todo) + 3 <= width else "\n"
        return Content.assemble(head, gap, (todo, "$foreground-muted"))
    if state.phase == "waiting" and has_device:
        return Content.styled("starting", "bold")
    if state.phase == "waiting":
        return Content.styled(f"waiting in the queue: {visible(state.note)}", "$text-warning")
    from tui.live.progress import run_progress

    suffix = "  (no worker)" if live is False else "  (pausing)" if paused else ""
    return Content.assemble(*run_progress(state, width - len(suffix), ladder), (suffix, "$foreground-muted"))


def _score(state: RunState) -> str:
    """Scores on the test rows before and after training."""
    from engine.runs.score_format import score  # imports what ladders store

    before, after = (event.score if event else None for event in (state.before, state.after))
    if after is None:
        return ""
    parts = []
    if after.score.mean is not None and not metric_spec(after.metric).is_loss:
        was = f"{score(before.score.mean, after.metric)} -> " if before and before.score.mean is not None else ""
        parts.append(f"{after.metric} {was}{score(after.score.mean, after.metric)}")
    if after.loss.mean is not None:
        was = f"{number(before.loss.mean)} -> " if before and before.loss.mean is not None else ""
        parts.append(f"held-out loss {was}{number(after.loss.mean)}")
    return ", ".join(parts)


MARKS = {"finished": "✓", "stopped": "■", "paused": "■"}
"""Of an ending; a cross for all others."""


def _next(state: RunState, how: str, keys: CommandKeys, fitting: Sequence[FittingRun] = ()) -> str:
    """The keys that help after a run ended as `how`."""
    start, settings, output = keys.of("bench.start"), keys.of("bench.config"), keys.of("bench.output")
    if how == "finished":
        added = [(id, key.command.label) for id, key in ADDED_KEYS.items() if id.startswith("bench.")]
        offered = [*added, ("bench.export", "export"), ("bench.compare", "compare"), ("bench.run_ladder", "ladder")]
        return "   ".join(f"{keys.of(id)} {label}" for id, label in offered)
    if state.error is not None and state.error.user:
        return f"Fix the problem, then {start} start   {settings} settings   {keys.of('bench.models')} model"
    if how == "out_of_memory":
        first, *others = [f"{run.change} ({size(run.peak)} fits)" for run in fitting] or [""]
        smaller = [f"{start} again with {first}", *(f"{keys.of('bench.method')} {other}" for other in others)]
        return "   ".join([*(smaller if first else []), f"{settings} settings", f"{output} worker output"])
    resume = f"resume from step {state.checkpoint.step}" if state.checkpoint else "restart from the first step"
    offered_output = "" if how == "stopped" else f"   {output} worker output"
    return f"{keys.of('bench.resume')} {resume}{offered_output}   {keys.of('bench.new')} new"
