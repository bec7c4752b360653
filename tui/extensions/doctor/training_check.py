"""`doctor --train`: train each method for a few steps on this machine, and check what it computes and takes."""

from __future__ import annotations

import os
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from rich.text import Text

from engine.config.errors import RunFailed, UserError
from engine.config.files import SCRATCH_PREFIX, temporary_folder
from engine.config.method_specs import method_names, method_title
from engine.config.quantities import count
from engine.config.text import visible
from engine.extensions.doctor.training_report import (
    MODELS,
    PAGING,
    CheckState,
    TrainingCheck,
    TrainingReport,
    broken_report,
)
from engine.hardware.devices import CPU, SelectedDevice, select_device
from engine.runs.queue import locks
from engine.runs.rpc_client import ask
from tui.cli.progress import shown_progress
from tui.output.console import console, print_json, say

NAME = "ftbench doctor --train"
"""In the device queue."""
MARKS: dict[CheckState, tuple[str, str]] = {"ok": ("✓", "green"), "failed": ("✗", "red"), "skipped": ("·", "yellow")}
NAME_WIDTH = 15
REPORT = (
    "send the output of `ftbench doctor --json`, and the lines of the method and model from the heading to the last "
    "check, or all of `ftbench doctor --train --json`"
)
"""What a report has to contain."""


def training_check(device: str | None, json: bool) -> int:
    """Print the checks of each method as they end, then the verdict. Returns 1 if one failed, else 0.

    Raises UserError if there is no such device, if a run uses the GPU, or if torch cannot use it.
    """
    chosen = device or "auto"
    reports: list[TrainingReport] = []
    with _using(select_device(chosen)) as notes:
        for text in [] if json else notes:
            say(text, "yellow")
        with temporary_folder(SCRATCH_PREFIX) as scratch, shown_progress(json) as (progress, _):
            for method in method_names():  # each in a new process: after a CUDA error a process cannot use the GPU
                question = {"method": method, "device": chosen, "scratch": str(scratch)}
                try:
                    trained = msgspec.convert(ask("doctor.train", question, progress), list[TrainingReport])
                except RunFailed as error:
                    models = MODELS.items()
                    trained = [broken_report(method, model, title, chosen, str(error)) for model, title in models]
                reports += trained
                for report in [] if json else trained:
                    _show(report)
            for number, report in enumerate(reports):
                if not report.leaves_paging:
                    continue
                try:
                    answer = ask("doctor.paging", {"method": report.method, "device": chosen}, progress)
                    check = msgspec.convert(answer, TrainingCheck)
                except RunFailed as error:
                    check = TrainingCheck(name=PAGING, state="failed", text=str(error))
                reports[number] = msgspec.structs.replace(report, checks=[*report.checks, check])
                if not json:
                    say(f"{method_title(report.method)}, {report.model}", "bold")
                    _show_check(check)

    checks = [check.state for report in reports for check in report.checks]
    numbers = {state: checks.count(state) for state in MARKS}
    if json:
        ok = not numbers["failed"]
        print_json({"ok": ok, "checks": numbers, "notes": notes, "reports": msgspec.to_builtins(reports)})
    else:
        say(f"{numbers['ok']} checks ok, {numbers['failed']} failed, {numbers['skipped']} skipped", "bold")
        for report in reports:
            for check in report.failed:
                say(f"failed: {check.name} of {method_title(report.method)}, {report.model}", "red")
        why = "Report the failed checks" if numbers["failed"] else "If a number looks wrong, report it"
        for line in _wrapped(f"{why}: {REPORT}."):
            say(line)
    return int(any(report.failed for report in reports))


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
    """`QLoRA, embedded model: 3.54M parameters, bfloat16, adamw_8bit, packed, micro-batch 8`, its checks and notes."""
    facts = []
    if report.parameters is not None:
        facts.append(f"{count(report.parameters)} parameters")
    facts += [fact for fact in (report.precision, report.optimizer, report.packing) if fact]
    if report.micro_batch is not None:
        facts.append(f"micro-batch {report.micro_batch}")
    if report.gradient_checkpointing not in ("", "off"):
        facts.append(f"activation checkpointing {report.gradient_checkpointing}")
    heading = f"{method_title(report.method)}, {report.model}" + (f": {', '.join(facts)}" if facts else "")
    for line in _wrapped(heading):
        say(line, "bold")
    for check in report.checks:
        _show_check(check)
    for note in report.notes:
        _show_line("·", "yellow", "note", note)
    say("")


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
