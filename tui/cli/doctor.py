"""`doctor`: check machine, libraries, disk and methods; `doctor --repair`: remove files left by killed processes."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import msgspec
import psutil

from engine.config.catalog import CATALOG, CatalogEntry
from engine.config.errors import RunFailed, UserError
from engine.config.method_specs import method_names, method_title
from engine.config.model_files import find_model
from engine.config.preset import Preset, resolve
from engine.config.quantities import size
from engine.config.schema import Model
from engine.config.text import amount
from engine.hardware.box import BoxCheck, box_checks
from engine.hardware.nvml import Nvml
from engine.memory.formula.memory_budget import local_budget, system_memory
from engine.runs.cleaning import Leftover, find_leftovers, remove_leftover
from engine.runs.home import home_warnings
from engine.runs.rpc_client import ask
from tui.output.console import console, print_json, say
from tui.preview.method_estimate import method_estimate

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "nvidia-ml-py", "textual")
MIN_FREE_DISK = 10 << 30


def doctor(runs: Path, json: bool) -> int:
    """Print all checks, at last a verdict per method. Returns 1 where one of them fails, else 0."""
    results = check_everything(runs)
    if json:
        print_json(msgspec.to_builtins(results))
    else:
        marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}
        for result in results:
            mark, style = marks[result.state]
            console.print(mark, style=style, end=" ")
            say(f"{result.subject:<14}{result.text}")
    return 1 if any(result.state == "bad" for result in results) else 0


def check_everything(runs: Path) -> list[BoxCheck]:
    """Machine, libraries, GPU, disk and leftovers, then the verdicts."""
    engine, verdicts = _engine()
    nvml = Nvml()
    results = [_system(), *_libraries(), *box_checks(nvml), *engine, *_nvml(nvml), _disk(runs), *_file_system(runs)]
    return [*results, *_session(), *_leftovers(runs), *_largest_models(nvml), *verdicts]


def repair(runs: Path, json: bool) -> int:
    """Remove leftovers of killed processes. Returns 1 where one could not be removed, else 0."""
    done = [_removed(leftover) for leftover in find_leftovers(runs)]
    failed = int(any(item["state"] == "failed" for item in done))
    if json:
        print_json(done)
        return failed
    for item in done:
        what = f"{item['state']} {item['kind']} {item['path']} ({size(item['bytes'])}): {item['why']}"
        say(f"{what}{'; ' if item['error'] else ''}{item['error']}", "red" if item["error"] else "")
    if not done:
        say(f"nothing to repair: no leftovers in the lock directory and in {runs}")
    return failed


def _removed(leftover: Leftover) -> dict[str, Any]:
    """What was done with a leftover file or directory."""
    try:
        state, error = ("removed", "") if remove_leftover(leftover) else ("kept", "in use by a process")
    except (OSError, UserError) as wrong:
        state, error = "failed", str(wrong)
    about = {"kind": leftover.kind, "path": str(leftover.path), "why": leftover.why, "bytes": leftover.bytes}
    return {"state": state, **about, "error": error}


def _leftovers(runs: Path) -> list[BoxCheck]:
    """What `repair` would remove."""
    try:
        items = find_leftovers(runs)
    except UserError as error:
        return [BoxCheck("bad", "leftovers", error.line)]
    if not items:
        return [BoxCheck("ok", "leftovers", "none")]
    bytes_ = size(sum(leftover.bytes for leftover in items))
    what = f"{amount(len(items), 'item')}, {bytes_}, left by killed processes; `ftbench doctor --repair` removes them"
    notes = [
        BoxCheck("note", "leftover", f"{item.kind} {item.path} ({size(item.bytes)}): {item.why}") for item in items
    ]
    return [BoxCheck("note", "leftovers", what), *notes]


def _system() -> BoxCheck:
    memory = psutil.virtual_memory()
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
    limit, used = system_memory()
    container = f", of which this container may use {size(limit)}" if limit < memory.total else ""
    return BoxCheck("ok", "machine", text + f"{size(memory.total)} RAM{container} ({size(limit - used)} free)")


def _libraries() -> list[BoxCheck]:
    installed, missing = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    results = [BoxCheck("ok", "libraries", ", ".join(installed))]
    if missing:
        results.append(BoxCheck("bad", "libraries", f"missing: {', '.join(missing)}; install with pip"))
    return results


def _engine() -> tuple[list[BoxCheck], list[BoxCheck]]:
    """What torch reports, and the verdict of each method, from a process that trains one step of each."""
    try:
        facts: dict[str, Any] = ask("doctor", {})
    except (RunFailed, UserError) as error:
        failed = [
            BoxCheck("bad", method_title(name), "not ready: the engine does not start") for name in method_names()
        ]
        return [BoxCheck("bad", "engine", f"cannot import torch: {error}")], failed
    if facts["device"] == "cpu":
        results = [BoxCheck("note", "GPU", "torch sees no CUDA device: runs use the CPU, for small models only")]
        state: Literal["ok", "note"] = "ok" if facts["bf16"] else "note"
        arithmetic = "native bf16" if facts["bf16"] else "no native bf16: LoRA and QLoRA compute in float32"
        results.append(BoxCheck(state, "arithmetic", arithmetic))
        results.append(BoxCheck("note", "optimizer", "8-bit AdamW is for GPUs: `auto` is torch's fused AdamW"))
    else:
        results = [BoxCheck("ok", "GPU", f"{facts['name']}, {size(facts['memory'])}, CUDA {facts['cuda']}")]
        if not facts["bf16"]:
            results.append(BoxCheck("note", "arithmetic", "the GPU has no native bf16: float32 is used"))
    results.append(BoxCheck("ok", "attention", facts["attention"]))
    results.append(BoxCheck("ok" if facts["quantized"] else "bad", "4-bit", facts["quantized"] or facts["why_not"]))
    where = "the CPU" if facts["device"] == "cpu" else facts["name"]
    return results, [_verdict(method, where) for method in facts["methods"]]


def _verdict(method: dict[str, Any], where: str) -> BoxCheck:
    """`QLoRA  ready: a training step on the CPU works, with adamw_8bit`."""
    if not method["ready"]:
        return BoxCheck("bad", method["title"], f"not ready: a training step on {where} fails: {method['why']}")
    return BoxCheck("ok", method["title"], f"ready: a training step on {where} works, with {method['optimizer']}")


def _nvml(nvml: Nvml) -> list[BoxCheck]:
    """Whether GPU memory, power and energy can be read."""
    if nvml.why:
        what = "GPU memory, power and energy are unknown; process memory is shown"
        return [BoxCheck("note", "NVML", f"{nvml.why}: {what}")]
    count = len(nvml.gpus())
    return [BoxCheck("ok", "NVML", f"driver {nvml.driver()}, {amount(count, 'GPU')}")]


def _largest_models(nvml: Nvml) -> list[BoxCheck]:
    """The largest model of the catalog that each method can train here, with rows of 2,048 tokens, by the formula."""
    budget = local_budget(nvml)
    largest: dict[str, CatalogEntry] = {}
    for entry in sorted(CATALOG.values(), key=lambda entry: entry.parameters):
        files = find_model(Model(id=entry.name))
        for method in method_names():
            given = {"model.id": entry.name, "train.max_length": 2048}
            config = resolve(Preset("defaults", {}), method, given).config
            if method_estimate(config, files, budget).fit == "fits":
                largest[method] = entry
    parts = [f"{method_title(method)} {entry.name}" for method, entry in largest.items()]
    memory = f"{size(budget.free)} free of {size(budget.total)} ({budget.name})"
    text = f"{', '.join(parts) or 'no model of the catalog'}: catalog, rows of 2,048 tokens, {memory}"
    return [BoxCheck("ok" if parts else "note", "fits", text)]


def _disk(runs: Path) -> BoxCheck:
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        return BoxCheck("bad", "runs", f"{there} is not writable; choose another directory with --runs")
    free = shutil.disk_usage(there).free
    low = "; a full checkpoint of an 8B model takes about 50 GB" if free < MIN_FREE_DISK else ""
    return BoxCheck("note" if low else "ok", "runs", f"{runs}, {size(free)} free{low}")


def _file_system(runs: Path) -> list[BoxCheck]:
    """A network file system, whose locks cannot be trusted."""
    return [BoxCheck("note", "runs", notice.text) for notice in home_warnings(runs)]


def _session() -> list[BoxCheck]:
    """Whether systemd-logind kills a user's processes at logout, detached ones included."""
    conf = Path("/etc/systemd/logind.conf")
    try:
        kills = any(line.strip().lower() == "killuserprocesses=yes" for line in conf.read_text().splitlines())
    except OSError:
        return []
    if not kills:
        return []
    return [
        BoxCheck("note", "logout", "KillUserProcesses=yes kills runs at logout; `loginctl enable-linger` prevents it")
    ]
