"""A run trains only on the rows that were checked, and a resumed run only on the rows of its first start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command import MICRO, events_of
from forked import ForkedProcess
from message_parts import figures

from engine.assets import tickets_folder
from engine.config.preset_library import resolve_preset
from engine.data.check import check
from engine.executors import local
from engine.methods.model_source import load_tokenizer
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir


def checked_run(tmp_path: Path) -> tuple[RunDir, Path, dict[str, Any]]:
    """A run that has not started, its data file, and the report of its check."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join((tickets_folder() / "train.jsonl").read_text().splitlines()[:120]) + "\n")
    settings = {key: json.loads(value) for key, value in (word.split("=") for word in MICRO if word != "--set")}
    chosen = resolve_preset("demo-lora", None, {**settings, "data.id": str(path)})
    config = chosen.config
    report = check(config.data, config.train.max_length, load_tokenizer(config.model))
    run = run_dir.create(tmp_path / "runs", "demo-lora", chosen, data_fingerprint=report["fingerprint"])
    return run, path, report


def change(path: Path) -> None:
    """Change one answer and remove one row."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    rows[7]["messages"][-1]["content"] += " changed"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:-1]))


def error_code(run: RunDir) -> str:
    """The code of the run's only error, which is one of the user's."""
    (error,) = [event for event in events_of(run.path) if event["type"] == "error"]
    assert error["user"]
    return str(error["code"])


def work(run: RunDir) -> tuple[int, dict[str, Any]]:
    """(exit status, result) of the run's worker."""
    status = ForkedProcess(local.worker_command("engine", run.path)).wait()
    return status, json.loads(run.result_file.read_text())


def test_a_run_with_rows_that_were_not_checked_is_refused(tmp_path: Path) -> None:
    run, path, _ = checked_run(tmp_path)
    change(path)
    status, result = work(run)
    assert (status, result["status"]) == (2, "failed")
    assert error_code(run) == "data.changed_since_check"
    assert not [event for event in events_of(run.path) if event["type"] in ("data", "model")]


def test_a_run_with_the_checked_rows_finishes_and_is_not_resumed_with_others(tmp_path: Path) -> None:
    run, path, report = checked_run(tmp_path)
    status, result = work(run)
    assert (status, result["status"]) == (0, "finished")
    assert result["fingerprints"]["data"] == report["fingerprint"]
    (data,) = [event for event in events_of(run.path) if event["type"] == "data"]
    assert {name: data[name] for name in ("columns", "data_usage")} == {
        name: report[name] for name in ("columns", "data_usage")
    }
    as_if_killed_before_its_end(run)
    change(path)
    run.config_file.write_text(run.config_file.read_text().replace(report["fingerprint"], ""))
    status, result = work(run)
    assert (status, result["status"]) == (2, "failed")
    assert error_code(run) == "data.changed_since_start"
    assert figures(result["reason"])[:2] == [str(data["train"]), str(data["train"] - 1)]
    assert len([event for event in events_of(run.path) if event["type"] == "data"]) == 1


def as_if_killed_before_its_end(run: RunDir) -> None:
    run.result_file.unlink()
    lines = run.events_file.read_text().splitlines()
    run.events_file.write_text("".join(line + "\n" for line in lines if '"type":"end"' not in line))
