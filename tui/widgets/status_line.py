"""One line: what the run is doing, how far, how fast, how long; or what went wrong and what to do."""

from __future__ import annotations

from textual.content import Content

from engine.contract.text import visible
from tui.chart import number
from tui.runstate import RunState
from tui.show import duration

BAR = 18


def status(state: RunState | None, live: bool | None, died: str, ascii_only: bool = False) -> Content:
    """`died` is what is known of a worker that went without an end."""
    if state is None:
        return Content.styled("ready: 1-9 preset, enter starts, r runs, ? every key", "$foreground-muted")
    if died:
        return Content.styled(f"died: {died} · u resumes", "$text-error")
    if state.end is not None:
        return _ended(state)
    if state.phase == "waiting":
        return Content.styled(f"waiting its turn: {visible(state.note)}", "$text-warning")
    parts: list[tuple[str, str]] = [(state.phase or "starting", "bold")]
    step = state.step
    if step is not None and state.phase == "training":
        share = step.step / max(1, step.steps)
        parts += [(f"  step {step.step}/{step.steps} ", ""), *_bar(share, ascii_only), (f" {share:.0%}", "")]
        if state.loss.latest is not None:
            parts.append((f"  loss {number(state.loss.latest)}", "$primary"))
        left = state.left()
        parts.append((f"  {step.tokens_per_second:,.0f} tok/s", ""))
        parts.append((f"  {duration(left)} left" if left is not None else "", ""))
    if live is False:
        parts.append(("  (no worker)", "$foreground-muted"))
    return Content.assemble(*parts)


def _ended(state: RunState) -> Content:
    end = state.end
    assert end is not None
    if end.status == "finished":
        score = ""
        if state.after is not None and state.after.score is not None and state.after.metric != "loss":
            score = f"  {state.after.metric} {state.after.score:.1%}"
        elif state.after is not None and state.after.loss is not None:
            score = f"  held-out loss {number(state.after.loss)}"
        return Content.assemble(("finished", "bold $text-success"), (score, ""))
    style = "$text-warning" if end.status == "stopped" else "$text-error"
    return Content.styled(f"{end.status.replace('_', ' ')}: {visible(end.reason)}", style)


def _bar(share: float, ascii_only: bool) -> list[tuple[str, str]]:
    full = round(min(1.0, share) * BAR)
    done, rest = ("=", "-") if ascii_only else ("━", "─")
    return [(done * full, "$primary"), (rest * (BAR - full), "$foreground-muted")]
