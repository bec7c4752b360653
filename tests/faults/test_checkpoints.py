"""Broken checkpoints, full disks and failing training end with a status and a reason, not with a traceback."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
from pathlib import Path

import psutil
import pytest
from command import ON_SMALL, SMALL, events_of
from forked import ftbench
from safetensors.torch import load_file, save_file

from faults.worker_runs import UNPROBED, kill, losses, resume, start, wait_for, wait_for_end


def test_a_broken_latest_checkpoint_is_reported_and_the_previous_one_is_used(tmp_path: Path) -> None:
    """Other damage than a changed byte: `tests/engine/training/test_checkpoint_folders.py`."""
    run = start(tmp_path / "runs", *UNPROBED, *ON_SMALL, "--set", "train.keep_checkpoints=6", execute=ftbench)
    wait_for(run, "checkpoint", step=6)
    kill(run)
    for saved in run.checkpoints.iterdir():
        if saved.name not in ("step-4", "step-6"):
            shutil.rmtree(saved)
    weights = run.checkpoints / "step-6" / "adapter_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-50] ^= 1
    weights.write_bytes(content)
    resume(run, ftbench)
    warnings = [event["text"] for event in events_of(run.path) if event["type"] == "warning"]
    assert any("incomplete checkpoint step-6" in text and "resumes from step-4" in text for text in warnings)
    plans = [event for event in events_of(run.path) if event["type"] == "plan"]
    assert [plan["start_step"] for plan in plans if plan.get("probe_seconds") is None] == [0, 4]
    assert len(losses(run)) == 12


def test_a_full_disk_retains_the_previous_checkpoint_and_gives_a_reason(tmp_path: Path) -> None:
    runs = tmp_path / "small-disk"
    runs.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(runs)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        run = start(runs, *UNPROBED, execute=ftbench)
        wait_for(run, "phase", name="model")  # after the worker has checked the free space
        (runs / "filling").write_bytes(b"\0" * (10 << 20))
        wait_for_end(run)
        done = ftbench("attach", str(run.path))
        assert done.returncode == 1
        end = events_of(run.path)[-1]
        assert end["type"] == "end" and end["status"] == "failed"
        assert "checkpoint at step 4" in end["reason"] and "ftbench resume" in end["reason"]
        assert [folder.name for folder in run.checkpoints.iterdir()] == ["step-2"]
        assert (run.checkpoints / "step-2" / "manifest.json").exists()
        assert "Traceback" not in done.stderr
    finally:
        subprocess.run(["umount", "--lazy", str(runs)], check=True)


def test_a_loss_that_is_not_finite_ends_the_run_and_names_the_last_good_checkpoint(tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(SMALL, model)
    run = start(tmp_path / "runs", *UNPROBED, "--model", str(model), execute=ftbench)
    wait_for(run, "checkpoint", step=4)
    kill(run)
    start_step = max(int(folder.name.split("-")[1]) for folder in run.checkpoints.glob("step-*"))
    weights = load_file(model / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, model / "model.safetensors", {"format": "pt"})
    done = ftbench("resume", str(run.path))
    assert done.returncode == 1
    end = events_of(run.path)[-1]
    assert end["status"] == "diverged"
    assert f"finite at step {start_step + 1}" in end["reason"]
    assert f"checkpoints/step-{start_step}" in end["reason"]
    result = run.result()
    assert result and result.status == "diverged"


def test_out_of_memory_for_a_single_row_is_a_status(tmp_path: Path) -> None:
    data = tmp_path / "long.jsonl"
    rows = [{"prompt": f"say {n}", "completion": " ".join(str(n + k) for k in range(300))} for n in range(40)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = ["--data", str(data), "--set", "evaluation.metric=loss", "--set", "evaluation.rows=1"]
    settings += ["--set", "train.max_length=1000", "--set", "train.batch=4", "--set", "train.steps=3"]
    settings += ["--set", "train.probe=false"]
    run = start(tmp_path / "runs", *settings, preset="demo-full", execute=ftbench)
    wait_for(run, "plan")
    worker = psutil.Process(run.pid())
    limit = worker.memory_info().vms + (2 << 20)
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (limit, limit))
    wait_for_end(run)
    events = events_of(run.path)
    assert (events[-1]["type"], events[-1]["status"]) == ("end", "out_of_memory"), events[-1]
    # In a forward pass of one row, after halving, or in the optimizer step: that depends on how far the worker was.
    assert "train.gradient_checkpointing=true" in events[-1]["reason"]
    result = run.result()
    assert result and result.status == "out_of_memory"
