"""`ftbench doctor --train`: output, exit status, JSON, and what to report."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from engine.config.errors import RunFailed, UserError
from engine.extensions.doctor.training_report import CHECKS, MODELS, ModelChoice, TrainingCheck, TrainingReport
from engine.hardware.devices import SelectedDevice
from engine.runs.queue import locks
from engine.runs.queue.device_queue import titled_places
from tui.cli.main import app
from tui.extensions.doctor import training_check

METHODS = ["qlora", "lora", "full"]


def report(method: str, choice: ModelChoice, failed: str = "") -> TrainingReport:
    """A report whose check `failed` is failed."""
    checks = [
        TrainingCheck(name=name, state="failed" if name == failed else "ok", text=f"{name} measured")
        for name in CHECKS[choice]
    ]
    return TrainingReport(
        method=method, model=MODELS[choice], device="GPU", parameters=8_030_000_000, precision="bfloat16",
        optimizer="paged_adamw_8bit", packing="packed", micro_batch=8, gradient_checkpointing="1 in 4 layers",
        tokens_per_second=4321.0, mfu=0.41, checks=checks,
    )  # fmt: skip


def answers(monkeypatch: pytest.MonkeyPatch, failed: str = "") -> list[dict[str, Any]]:
    """Let the engine answer with reports; a list that receives its arguments."""
    asked: list[dict[str, Any]] = []

    def answer(question: str, arguments: dict[str, Any], *_: object) -> Any:
        assert question == "doctor.train"
        asked.append(arguments)
        name = failed if arguments["method"] == "lora" else ""
        return msgspec.to_builtins([report(arguments["method"], choice, name) for choice in MODELS])

    monkeypatch.setattr(training_check, "ask", answer)
    return asked


def test_every_method_is_trained_on_the_chosen_device(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch)
    done = CliRunner().invoke(app, ["doctor", "--train", "--device", "cpu"])
    assert done.exit_code == 0, done.output
    assert [(request["method"], request["device"]) for request in asked] == [(method, "cpu") for method in METHODS]
    (scratch,) = {request["scratch"] for request in asked}
    assert not Path(scratch).exists()  # it was shared, and is deleted
    heading = next(line for line in done.stdout.splitlines() if line.startswith(f"QLoRA, {MODELS['embedded']}"))
    facts = ("8.03B", "bfloat16", "paged_adamw_8bit", "packed", "micro-batch 8", "1 in 4 layers")
    assert all(fact in heading for fact in facts) and "✓ decoding       decoding measured" in done.stdout
    assert re.search(r"^42 .* ok, 0 failed, 0 skipped$", done.stdout, re.MULTILINE)
    assert "looks wrong" in done.stdout and training_check.REPORT in done.stdout


def test_a_failed_check_sets_the_exit_status_and_says_what_to_report(monkeypatch: pytest.MonkeyPatch) -> None:
    failed = "packed loss"
    answers(monkeypatch, failed)
    done = CliRunner().invoke(app, ["doctor", "--train"])
    assert done.exit_code == 1
    assert re.search(r"^40 .* ok, 2 failed, 0 skipped$", done.stdout, re.MULTILINE)
    named = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert all(
        failed in line and " LoRA" in line and model in line for line, model in zip(named, MODELS.values(), strict=True)
    )
    assert "Report the failed" in done.stdout and training_check.REPORT in done.stdout
    assert "looks wrong" not in done.stdout


def test_paging_is_checked_last_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str]] = []
    why = "engine process exited unexpectedly: CUDA error: out of memory"

    def answer(question: str, arguments: dict[str, Any], *_: object) -> Any:
        asked.append((question, arguments["method"]))
        if question == "doctor.paging":
            if arguments["method"] == "full":
                raise RunFailed(why, "engine.died")
            return msgspec.to_builtins(TrainingCheck(name="paging", state="ok", text="measured"))
        reports = [report(arguments["method"], choice) for choice in MODELS]
        if arguments["method"] != "lora":  # whose optimizer is not paged
            reports[0] = msgspec.structs.replace(reports[0], checks=reports[0].checks[:-1])
        return msgspec.to_builtins(reports)

    monkeypatch.setattr(training_check, "ask", answer)
    done = CliRunner().invoke(app, ["doctor", "--train", "--json"])
    shown_reports = msgspec.convert(json.loads(done.stdout)["reports"], list[TrainingReport])
    trained = [("doctor.train", method) for method in METHODS]
    assert asked == [*trained, ("doctor.paging", "qlora"), ("doctor.paging", "full")]
    assert all(
        [check.name for check in shown_report.checks] == list(CHECKS["embedded"]) for shown_report in shown_reports[::2]
    )
    assert [shown_report.failed[0].text for shown_report in shown_reports if shown_report.failed] == [why]


def test_a_process_that_dies_fails_its_method_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(question: str, arguments: dict[str, Any], *_: object) -> Any:
        if arguments["method"] == "full":
            raise RunFailed("engine process exited unexpectedly: SIGKILL")
        return msgspec.to_builtins([report(arguments["method"], choice) for choice in MODELS])

    monkeypatch.setattr(training_check, "ask", answer)
    done = CliRunner().invoke(app, ["doctor", "--train", "--json"])
    output = json.loads(done.stdout)
    assert done.exit_code == 1 and not output["ok"]
    assert output["checks"] == {"ok": 28, "failed": 2, "skipped": 12}
    assert "SIGKILL" in output["reports"][-1]["checks"][0]["text"]


def test_json_follows_its_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch)
    done = CliRunner().invoke(app, ["doctor", "--train", "--json"])
    output = json.loads(done.stdout)
    assert set(output) == {"ok", "checks", "notes", "reports"} and output["ok"] and len(output["reports"]) == 6
    Draft202012Validator(msgspec.json.schema(list[TrainingReport])).validate(output["reports"])


def test_a_device_that_does_not_exist_is_a_user_error() -> None:
    done = CliRunner().invoke(app, ["doctor", "--train", "--device", "7"])
    assert isinstance(done.exception, UserError) and done.exception.code == "device.not_found"


def test_runs_wait_while_the_checks_use_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def answer(question: str, arguments: dict[str, Any], *_: object) -> Any:
        seen.extend(entry.name for entry in titled_places())
        return msgspec.to_builtins([report(arguments["method"], choice) for choice in MODELS])

    monkeypatch.setattr(training_check, "ask", answer)
    assert CliRunner().invoke(app, ["doctor", "--train", "--device", "cpu"]).exit_code == 0
    assert seen == ["ftbench doctor --train"] * 3 and titled_places() == []


def test_a_run_on_the_cpu_is_noted_and_one_on_the_gpu_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answers(monkeypatch)
    lock = locks.acquire(locks.device_lock("cpu"), "17 /runs/lora-3f2a")
    done = CliRunner().invoke(app, ["doctor", "--train", "--device", "cpu", "--json"])
    (note,) = json.loads(done.stdout)["notes"]
    assert lock and "lora-3f2a" in note and "CPU" in note
    os.close(lock)
    lock = locks.acquire(locks.device_lock("GPU-1"), "17 /runs/lora-3f2a")
    monkeypatch.setattr(training_check, "select_device", lambda device: SelectedDevice("GPU-1", "GPU 0", "GPU-1"))
    done = CliRunner().invoke(app, ["doctor", "--train"])
    assert isinstance(done.exception, UserError) and done.exception.code == "device.in_use"
    assert "GPU 0" in done.exception.problem and "lora-3f2a" in done.exception.problem
    assert len(asked) == 3 and lock
    os.close(lock)


def test_a_device_is_for_training_only() -> None:
    done = CliRunner().invoke(app, ["doctor", "--device", "cpu"])
    assert isinstance(done.exception, UserError) and "--device without --train" in done.exception.problem
