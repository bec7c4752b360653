"""`--json`: every subcommand that reports prints its result as one JSON value."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_ladder import made_ladder
from subcommands import subcommands
from typer.testing import CliRunner

from engine.config.preset import Preset, resolve
from engine.runs.run import run_dir
from tui.cli import attach
from tui.cli.main import app


def printed(*arguments: str) -> Any:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_runs_and_ladders_are_listed_with_their_kind(tmp_path: Path) -> None:
    made, _ = made_ladder(tmp_path)
    listed = printed("runs", "--runs", str(tmp_path))
    runs = [entry for entry in listed if entry["kind"] == "run"]
    (ladder,) = [entry for entry in listed if entry["kind"] == "ladder"]
    assert len(runs) == 9 and all(Path(entry["path"], "run.toml").exists() for entry in runs)
    assert (ladder["name"], ladder["state"], ladder["preset"]) == (made.name, "finished", "demo-lora")
    assert (ladder["runs_done"], ladder["runs_planned"], ladder["rungs"]) == (9, 9, ["qlora", "lora", "full"])
    assert sorted(ladder["runs"]) == sorted(entry["name"] for entry in runs)
    assert ladder["scores"]["lora"]["mean"] == pytest.approx(0.583) and ladder["report"] == ""
    made.state_file.write_text("{")
    (ladder,) = [entry for entry in printed("runs", "--runs", str(tmp_path)) if entry["kind"] == "ladder"]
    assert ladder["state"] == "damaged" and "ladder.json" in ladder["reason"]


def test_a_new_preset_and_the_catalog_are_reported(tmp_path: Path) -> None:
    made = printed("presets", "new", "mine", "--from", "demo-lora")
    assert made["name"] == "mine" and Path(made["path"]).exists()
    models = {model["name"]: model for model in printed("pull")}
    assert models["smollm2-135m"]["parameters"] == 135_000_000 and models["smollm2-135m"]["folder"] is None


def test_the_outcome_of_a_stop_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = run_dir.create(tmp_path, "demo-lora", resolve(Preset("demo-lora", {}), "lora"))
    monkeypatch.setattr("engine.runs.start.stop", lambda run: None)
    done = CliRunner().invoke(app, ["stop", stopped.name, "--runs", str(tmp_path), "--json"])
    assert done.exit_code == 0
    assert json.loads(done.stdout) == {
        "run": stopped.name, "path": str(stopped.path), "status": "stopped", "reason": ""
    }  # fmt: skip
    attach.stop(stopped.name, tmp_path)


@pytest.mark.parametrize("name", subcommands())
def test_every_subcommand_accepts_json(name: str) -> None:
    done = CliRunner().invoke(app, [*name.split(), "--help"])
    assert "--json" in done.stdout
