"""Progress of a run, a ladder or other work as one line of the bench and the command line, without Textual."""

from __future__ import annotations

import time

from engine.config.text import visible
from engine.runs.ladder.ladder_state import TIMING_PROBE, Ladder
from tui.charts import StyledText, bar
from tui.live.run_state import RunState, ladder_left

MIN_BAR = 8


def run_progress(
    state: RunState, width: int, ladder: Ladder | None = None, with_metrics: bool = False
) -> list[StyledText]:
    """Phase, bar, position, and the time left: of the ladder where it is known, else of the run.

    With a ladder, the bar shows the share of its runs that is done, and counts the training steps of the current run;
    without one, it shows the progress of the phase. `with_metrics`: also the latest loss and throughput.
    """
    step, progress, is_training = state.step, state.progress, state.phase == "training"
    share, position = None, visible(state.note, max(60, width))  # share of the phase that is done, and the step or row
    if progress is not None and progress.total:
        share = min(1.0, progress.done / progress.total)
        position = f"{visible(progress.text, 40)} {progress.done:,}/{progress.total:,}"
    elif progress is not None:
        position = f"{visible(progress.text, 40)} {progress.done:,}"
    elif step is not None and is_training:
        share, position = step.step / max(1, step.steps), f"{step.step:,}/{step.steps:,}"
    elif state.plan is not None and state.plan.measured is None and is_training:
        position = "memory probe"
    head = (state.end.status.replace("_", " ") if state.end else state.phase or "starting").upper()
    now = time.time()
    run_left = state.left(now)
    left = str(run_left) if run_left is not None and run_left.seconds >= 0.5 else ""
    if ladder:
        count, done = len(ladder.entries), sum(entry.is_done for entry in ladder.entries)
        entry = next((entry for entry in ladder.entries if entry.run and entry.run == state.name), None)
        rung = f" {entry.rung}{f' {TIMING_PROBE}' if entry.kind == 'probe' else ''}" if entry else ""
        head = f"ladder {min(done + 1, count)}/{count}{rung} · {head}"
        left = ladder_left(ladder, now, state.name, run_left).removeprefix("ladder ") or left
        trained = step.step / max(1, step.steps) if step is not None and entry and not entry.is_done else 0.0
        share = (done + trained) / max(1, count)
    tail: list[StyledText] = [("  loss not finite", "$text-error")] if step is not None and step.loss is None else []
    tail += [(f"   {left}", "bold")] if left else []
    if with_metrics and step is not None and is_training:
        tail += [(f"  loss {step.loss:.4f}", "")] if step.loss is not None else []
        tail += [(f"  {step.tokens_per_second:,.0f} tokens/s", "")] if step.tokens_per_second else []
    return progress_line(head, share, position, tail, width)


def progress_line(
    head: str, share: float | None, position: str, optional: list[StyledText], width: int
) -> list[StyledText]:
    """What is done, a bar that fills the line, and the position; the last of the `optional` parts are dropped first."""
    if share is None:
        parts = [(position, ""), *optional]
        return [(head, "bold"), *((f"  {text.strip()}", style) for text, style in parts if text)]
    tail: list[StyledText] = [(f" {position}", ""), (f"  {share:.0%}", ""), *optional]
    while len(tail) > 2 and width - len(head) - sum(len(text) for text, _ in tail) < MIN_BAR:
        tail.pop()
    room = width - len(head) - 1 - sum(len(text) for text, _ in tail)
    return [(head, "bold"), (" ", ""), *bar(share, room), *tail]
