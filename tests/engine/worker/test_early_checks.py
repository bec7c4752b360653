"""What a run refuses before it loads weights: adapter targets and settings, disk space."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from command import events_of, only_run
from forked import ftbench
from transformers import MixtralConfig

from engine.assets import tiny_folder
from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.methods.machine import Machine
from engine.methods.model_source import config_of
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.worker.checks import refuse_model, refuse_small_disk
from engine.worker.planning import describe_workload

CPU = Machine("cpu", "CPU", bf16=False, flash_attention=False)
GPU = Machine("cuda", "GPU", bf16=True, flash_attention=False)
Usage = namedtuple("Usage", "total used free")


def config(method: str, **settings: Any) -> Config:
    return resolve_preset("demo", method, {key.replace("__", "."): value for key, value in settings.items()}).config


def code_of(chosen: Config, architecture: Any, machine: Machine = CPU) -> str:
    with pytest.raises(UserError) as error:
        refuse_model(chosen, architecture, machine)
    return error.value.code


def test_unknown_adapter_targets_are_refused() -> None:
    chosen = config("lora", adapter__target_modules=["q_proj", "nope"])
    architecture = config_of(chosen.model)
    refuse_model(chosen, architecture, CPU)  # PEFT accepts targets of which some match
    for method in ("lora", "qlora"):
        chosen = config(method, adapter__target_modules=["nope"])
        assert code_of(chosen, architecture) == "model.unknown_target"
        assert code_of(chosen, architecture, GPU) == "model.unknown_target"


def test_a_ladder_refuses_unknown_adapter_targets_too() -> None:
    with pytest.raises(UserError) as error:
        describe_workload(config("lora", adapter__target_modules=["nope"]))
    assert error.value.code == "model.unknown_target"


@pytest.mark.parametrize("setting", [{"adapter__dropout": 0.1}, {"adapter__dora": True}, {"adapter__init": "pissa"}])
def test_settings_that_experts_do_not_support_are_refused(setting: dict[str, Any]) -> None:
    experts = MixtralConfig(vocab_size=64, hidden_size=64, intermediate_size=64, num_hidden_layers=1,
                            num_attention_heads=2, num_key_value_heads=2, num_local_experts=2)  # fmt: skip
    assert code_of(config("lora", **setting), experts) == "model.expert_adapter"
    refuse_model(config("lora", **setting, adapter__target_modules=["q_proj"]), experts, CPU)
    refuse_model(config("lora"), experts, CPU)


def test_a_model_that_cannot_be_built_on_meta_is_left_to_loading(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no meta kernel")

    monkeypatch.setattr("engine.memory.dry_run.fake_model.predict_account", fails)
    chosen = config("qlora")
    refuse_model(chosen, config_of(chosen.model), CPU)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return run_dir.create(tmp_path / "runs", "demo-full", resolve_preset("demo-full", None, {}))


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 0, size))


def test_a_disk_that_is_too_small_is_refused(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config("full")
    architecture = config_of(chosen.model)
    free(monkeypatch, 1000)
    with pytest.raises(UserError) as error:
        refuse_small_disk(run, chosen, architecture, CPU)
    assert error.value.code == "disk.too_small" and str(run.path) in error.value.location
    free(monkeypatch, 1 << 40)
    refuse_small_disk(run, chosen, architecture, CPU)


def test_files_of_earlier_workers_count_as_free(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = config("full")
    free(monkeypatch, 1000)
    (run.checkpoints / "step-1").mkdir(parents=True)
    with (run.checkpoints / "step-1" / "optimizer.pt").open("wb") as file:
        file.truncate(1 << 30)
    refuse_small_disk(run, chosen, config_of(chosen.model), CPU)


def test_an_adapter_run_needs_no_space_for_the_base(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = (tiny_folder() / "model.safetensors").stat().st_size
    chosen = config("lora", adapter__rank=1, train__keep_checkpoints=1)
    free(monkeypatch, weights // 2)
    refuse_small_disk(run, chosen, config_of(chosen.model), CPU)


def test_a_run_with_unknown_targets_ends_before_the_model_phase(tmp_path: Path) -> None:
    done = ftbench("run", "demo", "--method", "lora", "--set", "adapter.target_modules=['nope']")
    assert done.returncode == 2
    events = events_of(only_run(tmp_path)) if list((tmp_path / "runs").iterdir()) else []
    assert not any(event["type"] == "phase" and event["name"] == "model" for event in events)


@pytest.mark.parametrize(
    ("stored", "trained_by"),
    [("mxfp4", ["qlora", "lora", "full"]), ("fp8", ["lora", "full"]), ("gptq", []), ("bitsandbytes", [])],
)
def test_stored_weights_that_cannot_be_dequantized_are_refused(stored: str, trained_by: list[str]) -> None:
    architecture = config_of(config("lora").model)
    architecture.quantization_config = {"quant_method": stored}
    for name in ("qlora", "lora", "full"):
        if name in trained_by:
            refuse_model(config(name), architecture, CPU)
        else:
            assert code_of(config(name), architecture) == "model.already_quantized"
