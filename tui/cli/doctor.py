"""`doctor`: what this machine has, and what will and won't work on it; what processes that died left behind."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import psutil

from engine.config.errors import RunFailed, UserError
from engine.config.text import amount
from engine.hardware.nvml import Nvml
from engine.runs import leftovers
from engine.runs.home import home_warnings
from engine.runs.leftovers import Leftover
from engine.runs.rpc_client import ask
from tui.format import size
from tui.output.console import console, print_json, say

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "nvidia-ml-py", "textual")
LEAST_DISK = 10 << 30


@dataclass
class Finding:
    """One thing looked at."""

    state: Literal["ok", "note", "bad"]
    subject: str
    text: str


@dataclass
class Repair:
    """What was done about one thing left behind."""

    state: Literal["removed", "kept", "failed"]
    kind: str
    path: str
    why: str
    bytes: int
    error: str


def doctor(runs: Path, json: bool) -> int:
    """1 where something is missing without which no run works."""
    findings = [
        _system(),
        *_libraries(),
        *_engine(),
        *_nvml(),
        _disk(runs),
        *_file_system(runs),
        *_session(),
        *_leftovers(runs),
    ]
    if json:
        print_json([asdict(finding) for finding in findings])
    else:
        marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}
        for finding in findings:
            mark, style = marks[finding.state]
            console.print(mark, style=style, end=" ")
            say(f"{finding.subject:<14}{finding.text}")
    return 1 if any(finding.state == "bad" for finding in findings) else 0


def repair(runs: Path, json: bool) -> int:
    """Remove what processes that died left behind, and say what was done; 1 where something could not be removed."""
    done = [_removed(leftover) for leftover in leftovers.find(runs)]
    failed = int(any(one.state == "failed" for one in done))
    if json:
        print_json([asdict(one) for one in done])
        return failed
    for one in done:
        why = f"; {one.error}" if one.error else ""
        say(f"{one.state} {one.kind} {one.path} ({size(one.bytes)}): {one.why}{why}", "red" if one.error else "")
    if not done:
        say(f"nothing to repair: no process left anything behind (looked at the locks and at {runs})")
    return failed


def _removed(leftover: Leftover) -> Repair:
    state: Literal["removed", "kept", "failed"]
    try:
        state, error = ("removed", "") if leftovers.remove(leftover) else ("kept", "a process uses it now")
    except (OSError, UserError) as wrong:
        state, error = "failed", str(wrong)
    return Repair(state, leftover.kind, str(leftover.path), leftover.why, leftover.bytes, error)


def _leftovers(runs: Path) -> list[Finding]:
    """What `repair` would remove."""
    try:
        found = leftovers.find(runs)
    except UserError as error:
        return [Finding("bad", "leftovers", error.line)]
    if not found:
        return [Finding("ok", "leftovers", "none: no process left anything behind")]
    bytes_ = size(sum(leftover.bytes for leftover in found))
    what = f"{amount(len(found), 'item')} left behind, {bytes_}: `ftbench doctor --repair` removes them"
    each = [Finding("note", "left behind", f"{one.kind} {one.path} ({size(one.bytes)}): {one.why}") for one in found]
    return [Finding("note", "leftovers", what), *each]


def _system() -> Finding:
    memory = psutil.virtual_memory()
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
    return Finding("ok", "machine", text + f"{size(memory.total)} memory ({size(memory.available)} free)")


def _libraries() -> list[Finding]:
    found, missing = [], []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    findings = [Finding("ok", "libraries", ", ".join(found))]
    if missing:
        findings.append(Finding("bad", "libraries", f"missing: {', '.join(missing)}; pip install them"))
    return findings


def _engine() -> list[Finding]:
    """torch's own view, from a process that may import it."""
    try:
        facts: dict[str, Any] = ask("doctor", {})
    except (RunFailed, UserError) as error:
        return [Finding("bad", "engine", f"torch does not start: {error}")]
    if facts["device"] == "cpu":
        findings = [
            Finding("note", "card", "no CUDA card that torch sees: everything runs on the CPU, small models only")
        ]
        state: Literal["ok", "note"] = "ok" if facts["bf16"] else "note"
        arithmetic = "bf16 in hardware" if facts["bf16"] else "no bf16 in hardware: LoRA and QLoRA compute in float32"
        findings.append(Finding(state, "arithmetic", arithmetic))
        findings.append(
            Finding("note", "optimizer", "paged 8-bit AdamW needs CUDA: 8-bit AdamW without paging is used")
        )
    else:
        findings = [Finding("ok", "card", f"{facts['name']}, {size(facts['memory'])}, CUDA {facts['cuda']}")]
        if not facts["bf16"]:
            findings.append(Finding("note", "arithmetic", "this card has no bf16: float32 is used"))
    findings.append(Finding("ok", "attention", facts["attention"]))
    findings.append(Finding("ok" if facts["quantized"] else "bad", "4-bit", facts["quantized"] or facts["why_not"]))
    return findings


def _nvml() -> list[Finding]:
    """Whether the card's memory, power and energy can be read."""
    nvml = Nvml()
    if nvml.why:
        what = "no card memory, power or energy; the worker's own memory is shown"
        return [Finding("note", "nvml", f"{nvml.why}: {what}")]
    count = len(nvml.cards())
    return [Finding("ok", "nvml", f"driver {nvml.driver()}, {count} card{'s' if count != 1 else ''}")]


def _disk(runs: Path) -> Finding:
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return Finding("bad", "runs", f"{there} is not writable; choose another with --runs")
    free = shutil.disk_usage(there).free
    low = " – an 8B model's full checkpoint takes about 50 GB" if free < LEAST_DISK else ""
    return Finding("note" if low else "ok", "runs", f"{runs}, {size(free)} free{low}")


def _file_system(runs: Path) -> list[Finding]:
    """A network file system, whose locks cannot be trusted."""
    return [Finding("note", "runs", notice.text) for notice in home_warnings(runs)]


def _session() -> list[Finding]:
    """systemd-logind may end a user's processes at logout, however detached they are."""
    conf = Path("/etc/systemd/logind.conf")
    try:
        kills = any(line.strip().lower() == "killuserprocesses=yes" for line in conf.read_text().splitlines())
    except OSError:
        return []
    if not kills:
        return []
    return [
        Finding("note", "logout", "KillUserProcesses=yes ends runs at logout; `loginctl enable-linger` prevents it")
    ]
