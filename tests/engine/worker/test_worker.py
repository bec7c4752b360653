"""Runs from start to end: the real command and the real worker."""

from __future__ import annotations

import json
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import forked
import msgspec
import pytest
import tomli
from command import MICRO, ON_SMALL, WHOLE, Execute, events_of, ftbench

from engine.config.preset_library import resolve_preset
from engine.config.settings import parse_overrides
from engine.runs.run.result import Result
from engine.worker.run_log import memory_advice

LORA = [*WHOLE, *ON_SMALL, "--set", "adapter.alpha=4"]
"""For LoRA on the small model, whose loss rises after the first step with the default `adapter.alpha`."""
TRAINING_ONLY = [*LORA, "--set", "evaluation.when=never", "--set", "train.probe=false"]
"""For runs of which only the losses during training are compared."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The finished run of a method, executed at the first call; a token is in its environment.

    LoRA's run is started by the installed command and has all rows, a dry run and a probe, on the small model; the
    others are forks on the embedded model.
    """
    world = tmp_path_factory.mktemp("world")
    done: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in done:
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("HF_TOKEN", "hf_planted_secret")
                execute, settings = (ftbench, LORA) if method == "lora" else (forked.ftbench, MICRO)
                done[method] = executed(world / method, f"demo-{method}", *settings, execute=execute)
        return done[method]

    return run


def executed(runs: Path, preset: str, *settings: str, execute: Execute = ftbench) -> Path:
    """The directory of a run that this call executes as the only one in its runs home."""
    done = execute("run", preset, *settings, "--runs", str(runs))
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = runs.iterdir()
    return run


def losses(run: Path) -> list[float]:
    return [event["loss"] for event in events_of(run) if event["type"] == "step"]


@pytest.mark.parametrize("method", ["qlora", "lora", "full"])
def test_a_run_of_each_method_writes_all_its_files(method: str, finished: Callable[[str], Path]) -> None:
    run = finished(method)
    result = msgspec.json.decode((run / "result.json").read_bytes(), type=Result)
    assert result.status == "finished"
    assert result.steps == result.planned_steps == 4
    assert result.before and result.after
    assert result.after.loss.mean < result.before.loss.mean
    assert result.after.loss.low < result.after.loss.mean < result.after.loss.high
    assert result.trainable == result.parameters if method == "full" else 0 < result.trainable < result.parameters
    assert {"data", "model", "baseline", "training", "evaluation", "saving"} <= set(result.seconds)
    assert result.peak.rss > 1 << 20 and result.artifact_bytes > 0
    assert set(result.fingerprints) == {"data", "model", "order", "test"}
    assert result.versions["torch"] != "absent"
    lines = [json.loads(line) for line in (run / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == result.after.score.rows
    assert all(line["base"] and line["tuned"] for line in lines)


def test_events_come_in_order_and_hello_is_first(finished: Callable[[str], Path]) -> None:
    events = events_of(finished("lora"))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "hello" and events[-1]["type"] == "end"
    assert {event["v"] for event in events} == {1}
    steps = [event for event in events if event["type"] == "step"]
    assert [step["step"] for step in steps] == [1, 2, 3, 4]
    assert all(step["tokens"] >= step["answer_tokens"] > 0 and step["grad_norm"] > 0 for step in steps)
    assert any(event["type"] == "memory" and event["rss"] > 0 for event in events)


def test_a_worker_that_is_started_for_a_finished_run_changes_nothing(finished: Callable[[str], Path]) -> None:
    """Slurm repeats a job whose end its controller did not see."""
    run = finished("lora")

    def content() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "engine.lock"}

    before = content()
    done = subprocess.run([sys.executable, "-P", "-m", "engine", str(run)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert before == {
        path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != "engine.lock"
    }


def test_a_run_directory_is_private_and_contains_no_token(finished: Callable[[str], Path]) -> None:
    run = finished("lora")
    for folder in [run.parent, run, *(path for path in run.rglob("*") if path.is_dir())]:
        assert stat.S_IMODE(folder.stat().st_mode) & 0o077 == 0, folder
    for file in (path for path in run.rglob("*") if path.is_file()):
        assert b"hf_planted_secret" not in file.read_bytes(), file


def test_losses_depend_only_on_the_seed(finished: Callable[[str], Path], tmp_path: Path) -> None:
    first = losses(finished("lora"))
    again, other = (losses_with(tmp_path, f"train.seed={seed}") for seed in (0, 1))
    assert first == again != other and len(first) == 4


def test_the_frozen_configuration_has_the_origin_of_each_value(finished: Callable[[str], Path]) -> None:
    origins = tomli.loads((finished("lora") / "run.toml").read_text())["origins"]
    assert origins["train.steps"] == "command line"
    assert origins["train.learning_rate"] == "preset demo-lora"
    assert origins["adapter.rank"] == "default"
    assert origins["train.max_grad_norm"] == "default for lora"


def losses_with(tmp_path: Path, *settings: str) -> list[float]:
    chosen = [word for setting in settings for word in ("--set", setting)]
    folder = tmp_path / "_".join(["runs", *settings])
    return losses(executed(folder, "demo-lora", *TRAINING_ONLY, *chosen, execute=forked.ftbench))


def test_checkpointing_and_accumulation_change_no_loss(tmp_path: Path) -> None:
    plain = losses_with(tmp_path, "train.precision=fp32")
    for settings in (
        ["train.gradient_checkpointing=true", "train.micro_batch=1"],
        ["train.gradient_checkpointing=2", "train.packing=padded"],
    ):
        assert losses_with(tmp_path, "train.precision=fp32", *settings) == pytest.approx(plain, rel=1e-4), settings


def test_rslora_and_dora_train(finished: Callable[[str], Path], tmp_path: Path) -> None:
    plain = losses(finished("lora"))
    scaled = losses_with(tmp_path, "adapter.rslora=true")
    parted = losses_with(tmp_path, "adapter.dora=true")
    assert plain[0] == pytest.approx(scaled[0], rel=1e-3) and plain[0] == pytest.approx(parted[0], rel=1e-2)
    assert plain[-1] != scaled[-1] and plain[-1] != parted[-1]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_advice_on_memory_works_as_it_is_typed(device: Literal["cpu", "cuda"]) -> None:
    config = resolve_preset("demo-lora", None, {}).config
    typed = re.findall(r"`--set ([^`]+)`", memory_advice(config, device))
    assert {words.split("=")[0] for words in typed} >= {"train.max_length", "train.gradient_checkpointing"}
    for words in typed:
        assert resolve_preset("demo-lora", None, parse_overrides(shlex.split(words))).config != config
