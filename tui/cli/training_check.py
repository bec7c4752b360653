"""`doctor --train`: train each method for a few steps on this machine, and check what it computes and takes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from rich.text import Text

from engine.config.errors import RunFailed, UserError
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.config.method_specs import method_names, method_title
from engine.config.quantities import count
from engine.config.text import visible
from engine.hardware.devices import CPU, SelectedDevice, select_device
from engine.runs.queue import locks
from engine.runs.rpc_client import ask
from engine.runs.training_report import MODELS, PAGING, CheckState, TrainingCheck, TrainingReport, broken_report
from tui.cli.data import shown_progress
from tui.output.console import console, print_json, say

NAME = "ftbench doctor --train"
"""In the device queue."""
MARKS: dict[CheckState, tuple[str, str]] = {"ok": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("·", "yellow")}
NAME_WIDTH = 15
REPORT = (
    "attach the archive of `ftbench doctor --bundle`, and copy the lines of the method and model from the heading to "
    "the last check, or all of `ftbench doctor --train --json`"
)
"""What a report has to contain."""


def training_check(device: str | None, json: bool) -> int:
    """Print the checks of each method as they end, then the verdict. Returns 1 if one failed, else 0.

    Raises UserError if there is no such device, if a run uses the GPU, or if torch cannot use it.
    """
    all_reports: list[TrainingReport] = []
    with _using(select_device(device or "auto")) as notes:
        for text in [] if json else notes:
            say(text, "yellow")
        with temporary_folder(SCRATCH_PREFIX) as scratch, shown_progress(json) as (progress, _):
            for reports in _reports(device or "auto", scratch, progress):
                all_reports += reports
                for report in [] if json else reports:
                    _show(report)
            for number, checked in _with_paging(all_reports, device or "auto", progress):
                all_reports[number] = checked
                if not json:
                    say(f"{method_title(checked.method)}, {checked.model}", "bold")
                    _show_check(checked.checks[-1])
    failed = any(report.failed for report in all_reports)
    if json:
        print_json(as_json(all_reports, notes))
    else:
        _show_verdict(all_reports)
    return int(failed)


def as_json(reports: Sequence[TrainingReport], notes: Sequence[str] = ()) -> dict[str, Any]:
    """The reports, the number of checks by state, and whether all of them are ok or skipped."""
    numbers = _numbers(reports)
    return {
        "ok": not numbers["failed"],
        "checks": numbers,
        "notes": list(notes),
        "reports": msgspec.to_builtins(reports),
    }


def _numbers(reports: Sequence[TrainingReport]) -> dict[str, int]:
    """State -> number of checks."""
    states = [check.state for report in reports for check in report.checks]
    return {state: states.count(state) for state in MARKS}


def _reports(device: str, scratch: Path, progress: Callable[[str], None]) -> Iterator[list[TrainingReport]]:
    """The reports of each method, each from a new process: after a CUDA error a process cannot use the GPU."""
    for method in method_names():
        try:
            answer = ask("doctor.train", {"method": method, "device": device, "scratch": str(scratch)}, progress)
        except RunFailed as error:
            yield [broken_report(method, choice, title, device, str(error)) for choice, title in MODELS.items()]
            continue
        yield msgspec.convert(answer, list[TrainingReport])


def _with_paging(
    reports: Sequence[TrainingReport], device: str, progress: Callable[[str], None]
) -> Iterator[tuple[int, TrainingReport]]:
    """(index, report) of each method whose paging is left, with that check, each from a process of its own."""
    for number, report in enumerate(list(reports)):
        if not report.leaves_paging:
            continue
        try:
            answer = ask("doctor.paging", {"method": report.method, "device": device}, progress)
            check = msgspec.convert(answer, TrainingCheck)
        except RunFailed as error:
            check = TrainingCheck(name=PAGING, state="failed", text=str(error))
        yield number, msgspec.structs.replace(report, checks=[*report.checks, check])


@contextmanager
def _using(device: SelectedDevice) -> Iterator[list[str]]:
    """Context in which runs wait for the device; gives a note if a run uses the CPU.

    Raises UserError if a run uses the GPU: with less memory than it expects it could fail.
    """
    path = locks.device_lock(device.lock)
    lock = locks.acquire(path, f"{os.getpid()} {NAME}")
    if lock is not None:
        try:
            yield []
        finally:
            os.close(lock)
        return
    user = Path((locks.holder(path) or "").partition(" ")[2]).name or "another run"
    if device.lock != CPU:
        hint = "wait until it ends (`ftbench queue`), or choose another GPU with --device"
        raise UserError(f"{device.title} is in use by {user}", NAME, hint, "device.in_use")
    yield [f"{user} uses the CPU: timings include its load"]


def _show(report: TrainingReport) -> None:
    for line in _wrapped(_heading(report)):
        say(line, "bold")
    for check in report.checks:
        _show_check(check)
    for note in report.notes:
        _show_line("·", "yellow", "note", note)
    say("")


def _heading(report: TrainingReport) -> str:
    """`QLoRA, embedded model: 3.54M parameters, bfloat16, adamw_8bit, packed, micro-batch 8`."""
    facts = []
    if report.parameters is not None:
        facts.append(f"{count(report.parameters)} parameters")
    facts += [fact for fact in (report.precision, report.optimizer, report.packing) if fact]
    if report.micro_batch is not None:
        facts.append(f"micro-batch {report.micro_batch}")
    if report.gradient_checkpointing not in ("", "off"):
        facts.append(f"activation checkpointing {report.gradient_checkpointing}")
    return f"{method_title(report.method)}, {report.model}" + (f": {', '.join(facts)}" if facts else "")


def _show_check(check: TrainingCheck) -> None:
    mark, style = MARKS[check.state]
    _show_line(mark, style, check.name, check.text if check.state == "ok" else f"{check.state}: {check.text}")


def _show_line(mark: str, style: str, name: str, text: str) -> None:
    """The text after its name, on a terminal wrapped below its beginning."""
    indent = NAME_WIDTH + 2
    first, *others = _wrapped(text, indent)
    # Mark and text together: the progress line below would overwrite an incomplete line.
    console.print(Text.assemble((mark, style), visible(f" {name:<{NAME_WIDTH}}{first}")), soft_wrap=True)
    for line in others:
        say(f"{'':<{indent}}{line}")


def _wrapped(text: str, indent: int = 0) -> list[str]:
    """Lines that fit on the terminal after `indent` columns; one line in a pipe."""
    room = max(20, console.width - indent) if console.is_terminal else 1 << 20
    return textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def _show_verdict(reports: list[TrainingReport]) -> None:
    """The number of checks by state, the failed ones by name, and what to report."""
    checks = _numbers(reports)
    say(f"{checks['ok']} checks ok, {checks['failed']} failed, {checks['skipped']} skipped", "bold")
    for report in reports:
        for check in report.failed:
            say(f"failed: {check.name} of {method_title(report.method)}, {report.model}", "red")
    why = "Report the failed checks" if checks["failed"] else "If a number looks wrong, report it"
    for line in _wrapped(f"{why}: {REPORT}."):
        say(line)
