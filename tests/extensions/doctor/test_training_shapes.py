"""Shapes with random weights for `ftbench doctor --train`: which one fits, and how its weights are written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config.preset import Preset, resolve
from engine.extensions.doctor import training_session
from engine.extensions.doctor.training_session import choose_shape, random_rows, write_random_weights
from engine.methods import lora
from engine.methods.machine import Machine, this_machine

GIB = 1 << 30
A100 = Machine("cuda", "NVIDIA A100-SXM4-80GB", bf16=True, flash_attention=False)


@pytest.mark.parametrize(
    ("method", "memory_gib", "disk_gib", "title", "why"),
    [
        ("full", 79, 1000, "Llama 3.1 8B shape", ""),
        ("lora", 79, 1000, "Llama 3.1 8B shape", ""),
        ("qlora", 22, 1000, "Llama 3.1 8B shape", ""),
        ("full", 22, 1000, "Llama 3.2 1B shape", "Llama 3.1 8B shape: predicted peak"),
        ("lora", 79, 10, "Llama 3.2 3B shape", "Llama 3.1 8B shape: 15.0 GiB of weights, 10.0 GiB free"),
        ("full", 1, 1000, "SmolLM2 135M shape", "Llama 3.1 8B shape: predicted peak"),
    ],
)
def test_the_largest_shape_that_fits_is_trained(
    method: str, memory_gib: int, disk_gib: int, title: str, why: str
) -> None:
    config = resolve(Preset("doctor", {"method": method})).config
    shape, reason = choose_shape(config, A100, memory_gib * GIB, disk_gib * GIB)
    assert shape.title == title and reason.startswith(why) and bool(reason) == bool(why)


def test_weights_that_another_method_wrote_take_no_more_disk_space() -> None:
    config = resolve(Preset("doctor", {"method": "lora"})).config
    assert choose_shape(config, A100, 79 * GIB, 1 * GIB, [training_session.ON_GPU[0]])[0] == training_session.ON_GPU[0]


def test_random_weights_are_written_in_several_files_and_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_session, "SHARD", 1 << 20)
    architecture = training_session.ON_CPU.architecture()
    write_random_weights(architecture, tmp_path / "weights", "cpu")
    assert len(list((tmp_path / "weights").glob("*.safetensors"))) > 3
    config = resolve(Preset("doctor", {"model.id": str(tmp_path / "weights")})).config
    model = lora.load(config, this_machine())
    stored = sum(parameter.numel() * 2 for parameter in model.parameters())
    assert stored == training_session.weight_bytes(architecture)
    weight = model.model.layers[0].mlp.up_proj.weight.float()
    assert float(weight.std()) == pytest.approx(architecture.initializer_range, rel=0.05)
    assert torch.equal(model.model.norm.weight.float(), torch.ones(256))
    rows = random_rows([40, 300], architecture)
    assert [len(row.input_ids) for row in rows] == [40, 300] and len(rows[1].prompt) == 128
