"""What the run is doing, how far, how fast, how long; or what went wrong and what to do next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from textual.content import Content

from engine.config.metric_specs import metric_spec
from engine.config.text import visible
from tui.charts.bar import Part, bar
from tui.commands import key_of
from tui.format import duration, number

if TYPE_CHECKING:  # the first picture has no run
    from engine.runs import events
    from tui.live.run_state import RunState

BAR = 18
SILENT = "without a word: killed, or the machine ran out of memory"
TITLES = {"failed": "failed", "out_of_memory": "out of memory", "diverged": "diverged", "stopped": "stopped"}


def status(
    state: RunState | None,
    live: bool | None,
    died: str | None,
    width: int = 200,
    keys: Mapping[str, str] | None = None,
    ascii_only: bool = False,
    paused: bool = False,
    gone: bool = False,
    has_card: bool = False,
) -> Content:
    """One line while all is well; where a run has ended, what happened in at most two and the next thing to do.

    `died` is how the output ends of a worker that went without an end, `keys` the user's own; `gone`: the run's
    directory was deleted; `has_card`: its turn has come, of which it says nothing before its first phase.
    """
    own = keys or {}
    if state is None:
        say = f"ready: 1-9 preset, {key_of('bench.start', own)} starts, {key_of('bench.runs', own)} runs, "
        return Content.styled(f"{say}{key_of('app.help', own)} every key", "$foreground-muted")
    if gone:
        todo = f"{key_of('bench.start', own)} start another   {key_of('bench.runs', own)} runs"
        return _ended("gone", "its directory has been deleted", "$text-error", todo, width)
    if died is not None:
        phase = f"in phase {state.phase}, " if state.phase else ""
        said = f"its last words: {died}" if died else f"{phase}{SILENT}"
        return _ended("died", said, "$text-error", _next(state, "died", own), width)
    if state.end is not None and state.end.status == "stopped" and paused:
        kept = f"at step {state.checkpoint.step}" if state.checkpoint else "before its first step"
        return _ended("paused", f"{kept}; it holds no card", "$text-warning", _next(state, "stopped", own), width)
    if state.end is not None:
        return _end(state, state.end, own, width)
    if state.phase == "waiting" and has_card:
        return Content.styled("starting", "bold")
    if state.phase == "waiting":
        return Content.styled(f"waiting its turn: {visible(state.note)}", "$text-warning")
    worker = "  (no worker)" if live is False else "  (pausing)" if paused else ""
    return Content.assemble(*_running(state, ascii_only, width - len(worker)), (worker, "$foreground-muted"))


def _running(state: RunState, ascii_only: bool, width: int) -> list[Part]:
    """Phase, step, bar, loss, speed, time left; the bar gives way where there is little room."""
    parts: list[Part] = [(state.phase or "starting", "bold")]
    step, progress = state.step, state.progress
    if progress is not None and progress.total:
        share = min(1.0, progress.done / progress.total)
        said = f"  {visible(progress.text, 40)} {progress.done:,} of {progress.total:,} rows "
        return [*parts, (said, ""), *bar(share, min(BAR, width - len(said) - 12), ascii_only), (f" {share:.0%}", "")]
    if step is None or state.phase != "training":
        return parts
    share = step.step / max(1, step.steps)
    parts += [(f"  step {step.step}/{step.steps} ", ""), (f" {share:.0%}", "")]
    if step.loss is None:
        parts.append(("  loss not finite", "$text-error"))
    elif state.loss.latest is not None:
        parts.append((f"  loss {number(state.loss.latest)}", "$primary"))
    left = state.left()
    parts.append((f"  {step.tokens_per_second:,.0f} tok/s", ""))
    parts.append((f"  {duration(left)} left" if left is not None else "", ""))
    room = min(BAR, width - sum(len(text) for text, _ in parts))
    return [*parts[:2], *bar(share, room, ascii_only), *parts[2:]]


def _end(state: RunState, end: events.End, own: Mapping[str, str], width: int) -> Content:
    todo = _next(state, end.status, own)
    if end.status == "finished":
        return _ended("finished", _score(state), "$text-success", todo, width)
    style = "$text-warning" if end.status == "stopped" else "$text-error"
    return _ended(TITLES[end.status], end.reason, style, todo, width)


def _score(state: RunState) -> str:
    """What it was before and is now, on the test rows."""
    before, after = state.before, state.after
    if after is None:
        return ""
    parts = []
    if after.score is not None and metric_spec(after.metric).needs_answers:
        was = f"{before.score:.1%} -> " if before is not None and before.score is not None else ""
        parts.append(f"{after.metric} {was}{after.score:.1%}")
    if after.loss is not None:
        was = f"{number(before.loss)} -> " if before is not None and before.loss is not None else ""
        parts.append(f"held-out loss {was}{number(after.loss)}")
    return ", ".join(parts)


def _next(state: RunState, how: str, own: Mapping[str, str]) -> str:
    """The keys that help now."""
    start, runs = key_of("bench.start", own), key_of("bench.runs", own)
    if how == "finished":
        return f"{runs} compare it with other runs   {key_of('bench.ladder', own)} ladder   {start} start another"
    if state.error is not None and state.error.user:
        return f"mend that, then {start} start it again   {key_of('bench.config', own)} its configuration"
    kept = state.checkpoint
    where = f"go on from step {kept.step}" if kept else "start it again from the beginning"
    printed = "" if how == "stopped" else f"   {key_of('bench.output', own)} what it printed"
    return f"{key_of('bench.resume', own)} {where}{printed}   {start} start another"


def _ended(what: str, said: str, style: str, todo: str, width: int) -> Content:
    """What happened, cut to two lines, and a line of what to do."""
    room = max(20, 2 * width - len(what) - 8)
    text = f": {visible(said, room)}" if said else ""
    return Content.assemble((what, f"bold {style}"), (text, style), ("\n", ""), (todo, "$foreground-muted"))
