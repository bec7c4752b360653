"""Runs that train on two devices: real ranks, as slots of the CPU."""

from __future__ import annotations

import math
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from command import ON_SMALL, events_of
from faults.worker_runs import UNPROBED, losses, selecting, start, stop, wait_for, wait_for_end
from forked import ftbench
from places import TESTS
from safetensors.torch import load_file

from engine.hardware.cpu import usable_cpus
from engine.runs.run.run_dir import RunDir
from engine.worker.rank import FOLDER
from engine.worker.rank_launcher import FAILED

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(len(usable_cpus()) < 2, reason="one CPU cannot be divided"),
]
PRECISE = ["--set", "train.precision=fp32"]
TWO = ["--set", "train.devices=2", "--set", "hardware.device=cpu:2"]
SETTINGS = [*ON_SMALL, *UNPROBED, *PRECISE]
SHARDED = ["--set", "train.parallelism=fsdp"]
DIVIDABLE = ["--set", "optimizer.name=adamw"]
"""32-bit optimizer state, which sharded training uses."""
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[int, float]:
    """Losses of one rank that was not interrupted."""
    run = start(tmp_path_factory.mktemp("one"), *SETTINGS, execute=ftbench)
    wait_for_end(run)
    return losses(run)


@pytest.fixture(scope="module")
def expected_full(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """Full fine-tuning on one rank."""
    run = start(tmp_path_factory.mktemp("full"), *SETTINGS, *DIVIDABLE, preset="demo-full", execute=ftbench)
    wait_for_end(run)
    return run


def ranks_of(run: RunDir) -> list[psutil.Process]:
    """The processes of the ranks, in the order in which they were started."""
    pid = run.pid()
    assert pid is not None
    return sorted(psutil.Process(pid).children(), key=lambda process: process.pid)


def close(actual: dict[int, float], expected: dict[int, float]) -> bool:
    return actual.keys() == expected.keys() and all(abs(actual[at] - expected[at]) < TOLERANCE for at in expected)


def last(run: RunDir, kind: str) -> dict[str, object]:
    return [event for event in events_of(run.path) if event["type"] == kind][-1]


def test_a_killed_rank_ends_the_run_which_one_rank_resumes(tmp_path: Path, expected: dict[int, float]) -> None:
    run = start(tmp_path / "runs", *SETTINGS, *TWO)  # not as forks: processes as users have them
    wait_for(run, "checkpoint", step=4)
    killed = ranks_of(run)[1].pid
    os.kill(killed, signal.SIGKILL)
    wait_for_end(run)
    assert last(run, "error")["code"] == FAILED
    result = run.result()
    assert result is not None and result.status == "failed"
    assert f"process {killed}" in result.reason and "SIGKILL" in result.reason
    assert not (run.path / FOLDER).exists() and not psutil.pid_exists(killed)
    done = ftbench("resume", str(run.path), "--set", "train.devices=1")
    assert done.returncode == 0, done.stderr
    assert close(losses(run, TOLERANCE), expected)
    result = run.result()
    assert result is not None and result.status == "finished" and "run.devices_changed" in result.warning_codes


def test_two_ranks_resume_a_run_of_one_and_stop_after_the_same_step(tmp_path: Path, expected: dict[int, float]) -> None:
    run = start(tmp_path / "runs", *SETTINGS, execute=ftbench)
    wait_for(run, "checkpoint", step=2)
    stop(run)
    frozen = run.config_file.read_text()
    for setting, code in (
        ("train.batch=2", "run.setting_fixed"),
        ("train.devices=0", "preset.invalid_value"),
        ("train.devices=3", "device.too_few"),
    ):
        refused = ftbench("resume", str(run.path), "--set", setting, "--json")
        assert refused.returncode == 2 and code in refused.stderr + refused.stdout
    assert run.config_file.read_text() == frozen
    before = len(events_of(run.path))
    changes = [word for setting in ("train.devices=2", "hardware.device=cpu:2") for word in ("--set", setting)]
    assert ftbench("resume", str(run.path), *changes, "--detach").returncode == 0
    wait_for(run, "step", after=before)
    os.kill(ranks_of(run)[1].pid, signal.SIGTERM)  # a request to any rank stops all
    wait_for_end(run)
    result = run.result()
    assert result is not None and result.status == "stopped"
    assert last(run, "checkpoint")["step"] == last(run, "step")["step"]
    assert ftbench("resume", str(run.path)).returncode == 0
    assert close(losses(run), expected)


@pytest.mark.parametrize("setting", ["adapter.dora=true", 'adapter.init="pissa"', "train.compile=true"])
def test_settings_that_need_whole_weights_are_refused_before_a_run_exists(setting: str, tmp_path: Path) -> None:
    refused = ftbench("run", "demo-lora", *TWO, *SHARDED, "--set", setting, "--json", "--runs", str(tmp_path / "runs"))
    assert refused.returncode == 2 and "train.not_sharded" in refused.stdout + refused.stderr
    assert not (tmp_path / "runs").exists()


def test_a_sharded_run_is_resumed_whole_and_sharded_again(tmp_path: Path, expected_full: RunDir) -> None:
    run = start(tmp_path / "runs", *SETTINGS, *DIVIDABLE, *TWO, *SHARDED, preset="demo-full", execute=ftbench)
    wait_for(run, "checkpoint", step=2)
    stop(run)
    assert ftbench("resume", str(run.path), "--set", "train.devices=1", "--detach").returncode == 0
    wait_for(run, "step", step=last(run, "checkpoint")["step"] + 2)
    stop(run)
    assert ftbench("resume", str(run.path), "--set", "train.devices=2").returncode == 0
    assert close(losses(run), losses(expected_full))
    weights = load_file(run.model / "model.safetensors")
    for name, whole in load_file(expected_full.model / "model.safetensors").items():
        # Rounding moves single weights by up to 4% of the learning rate, where Adam divides by almost no variance, and
        # all of them by 4e-7 of their norm (AVX2); a wrong row would change it by 1e-3.
        assert torch.linalg.norm(weights.pop(name) - whole) < 1e-5 * torch.linalg.norm(whole), name
    assert not weights


@pytest.mark.parametrize(("preset", "rate", "more"), [("demo-lora", 0.02, []), ("demo-full", 0.003, SHARDED)])
def test_two_ranks_load_the_weights_with_the_lowest_validation_loss(
    preset: str, rate: float, more: list[str], tmp_path: Path
) -> None:
    # Rows that the embedded model overfits.
    few = ["data.max_rows=4" if word == "data.max_rows=32" else word for word in UNPROBED]
    settings = [*selecting(few, rate), *PRECISE, "--set", "train.patience=2", *DIVIDABLE, *TWO, *more]
    run = start(tmp_path / "runs", *settings, preset=preset, execute=ftbench)
    wait_for_end(run)
    result = run.result()
    assert result is not None and result.status == "finished", result
    lowest = min(result.validation_loss, key=lambda pair: pair[1] or math.inf)
    assert result.selected_step == lowest[0] < result.steps
    assert result.final_validation == pytest.approx(lowest[1], abs=TOLERANCE)


def test_sharded_ranks_start_again_with_smaller_micro_batches(
    tmp_path: Path, expected: dict[int, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "plugin_tight"))
    run = start(tmp_path / "runs", *SETTINGS, *TWO, *SHARDED, "--method", "tight-lora", execute=ftbench)
    wait_for_end(run)
    result = run.result()
    assert result is not None and result.status == "finished", result
    assert "memory.micro_batch_reduced" in result.warning_codes
    reduced = last(run, "micro_batch")
    assert reduced["micro_batch"] == 1 and reduced["restarted"]
    assert close(losses(run), expected)
