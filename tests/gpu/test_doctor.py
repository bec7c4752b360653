"""`ftbench doctor --train` on real GPUs, and packed rows with variable-length attention against padded ones."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from command import ftbench

from engine.config.gpu_prices import find_gpu, list_gpus
from engine.config.method_specs import method_names
from engine.config.settings import with_settings
from engine.extensions.doctor.report import measured_speed
from engine.extensions.doctor.training_report import CHECKS, MODELS
from engine.extensions.doctor.training_session import TrainingSession, random_subject
from engine.hardware.nvml import Nvml
from engine.methods.machine import this_machine
from gpu.separate_process import in_own_process

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]


def devices() -> list[str]:
    """The index of every GPU that torch sees, and the UUID of one MIG instance."""
    names = [str(number) for number in range(torch.cuda.device_count())]
    instances = [instance.uuid() for gpu in Nvml().gpus() for instance in gpu.mig_instances()]
    return names + [uuid for uuid in instances if uuid][:1]


@pytest.mark.parametrize("device", devices())
def test_every_check_passes(device: str) -> None:
    done = ftbench("doctor", "--train", "--device", device, "--json")
    output = json.loads(done.stdout)
    print(json.dumps(output, indent=1))
    assert done.returncode == 0 and output["ok"], done.stdout + done.stderr
    expected = [(method, choice) for method in method_names() for choice in MODELS]
    for report, (method, choice) in zip(output["reports"], expected, strict=True):
        assert report["method"] == method
        assert [check["name"] for check in report["checks"]] == list(CHECKS[choice])
        skipped = {check["name"] for check in report["checks"] if check["state"] == "skipped"}
        assert skipped == ({"paging"} if method != "full" and choice == "embedded" else set())
        gpu = find_gpu(report["device"], list_gpus())
        if gpu and gpu.bf16_tflops and report["precision"] == "bfloat16" and " MIG " not in report["device"]:
            assert report["mfu"] and report["peak_flops"] == gpu.bf16_tflops * 1e12


def trained(method: str, folder: Path, settings: dict[str, Any]) -> tuple[str, float, list[float]]:
    """(packing, tokens/s, losses) of a session on random weights with these settings."""
    machine = this_machine()
    subject = random_subject(method, machine, folder)
    subject = replace(subject, config=with_settings(subject.config, settings))
    session = TrainingSession(subject, machine, folder)
    session.train()
    speed = measured_speed(session).tokens_per_second
    print(f"{torch.cuda.get_device_name(0)}, {method}, {subject.title}, {settings}: {speed:.0f} tokens/s")
    print(*session.notes, sep="\n")
    return session.packing.mode, speed, session.steps.losses


@pytest.mark.parametrize("method", method_names())
def test_packed_rows_train_faster_than_padded_ones(method: str, scratch: Path) -> None:
    """The packed rows are attended to without a mask, by torch's variable-length attention or flash-attn."""
    packed, fast, _ = in_own_process(trained, method, scratch, {"train.packing": "packed"})
    padded, slow, _ = in_own_process(trained, method, scratch, {"train.packing": "padded"})
    assert (packed, padded) == ("packed", "padded")
    assert fast > slow


@pytest.mark.parametrize("method", method_names())
def test_compiled_layers_train_with_the_same_losses(method: str, scratch: Path) -> None:
    """Which of them is faster is printed: it decides about the default of `train.compile`."""
    _, _, eager = in_own_process(trained, method, scratch, {"train.compile": False})
    _, _, compiled = in_own_process(trained, method, scratch, {"train.compile": True})
    assert compiled == pytest.approx(eager, rel=0.02)
