"""The requests of `ftbench doctor`, which import torch: what this machine can do, and the training of each method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from engine.config import schema
from engine.extensions.doctor.training_report import MODELS
from engine.hardware.devices import select_device
from engine.methods.library_imports import import_libraries
from engine.worker.requests import Progress


def doctor(arguments: dict[str, Any], progress: Progress) -> Any:
    """Device, attention implementation and 4-bit support on this machine, and a training step of each method."""
    import_libraries()
    import torch

    from engine.extensions.doctor.report import check_methods
    from engine.methods.machine import this_machine

    machine = this_machine()
    facts: dict[str, Any] = {"device": machine.device, "name": machine.name, "bf16": machine.bf16}
    facts["attention"] = "flash_attention_2" if machine.flash_attention else "sdpa"
    if machine.device == "cuda":
        facts |= {"memory": torch.cuda.get_device_properties(0).total_memory, "cuda": torch.version.cuda}
    try:  # one 4-bit layer
        import bitsandbytes as bnb

        layer = bnb.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4").to(machine.device)
        layer(torch.ones(1, 64, device=machine.device))
        facts |= {"quantized": f"bitsandbytes {bnb.__version__} supports NF4 on this device", "why_not": ""}
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        facts |= {"quantized": "", "why_not": f"bitsandbytes does not work: {error}"}
    facts["methods"] = list(check_methods(machine))
    return facts


def train_method(arguments: dict[str, Any], progress: Progress) -> Any:
    """Train `method` on each model and check it, on `device` (`TrainingReport`s). `scratch`: folder for weights.

    Raises UserError if there is no such device, or if torch cannot use the GPU.
    """
    machine = _checked_machine(arguments["device"], progress)
    from engine.extensions.doctor.report import check_method

    scratch = Path(arguments["scratch"])
    reports = [check_method(arguments["method"], model, machine, scratch, progress) for model in MODELS]
    return msgspec.to_builtins(reports)


def check_paging(arguments: dict[str, Any], progress: Progress) -> Any:
    """Check the paged optimizer of `method` on `device` (a `TrainingCheck`). Raises as `train_method` does."""
    machine = _checked_machine(arguments["device"], progress)
    from engine.extensions.doctor.report import check_paging_of

    progress(f"paging of {arguments['method']}")
    return msgspec.to_builtins(check_paging_of(arguments["method"], machine))


def _checked_machine(device: str, progress: Progress) -> Any:
    """The machine with this device, as a run would use it."""
    select_device(device).apply()
    progress("importing libraries")
    import_libraries()
    import torch

    from engine.methods.machine import refuse_unused_gpu, this_machine

    machine = this_machine()
    if machine.device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as in a run
    refuse_unused_gpu(schema.Config(hardware=schema.Hardware(device=device)), machine)
    return machine
