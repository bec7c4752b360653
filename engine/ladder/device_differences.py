"""Runs of one ladder on different devices: times and costs are compared only within one model of GPU or CPU."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from engine.config.text import amount, listed
from engine.ladder import rung_format as fmt
from engine.ladder.results import FinishedRun
from engine.runs.ladder import Ladder
from engine.runs.result import Result


def note_other_devices(runs: Sequence[FinishedRun]) -> None:
    """Set `other_device` of the runs that used another device than most runs, or than the first one if equally many."""
    devices = [_device(run.result) for run in runs]
    known = Counter(filter(None, devices)).most_common(1)
    usual = known[0][0] if known else ""
    for run, device in zip(runs, devices, strict=True):
        run.entry.other_device = f"{device} instead of {usual}" if device not in ("", usual) else ""


def other_devices(ladder: Ladder) -> str:
    """The caveat on timings of other devices; '' without any."""
    runs = [entry for entry in ladder.entries if entry.kind == "run" and entry.other_device]
    names = [f"{fmt.rung_title(entry.rung)} seed {entry.seed} ({entry.other_device})" for entry in runs]
    return f"Timings on another device are left out of times and costs: {listed(names)}." if names else ""


def shared_cpu_caveat(ladder: Ladder) -> str:
    """The caveat on timings of runs that shared the CPU; '' where no two runs shared it."""
    if ladder.runs_at_once == 1 or ladder.machine.get("cuda"):
        return ""
    threads = amount(int(ladder.machine.get("threads") or 1), "thread")
    text = f"{ladder.runs_at_once} runs at a time shared this CPU, each with {threads} on its own cores"
    return f"{text}: compare these times only with each other; a run that has the whole CPU takes less time."


def _device(result: Result) -> str:
    """The model of the GPU or CPU that a run used, as its environment event recorded it."""
    return str(result.machine.get("device" if "gpu_memory" in result.machine else "cpu") or "")
