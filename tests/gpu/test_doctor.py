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
from engine.config.preset import with_settings
from engine.hardware.nvml import Nvml
from engine.methods.machine import this_machine
from engine.runs.training_report import CHECKS, MODELS
from engine.worker.training_checks.report import measured_speed
from engine.worker.training_checks.subjects import Subject, random_subject
from engine.worker.training_checks.training_session import TrainingSession

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA GPU"),
]


def devices() -> list[str]:
    """The index of every GPU that torch sees, and the UUID of one MIG instance."""
    found = [str(number) for number in range(torch.cuda.device_count())]
    instances = [instance.uuid() for gpu in Nvml().gpus() for instance in gpu.mig_instances()]
    return found + [uuid for uuid in instances if uuid][:1]


@pytest.mark.parametrize("device", devices())
def test_every_check_passes(device: str) -> None:
    done = ftbench("doctor", "--train", "--device", device, "--json")
    found = json.loads(done.stdout)
    print(json.dumps(found, indent=1))
    assert done.returncode == 0 and found["ok"], done.stdout + done.stderr
    expected = [(method, choice) for method in method_names() for choice in MODELS]
    for report, (method, choice) in zip(found["reports"], expected, strict=True):
        assert report["method"] == method
        assert [check["name"] for check in report["checks"]] == list(CHECKS[choice])
        skipped = {check["name"] for check in report["checks"] if check["state"] == "skipped"}
        assert skipped == ({"paging"} if (method, choice) == ("lora", "embedded") else set())
        gpu = find_gpu(report["device"], list_gpus())
        if gpu and gpu.bf16_tflops and report["precision"] == "bfloat16" and " MIG " not in report["device"]:
            assert report["mfu"] and report["peak_flops"] == gpu.bf16_tflops * 1e12


def trained(subject: Subject, folder: Path, **settings: Any) -> TrainingSession:
    """A session of a subject with other settings."""
    session = TrainingSession(replace(subject, config=with_settings(subject.config, settings)), this_machine(), folder)
    session.train()
    return session


@pytest.mark.parametrize("method", method_names())
def test_packed_rows_train_faster_than_padded_ones(method: str, tmp_path: Path) -> None:
    """The packed rows are attended to without a mask, by torch's variable-length attention or flash-attn."""
    subject = random_subject(method, this_machine(), tmp_path)
    speeds = {}
    for packing in ("packed", "padded"):
        session = trained(subject, tmp_path, **{"train.packing": packing})
        assert session.packing.mode == packing
        speeds[packing] = measured_speed(session).tokens_per_second
        del session
    print(f"{torch.cuda.get_device_name(0)}, {method}, {subject.title}: {speeds}")
    assert speeds["packed"] > speeds["padded"]


@pytest.mark.parametrize("method", method_names())
def test_compiled_layers_train_with_the_same_losses(method: str, tmp_path: Path) -> None:
    """Which of them is faster is printed: it decides about the default of `train.compile`."""
    subject = random_subject(method, this_machine(), tmp_path)
    speeds, losses = {}, {}
    for compiled in (False, True):
        session = trained(subject, tmp_path, **{"train.compile": compiled})
        speeds[compiled], losses[compiled] = measured_speed(session).tokens_per_second, session.steps.losses
        print(*session.notes, sep="\n")
        del session
    print(f"{torch.cuda.get_device_name(0)}, {method}, {subject.title}: tokens/s by train.compile {speeds}")
    assert losses[True] == pytest.approx(losses[False], rel=0.02)
