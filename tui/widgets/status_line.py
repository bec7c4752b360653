"""The status line: phase, step, loss, speed and time left of a run; or how it ended and what to do next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.content import Content

from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration
from engine.config.text import visible
from tui.charts.bars import StyledText, bar
from tui.format import number
from tui.keymap import CommandKeys

if TYPE_CHECKING:  # imported where they are used: the first frame shows no run
    from engine.runs.run import events
    from tui.live.run_state import RunState

BAR_WIDTH = 18
SILENT_EXIT = "no error message: the worker was killed, or the machine ran out of memory"
TITLES = {"failed": "failed", "out_of_memory": "out of memory", "diverged": "diverged", "stopped": "stopped"}


def status(
    state: RunState | None,
    live: bool | None,
    last_output: str | None,
    width: int = 200,
    keys: CommandKeys | None = None,
    ascii_only: bool = False,
    paused: bool = False,
    deleted: bool = False,
    has_device: bool = False,
) -> Content:
    """One line for a running run; for an ended one, what happened in at most two lines and the keys that help now.

    `last_output`: the last line printed by a worker that exited without an `end` event, None for every other run.
    `keys`: the default ones if None. `deleted`: the run's directory was deleted. `has_device`: it is first in the
    device queue, which its events tell only with the next phase.
    """
    keys = keys or CommandKeys()
    if state is None:
        return _ready(keys)
    if deleted:
        todo = f"{keys.of('bench.start')} start another   {keys.of('bench.runs')} runs"
        return _ended("run deleted", "its directory no longer exists", "$text-error", todo, width)
    if last_output is not None:
        phase = f" in phase {state.phase}" if state.phase else ""
        reason = f"last log line: {last_output}" if last_output else SILENT_EXIT
        return _ended(
            "died", f"worker exited unexpectedly{phase}; {reason}", "$text-error", _next(state, "died", keys), width
        )
    if state.end is not None and state.end.status == "stopped" and paused:
        where = f"checkpoint at step {state.checkpoint.step}" if state.checkpoint else "before the first step"
        return _ended("paused", f"{where}; uses no GPU", "$text-warning", _next(state, "stopped", keys), width)
    if state.end is not None:
        return _end(state, state.end, keys, width)
    if state.phase == "waiting" and has_device:
        return Content.styled("starting", "bold")
    if state.phase == "waiting":
        return Content.styled(f"waiting in the queue: {visible(state.note)}", "$text-warning")
    suffix = "  (no worker)" if live is False else "  (pausing)" if paused else ""
    return Content.assemble(*_running(state, ascii_only, width - len(suffix)), (suffix, "$foreground-muted"))


def _ready(keys: CommandKeys) -> Content:
    text = f"ready: {keys.presets} preset, {keys.of('bench.start')} start, {keys.of('bench.runs')} runs, "
    return Content.styled(f"{text}{keys.of('app.help')} all keys", "$foreground-muted")


def _running(state: RunState, ascii_only: bool, width: int) -> list[StyledText]:
    """Phase, step, bar, loss, speed, time left; the bar is shortened where the line is too long."""
    parts: list[StyledText] = [(state.phase or "starting", "bold")]
    step, progress = state.step, state.progress
    if progress is not None and progress.total:
        share = min(1.0, progress.done / progress.total)
        rows = f"  {visible(progress.text, 40)} {progress.done:,} of {progress.total:,} rows "
        return [
            *parts,
            (rows, ""),
            *bar(share, min(BAR_WIDTH, width - len(rows) - 12), ascii_only),
            (f" {share:.0%}", ""),
        ]
    if step is None or state.phase != "training":
        return parts
    share = step.step / max(1, step.steps)
    parts += [(f"  step {step.step}/{step.steps} ", ""), (f" {share:.0%}", "")]
    if step.loss is None:
        parts.append(("  loss not finite", "$text-error"))
    elif state.loss.latest is not None:
        parts.append((f"  loss {number(state.loss.latest)}", "$primary"))
    left = state.left()
    parts.append((f"  {step.tokens_per_second:,.0f} tokens/s", ""))
    parts.append((f"  {duration(left)} left" if left is not None else "", ""))
    bar_width = min(BAR_WIDTH, width - sum(len(text) for text, _ in parts))
    return [*parts[:2], *bar(share, bar_width, ascii_only), *parts[2:]]


def _end(state: RunState, end: events.End, keys: CommandKeys, width: int) -> Content:
    todo = _next(state, end.status, keys)
    if end.status == "finished":
        return _ended("finished", _score(state), "$text-success", todo, width)
    style = "$text-warning" if end.status == "stopped" else "$text-error"
    return _ended(TITLES[end.status], end.reason, style, todo, width)


def _score(state: RunState) -> str:
    """Scores on the test rows before and after training."""
    before, after = state.before, state.after
    if after is None:
        return ""
    parts = []
    if after.score is not None and not metric_spec(after.metric).is_loss:
        was = f"{before.score:.1%} -> " if before is not None and before.score is not None else ""
        parts.append(f"{after.metric} {was}{after.score:.1%}")
    if after.loss is not None:
        was = f"{number(before.loss)} -> " if before is not None and before.loss is not None else ""
        parts.append(f"held-out loss {was}{number(after.loss)}")
    return ", ".join(parts)


def _next(state: RunState, how: str, keys: CommandKeys) -> str:
    """The keys that help after a run ended as `how`."""
    start, runs = keys.of("bench.start"), keys.of("bench.runs")
    if how == "finished":
        return f"{runs} compare with other runs   {keys.of('bench.ladder')} ladder   {start} start another"
    if state.error is not None and state.error.user:
        return f"Fix the problem, then press {start} to start again.   {keys.of('bench.config')} configuration"
    resume = f"resume from step {state.checkpoint.step}" if state.checkpoint else "restart from the first step"
    output = "" if how == "stopped" else f"   {keys.of('bench.output')} worker output"
    return f"{keys.of('bench.resume')} {resume}{output}   {start} start another"


def _ended(outcome: str, reason: str, style: str, todo: str, width: int) -> Content:
    """The outcome and its reason, cut to two lines, then a line with what to do."""
    text = f": {visible(reason, max(20, 2 * width - len(outcome) - 8))}" if reason else ""
    return Content.assemble((outcome, f"bold {style}"), (text, style), ("\n", ""), (todo, "$foreground-muted"))
