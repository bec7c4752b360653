"""`ftbench run --from RUN`: a run that starts from another run's adapter or weights."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import MICRO, ON_SMALL, events_of
from faults.worker_runs import stop
from forked import ftbench

from engine.runs.run.predictions import recorded_items
from engine.runs.run.run_dir import RunDir


def trained(*arguments: str) -> tuple[RunDir, dict[str, Any]]:
    """Run to the end; returns its directory and its result."""
    done = ftbench("run", "demo-lora", *MICRO, *ON_SMALL, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    return next(run for run in RunDir.iterate(Path(arguments[-1])) if run.name == result["name"]), result


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of this module."""
    return tmp_path_factory.mktemp("world") / "runs"


@pytest.fixture(scope="module")
def first(home: Path) -> RunDir:
    """A finished QLoRA run."""
    return trained("--method", "qlora", "--runs", str(home))[0]


def check_start(first: RunDir, second: RunDir) -> None:
    """The second run starts with the answers and losses with which the first one ended, and improves on them."""
    before, after = first.result(), second.result()
    assert before and after and (after.from_run, before.from_run) == (first.name, "")
    ended, started = (recorded_items(run.predictions_file, who) for run, who in ((first, "tuned"), (second, "base")))
    assert ended and started
    assert [item.output for item in started] == [item.output for item in ended]
    assert [item.nll for item in started] == pytest.approx([item.nll for item in ended], rel=1e-4)
    assert after.fingerprints["model"] == before.fingerprints["model"]  # of the base
    assert after.final_validation and before.final_validation and after.final_validation < before.final_validation
    (model,) = [event for event in events_of(second.path) if event["type"] == "model"]
    assert model["from_run"] == first.name
    assert "run.start_other_data" not in after.warning_codes


def test_a_run_starts_from_an_adapter(first: RunDir, home: Path) -> None:
    second, _ = trained("--method", "qlora", "--from", first.name, "--runs", str(home))
    check_start(first, second)
    check_gates_lists_and_cards(first, second, str(home))


def test_a_run_starts_from_full_weights(home: Path) -> None:
    first, _ = trained("--method", "full", "--runs", str(home))
    second, _ = trained("--method", "full", "--from", first.name, "--runs", str(home))
    check_start(first, second)


def check_gates_lists_and_cards(first: RunDir, second: RunDir, home: str) -> None:
    """None of them takes the starting run's scores for the base model's."""
    refused = ftbench("gate", second.name, "--runs", home, "--json")
    assert refused.returncode == 2 and json.loads(refused.stderr)["error"]["code"] == "gate.no_base"
    passed = ftbench("gate", second.name, "--against", "start", "--min-gain", "-100", "--runs", home, "--json")
    assert passed.returncode == 0 and json.loads(passed.stdout)["reference"] == f"its start, {first.name}"
    wrong = ftbench("gate", first.name, "--against", "start", "--runs", home, "--json")
    assert wrong.returncode == 2 and json.loads(wrong.stderr)["error"]["code"] == "gate.no_start"
    listed = json.loads(ftbench("runs", "--runs", home, "--json").stdout)
    assert {line["name"]: line["from_run"] for line in listed}[second.name] == first.name
    assert f"small from qlora-{first.name[-4:]}" in ftbench("runs", "--runs", home).stdout
    done = ftbench("export", second.name, "--to", "adapter", "--runs", home, "--margin", "100")
    assert done.returncode == 0, done.stderr
    assert f"continues the run {first.name}" in (second.path / "exports" / "adapter" / "README.md").read_text()


def test_a_run_resumes_after_its_starting_run_was_deleted(first: RunDir, tmp_path: Path) -> None:
    home = str(tmp_path / "runs")
    copy = RunDir(Path(shutil.copytree(first.path, tmp_path / "runs" / first.name)))
    data = tmp_path / "new.jsonl"
    rows = [{"prompt": f"question {n}", "completion": f"answer {n}"} for n in range(60)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    long = [
        *("--set", "train.steps=60", "--set", "train.batch=1", "--set", "train.probe=false"),
        *("--set", "evaluation.max_new_tokens=4", "--set", "evaluation.forgetting_text=none"),
    ]
    arguments = ["--method", "qlora", "--from", copy.name, "--data", str(data), "--runs", home, "--detach"]
    started = ftbench("run", "demo-lora", *long, *ON_SMALL, *arguments)
    assert started.returncode == 0, started.stderr
    second = next(run for run in RunDir.iterate(Path(home)) if run.name != copy.name)
    until(lambda: any(event["type"] == "step" for event in events_of(second.path)))
    stop(second)
    assert (second.start_model / "adapter_model.safetensors").exists()
    shutil.rmtree(copy.path)
    done = ftbench("resume", second.name, "--runs", home, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["status"], result["steps"], result["from_run"]) == ("finished", 60, copy.name)
    assert "run.start_other_data" in result["warning_codes"] and "run.model_changed" not in result["warning_codes"]
    again = ftbench(
        "run", "demo-lora", *MICRO, *ON_SMALL, "--set", f"model.from_run={copy.path}", "--runs", home, "--json"
    )
    assert again.returncode == 2 and json.loads(again.stderr)["error"]["code"] == "run.start_missing"


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--method", "full"], "run.start_method", "--method qlora"),
        (["--method", "qlora", "--set", "adapter.rank=4"], "run.start_setting", "--set adapter.rank=16"),
        (
            ["--method", "qlora", "--set", 'adapter.target_modules=["q_proj"]'],
            "run.start_setting",
            "--set adapter.target_modules=all-linear",
        ),
        (["--method", "qlora", "--set", "quantization.double=false"], "run.start_setting", "quantization.double=true"),
        (["--method", "qlora", "--set", "model.enable_thinking=true"], "run.start_setting", "enable_thinking=false"),
        (["--method", "qlora", "--model", "smollm2-135m"], "run.start_setting", "/fixtures/small"),
    ],
)
def test_a_run_that_does_not_match_is_refused_by_name(
    arguments: list[str], code: str, text: str, first: RunDir
) -> None:
    model = [] if "--model" in arguments else ON_SMALL
    done = ftbench("run", "demo-lora", *MICRO, *model, "--from", str(first.path), *arguments, "--json")
    error = json.loads(done.stderr.strip().splitlines()[-1])["error"]
    assert (done.returncode, error["code"]) == (2, code) and text in error["hint"]
