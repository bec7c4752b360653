"""Requests that train on this machine to check it; part of the RPC server, which imports what a request needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.config import schema
from engine.hardware.devices import select_device
from engine.methods.quick_import import import_libraries
from engine.runs.training_report import MODELS
from engine.worker.artifact_requests import Progress


def train_method(arguments: dict[str, Any], progress: Progress) -> Any:
    """Train `method` on each model and check it, on `device` (`TrainingReport`s). `scratch`: folder for weights.

    Raises UserError if there is no such device, or if torch cannot use the GPU.
    """
    select_device(arguments["device"]).apply()
    progress("importing libraries")
    import_libraries()
    import torch
    from transformers.utils import logging as transformers_logging

    from engine.methods.gpu_support import refuse_unused_gpu
    from engine.methods.machine import this_machine
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
