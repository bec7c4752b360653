"""How runs and ladders ended, one sentence each, and which ended since the last visit of the bench."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import platformdirs

from engine.config.errors import UserError
from engine.config.files import read_small, write_atomically
from engine.config.metric_specs import metric_spec
from engine.config.quantities import duration
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_state import Ladder
from engine.runs.run.folder import short_name
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import with_bounds
from tui.commands import CommandKeys

MAX_SENTENCES = 4
"""More endings are counted."""


def run_ending(run: RunDir) -> str:
    """`lora-3f2a finished: json 71.3% [68.0, 74.4], 12:05`; what is known of a run without a result."""
    name = short_name(run.name)
    try:
        result = run.written_result()
    except UserError as error:
        return f"{name}: {error.line}"
    if result is None:
        end = run.unwritten_end()
        return f"{name} {end.status}: {end.reason}" if end else f"{name} ended without a result"
    if result.status != "finished":
        if result.status == "stopped" and run.paused_file.exists():
            return f"{name} paused: its checkpoint is kept"
        return f"{name} {result.status.replace('_', ' ')}: {result.reason}"
    if result.after is None:
        return f"{name} finished, {duration(result.active_seconds)}"
    score = with_bounds(result.after.score, metric_spec(result.metric).is_share)
    return f"{name} finished: {result.metric} {score}, {duration(result.active_seconds)}"


def has_finished(run: RunDir) -> bool:
    """Whether the run has a result, and did not fail."""
    with contextlib.suppress(UserError):
        result = run.written_result()
        return result is not None and result.status in ("finished", "stopped")
    return False


def ended_before(run: RunDir, moment: float) -> bool:
    """Whether the result was written before this moment, in Unix seconds."""
    ended = _modified(run.result_file)
    return ended is not None and ended < moment - 1.0


def ladder_ending(name: str, ladder: Ladder) -> str:
    """`ladder demo-7c1d finished: LoRA is …`, the headline of its report."""
    said = ladder.summary.headline if ladder.summary else ladder.reason
    return f"ladder {short_name(name)} {ladder.status}: {said}".rstrip(": ")


def ended_since(runs: Path, moment: float, keys: CommandKeys) -> list[str]:
    """What ended after this moment, in Unix seconds, latest first; runs of a ladder are part of its sentence."""
    endings: list[tuple[float, str]] = []
    of_ladders: set[str] = set()
    for ladder, state in ladder_dir.states(runs):
        of_ladders |= {entry.run for entry in state.entries if entry.run}
        if state.status != "running" and state.updated > moment:
            endings.append((state.updated, ladder_ending(ladder.name, state)))
    for run in RunDir.iterate(runs):
        ended = _modified(run.result_file)
        if ended is not None and ended > moment and run.name not in of_ladders:
            endings.append((ended, run_ending(run)))
    sentences = [sentence for _, sentence in sorted(endings, reverse=True)]
    more = len(sentences) - MAX_SENTENCES
    return sentences[:MAX_SENTENCES] + ([f"and {more} more: press {keys.of('bench.runs')}"] if more > 0 else [])


def last_visit() -> float | None:
    """When the bench was last open, in Unix seconds; None before the first time."""
    with contextlib.suppress(OSError, ValueError):
        return float(read_small(_visit_file()).decode())
    return None


def remember_visit() -> None:
    """Record that the bench is open now; a folder that cannot be written only means that endings are told again."""
    with contextlib.suppress(OSError):
        _visit_file().parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(_visit_file(), f"{time.time():.3f}\n".encode())


def _visit_file() -> Path:
    return Path(platformdirs.user_state_dir("ftbench")) / "last-visit"


def _modified(path: Path) -> float | None:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return None
