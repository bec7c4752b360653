"""Requests of the workbench about artifacts, gains and what this machine can train; part of the RPC server."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from engine.config import schema
from engine.hardware.devices import select_device
from engine.methods.library_imports import import_libraries
from engine.runs.training_report import MODELS

Progress = Callable[..., None]
"""Called with a description and, for countable work, the number done and the total."""

# Each handler imports what it needs: a request without torch must not pay seconds for importing it.


def export(arguments: dict[str, Any], progress: Progress) -> Any:
    """Write an artifact of a finished run and check it: its folder and its `Fidelity`."""
    from engine.export.request import ExportRequest, refuse_request
    from engine.hardware.devices import select_device
    from engine.runs.queue import locks
    from engine.runs.queue.device_queue import EXPORT, wait_for_devices
    from engine.runs.run.run_dir import RunDir

    run, out = Path(arguments["run"]), arguments["out"]
    request = ExportRequest(
        RunDir(run),
        arguments["kind"],
        arguments["type"],
        Path(out) if out else None,
        arguments["margin"],
        arguments["overwrite"],
    )
    if arguments["wait"]:
        locks.lock_folder()  # refused first: without it no place in the queue is safe
    refuse_request(request)  # before the device is waited for
    device = select_device()
    device.apply()
    if arguments["wait"]:
        wait_for_devices([device], time.time(), run / EXPORT, lambda note: progress(f"waiting: {note}"), lambda: False)
    progress("loading libraries")
    import_libraries()
    from engine.export.exporter import export

    folder, fidelity = export(request, progress)
    return {"folder": str(folder), "fidelity": msgspec.to_builtins(fidelity)}


def export_tools(arguments: dict[str, Any], progress: Progress) -> Any:
    """Refuse if the tools for GGUF exports are missing."""
    from engine.export.gguf_tools import require_tools

    return {"folder": str(require_tools())}


def export_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """Check one artifact of an export (`CheckJob` -> `Checked`)."""
    import_libraries()
    from engine.export.artifact_check import check
    from engine.export.checker import CheckJob

    return msgspec.to_builtins(check(msgspec.convert(arguments, CheckJob), progress))


def push_check(arguments: dict[str, Any], progress: Progress) -> Any:
    """The full name of a Hub repository that can be pushed to."""
    from engine.export.push import check_repository

    return check_repository(arguments["repository"], arguments["public"])


def push(arguments: dict[str, Any], progress: Progress) -> Any:
    """Push an artifact to the Hub (`Pushed`)."""
    from engine.export.push import push

    return msgspec.to_builtins(push(Path(arguments["folder"]), arguments["repository"], arguments["public"], progress))


def gain(arguments: dict[str, Any], progress: Progress) -> Any:
    """The gain of a run over its base model or another run (`Gain`)."""
    from engine.export.comparison import gain_of_run
    from engine.runs.run.run_dir import RunDir

    against = arguments["against"]
    other, start = RunDir(Path(against)) if against else None, arguments.get("start", False)
    found = gain_of_run(RunDir(Path(arguments["run"])), other, arguments["metric"], start)
    return msgspec.to_builtins(found)


ARTIFACT_REQUESTS: dict[str, Callable[[dict[str, Any], Progress], Any]] = {
    "export": export,
    "export.check": export_check,
    "export.tools": export_tools,
    "gain": gain,
    "push": push,
    "push.check": push_check,
}


def train_method(arguments: dict[str, Any], progress: Progress) -> Any:
    """Train `method` on each model and check it, on `device` (`TrainingReport`s). `scratch`: folder for weights.

    Raises UserError if there is no such device, or if torch cannot use the GPU.
    """
    select_device(arguments["device"]).apply()
    progress("importing libraries")
    import_libraries()
    import torch
    from transformers.utils import logging as transformers_logging

    from engine.methods.machine import refuse_unused_gpu, this_machine
    from engine.worker.training_checks.report import check_method

    transformers_logging.disable_progress_bar()
    machine = this_machine()
    if machine.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as in a run
    refuse_unused_gpu(schema.Config(hardware=schema.Hardware(device=arguments["device"])), machine)
    scratch = Path(arguments["scratch"])
    found = [check_method(arguments["method"], model, machine, scratch, progress) for model in MODELS]
    return msgspec.to_builtins(found)


TRAINING_CHECK_REQUESTS = {"doctor.train": train_method}
