"""`doctor`: check machine, libraries, disk and methods."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import psutil
import typer

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
from engine.memory.formula.memory_budget import MemoryBudget, local_budget, system_memory
from engine.runs.cleaning import list_temporary_items
from engine.runs.home import home_warnings, runs_home
from engine.runs.queue import locks
from engine.runs.rpc_client import ask
from tui.cli import options
from tui.output.console import console, print_json, say
from tui.preview.method_estimate import method_estimate

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "datasets", "nvidia-ml-py", "textual")
MIN_FREE_DISK = 10 << 30


def doctor(
    runs: options.Runs = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Train each method for a few steps; check speed, memory, loss and decoding."),
    ] = False,
    device: options.Device = None,
    json: options.Json = False,
) -> int:
    """Print all checks, at last a verdict per method. Returns 1 where one of them fails, else 0."""
    if device is not None and not train:
        raise UserError("--device without --train", "ftbench doctor", "add --train", "cli.conflicting_values")
    if train:
        from tui.extensions.doctor.training_check import training_check

        return training_check(device, json)
    folder = runs_home(runs)
    results = check_everything(folder)
    if json:
        print_json(msgspec.to_builtins(results))
    else:
        marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "bad": ("✗", "red")}
        for result in results:
            mark, style = marks[result.state]
            console.print(mark, style=style, end=" ")
            say(f"{result.subject:<16}{result.text}")
    return int(any(result.state == "bad" for result in results))


def check_everything(runs: Path) -> list[BoxCheck]:
    """Machine, libraries, GPU, disk and temporary files, then the verdicts."""
    engine, verdicts = _engine()
    nvml = Nvml()
    if nvml.why:
        what = "GPU memory, power and energy are unknown; process memory is shown"
        readable = BoxCheck("note", "NVML", f"{nvml.why}: {what}")
    else:
        readable = BoxCheck("ok", "NVML", f"driver {nvml.driver()}, {amount(len(nvml.gpus()), 'GPU')}")
    largest = _largest_models(local_budget(nvml))
    return [*_machine(), *box_checks(nvml), *engine, readable, *_runs_home(runs), largest, *verdicts]


def _machine() -> Iterator[BoxCheck]:
    memory = psutil.virtual_memory()
    text = f"{platform.system()} {platform.release()}, Python {platform.python_version()}, {os.cpu_count()} cores, "
    limit, used = system_memory()
    container = f", of which this container may use {size(limit)}" if limit < memory.total else ""
    yield BoxCheck("ok", "machine", text + f"{size(memory.total)} RAM{container} ({size(limit - used)} free)")
    installed, missing = [], []
    for name in LIBRARIES:
        try:
            installed.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            missing.append(name)
    yield BoxCheck("ok", "libraries", ", ".join(installed))
    if missing:
        yield BoxCheck("bad", "libraries", f"missing: {', '.join(missing)}; install with pip")


def _runs_home(runs: Path) -> Iterator[BoxCheck]:
    """Free disk space, a network file system (with unreliable locks), logout, and temporary files."""
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield BoxCheck("bad", "runs", f"{there} is not writable; choose another directory with --runs")
    else:
        free = shutil.disk_usage(there).free
        low = "; a full checkpoint of an 8B model takes about 50 GB" if free < MIN_FREE_DISK else ""
        yield BoxCheck("note" if low else "ok", "runs", f"{runs}, {size(free)} free{low}")
    for notice in home_warnings(runs):
        yield BoxCheck("note", "runs", notice.text)
    with contextlib.suppress(OSError):  # systemd-logind kills a user's processes at logout, detached ones included
        lines = Path("/etc/systemd/logind.conf").read_text().splitlines()
        if any(line.strip().lower() == "killuserprocesses=yes" for line in lines):
            text = "KillUserProcesses=yes kills runs at logout; `loginctl enable-linger` prevents it"
            yield BoxCheck("note", "logout", text)
    try:
        locks.lock_folder()
        left = [item for item in list_temporary_items(runs) if not item.keep]
    except UserError as error:
        yield BoxCheck("bad", "temporary files", error.line)
        return
    taken = size(sum(item.bytes for item in left))
    text = f"{taken} in temporary files of killed processes: `ftbench clean temporary` removes them" if left else "none"
    yield BoxCheck("note" if left else "ok", "temporary files", text)


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
    step = f"a training step on {'the CPU' if facts['device'] == 'cpu' else facts['name']}"
    return results, [
        BoxCheck("ok", method["title"], f"ready: {step} works, with {method['optimizer']}")
        if method["ready"]
        else BoxCheck("bad", method["title"], f"not ready: {step} fails: {method['why']}")
        for method in facts["methods"]
    ]


def _largest_models(budget: MemoryBudget) -> BoxCheck:
    """The largest model of the catalog that each method can train here, with rows of 2,048 tokens, by the formula."""
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
    return BoxCheck("ok" if parts else "note", "fits", text)
