"""Runs in experiment trackers, read back from what the real libraries stored; no network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from forked import ftbench
from made_runs import STEPS, write_events
from tracker_files import tensorboard_scalars, trackio_logs, wandb_files, wandb_history, wandb_records

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.extensions.trackers.trackers import TRACKERS, TrackerFiles, check_trackers, problems, start_tracker
from engine.runs import start
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir

Curve = Callable[[RunDir], list[tuple[int, float]]]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)  # offline all the same
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # a connection would fail


def made_run(tmp_path: Path, *settings: str) -> RunDir:
    values: dict[str, Any] = dict(setting.split("=") for setting in settings)
    run = run_dir.create(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", "lora", values))
    write_events(run, "lora", 0, gpu=True)
    return run


def log_with(run: RunDir, name: str) -> None:
    process = start_tracker(run, name)
    assert process.wait(120) == 0, TrackerFiles(run, name).log_file.read_text()


def from_tensorboard(run: RunDir) -> list[tuple[int, float]]:
    return tensorboard_scalars(run.path / "tracking")["train/loss"]


def from_trackio(run: RunDir) -> list[tuple[int, float]]:
    logs = trackio_logs("ftbench", run.name)
    return [(row["step"], row["train/loss"]) for row in logs if "train/loss" in row]


def from_wandb(run: RunDir) -> list[tuple[int, float]]:
    rows = wandb_history(run.path / "tracking")
    assert [row["_step"] for row in rows] == list(range(len(rows)))  # never decreases, over all processes
    return [(row["train/global_step"], row["train/loss"]) for row in rows if "train/loss" in row]


CURVES: dict[str, Curve] = {"tensorboard": from_tensorboard, "trackio": from_trackio, "wandb": from_wandb}


@pytest.mark.parametrize("name", TRACKERS)
def test_a_run_resumed_after_its_tracker_ended_continues_its_curve(name: str, tmp_path: Path) -> None:
    run = made_run(tmp_path)
    everything = run.events_file.read_bytes()
    lines = everything.splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":61,' in line)
    run.events_file.write_bytes(b"".join(lines[:half]))  # killed in step 61
    log_with(run, name)
    assert [step for step, _ in CURVES[name](run)] == list(range(1, 61))
    repeated = next(number for number, line in enumerate(lines) if b'"step":41,' in line)
    time.sleep(1.1 if name == "wandb" else 0)  # its folders are named by the second
    run.events_file.write_bytes(b"".join([*lines[:half], lines[0], *lines[repeated:]]))  # resumed from step 40
    log_with(run, name)
    curve = CURVES[name](run)
    assert [step for step, _ in curve] == list(range(1, STEPS + 1))
    losses = {json.loads(line)["step"]: json.loads(line)["loss"] for line in lines if b'"type":"step"' in line}
    assert dict(curve) == pytest.approx(losses, rel=1e-5)
    log_with(run, name)
    assert CURVES[name](run) == curve  # nothing is logged twice


def test_another_project_receives_every_row_and_the_first_one_keeps_its_count(tmp_path: Path) -> None:
    run = made_run(tmp_path)

    def track(project: str) -> dict[str, Any]:
        done = ftbench("track", run.name, "--to", "trackio", "--project", project, "--json")
        assert done.returncode == 0, done.stderr
        (logged,) = json.loads(done.stdout)
        return dict(logged)

    first = track("one")
    assert first["rows"] == STEPS and first["rows_before"] == 0
    assert track("two") == first | {"project": "two", "view": first["view"].replace("one", "two")}
    assert [len(trackio_logs(project, run.name)) for project in ("one", "two")] == [first["rows"]] * 2
    for project in ("one", "two"):
        again = track(project)
        assert (again["rows"], again["rows_before"]) == (0, first["rows"])


def test_tensorboard_shows_names_units_and_settings(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run = made_run(tmp_path)
    log_with(run, "tensorboard")
    scalars = tensorboard_scalars(run.path / "tracking")
    assert {"train/learning_rate", "train/epoch", "eval/loss", "memory/gpu_reserved_gib"} <= set(scalars)
    assert [step for step, _ in scalars["eval/loss"]] == [30, 60, 90, 120]
    assert 1 < scalars["memory/gpu_allocated_gib"][-1][1] < 2
    stored = EventAccumulator(str(run.path / "tracking"))
    stored.Reload()
    content = stored.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    parameters = HParamsPluginData.FromString(content).session_start_info.hparams
    assert parameters["method"].string_value == "lora" and parameters["train.batch"].number_value == 16


def test_wandb_has_config_group_summary_and_times_of_the_run(tmp_path: Path) -> None:
    settings = resolve_preset("demo-lora", "lora", {})
    settings.origins.update(dict.fromkeys(settings.origins, "ladder 2026-demo-ladder-0001"))
    run = run_dir.create(tmp_path / "runs", "demo", settings)
    write_events(run, "lora", 0)
    log_with(run, "wandb")
    (file,) = wandb_files(run.path / "tracking")
    records = {record.WhichOneof("record_type"): record for record in wandb_records(file)}
    started = records["run"].run
    assert (started.run_id, started.display_name, started.project) == (run.name, run.name, "ftbench")
    assert started.run_group == "2026-demo-ladder-0001"
    config = {item.key: json.loads(item.value_json) for item in started.config.update}
    assert config["method"] == "lora" and config["train"]["batch"] == 16 and "track" not in config
    rows = wandb_history(run.path / "tracking")
    assert rows[0]["_timestamp"] < rows[-1]["_timestamp"] < 1_795_700_000  # when it was trained, not when it was logged
    assert records["exit"].exit.exit_code == 0
    assert not list((run.path / "tracking").glob("wandb/*/files/wandb-metadata.json"))


def test_a_live_run_is_followed_until_its_worker_ends(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    everything = run.events_file.read_bytes()
    run.events_file.write_bytes(everything[: len(everything) // 2])
    lock = locks.acquire(run.lock_file, str(os.getpid()))
    assert lock is not None
    process = start_tracker(run, "tensorboard")
    while not TrackerFiles(run, "tensorboard").state().rows:
        assert process.poll() is None
        time.sleep(0.05)
    run.events_file.write_bytes(everything)
    os.close(lock)
    assert process.wait(60) == 0
    assert [step for step, _ in from_tensorboard(run)] == list(range(1, STEPS + 1))


def test_the_configured_trackers_start_with_the_run_and_a_failing_one_does_not_stop_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for the worker, which writes its events and exits."""
    made = made_run(tmp_path / "other")
    log = made.events_file.read_bytes()

    def stand_in(run: RunDir) -> start.StartedProcess:
        code = "import sys; open(sys.argv[1], 'wb').write(open(sys.argv[2], 'rb').read())"
        return subprocess.Popen([sys.executable, "-c", code, str(run.events_file), str(made.events_file)])

    monkeypatch.setattr(start, "start_worker", stand_in)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "wandb.py").write_text("raise RuntimeError('broken installation')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    chosen = resolve_preset("demo-lora", "lora", {"track.to": ["tensorboard", "wandb"]})
    run = start.start_run(tmp_path / "runs", "demo-lora", chosen)
    for name in ("tensorboard", "wandb"):
        files = TrackerFiles(run, name)
        while not files.state_file.exists() or locks.holder(files.lock_file) is not None:
            time.sleep(0.05)
    assert run.events_file.read_bytes() == log
    assert len(from_tensorboard(run)) == STEPS
    (problem,) = problems(run)
    assert problem.startswith("wandb: ") and problem.endswith(f" {TrackerFiles(run, 'wandb').log_file}")
    assert "broken installation" in problem


def test_a_tracker_that_is_not_installed_is_refused_before_a_run_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.extensions.trackers.trackers.is_installed", lambda name: name != "wandb")
    with pytest.raises(UserError) as caught:
        start.start_run(tmp_path / "runs", "demo-lora", resolve_preset("demo-lora", "lora", {"track.to": ["wandb"]}))
    assert (caught.value.code, caught.value.location) == ("track.not_installed", "track.to")
    assert "'ftbench[wandb]'" in caught.value.hint
    assert not (tmp_path / "runs").exists()
    with pytest.raises(UserError) as caught:
        check_trackers(["mlflow"])
    assert caught.value.code == "track.unknown" and "'mlflow'" in caught.value.problem


def test_track_logs_a_finished_run_and_says_how_to_view_it(tmp_path: Path) -> None:
    run = made_run(tmp_path)
    done = ftbench("track", run.name, "--to", "tensorboard,trackio", "--json")
    assert done.returncode == 0, done.stderr
    logged = {entry["tracker"]: entry for entry in json.loads(done.stdout)}
    assert logged["tensorboard"]["rows"] == logged["trackio"]["rows"] == STEPS
    assert logged["tensorboard"]["view"] == f"tensorboard --logdir {run.path.parent}"
    assert [step for step, _ in from_trackio(run)] == list(range(1, STEPS + 1))
    again = ftbench("track", run.name, "--to", "tensorboard")
    assert f"0 rows logged, after {STEPS} before" in again.stdout
    none = ftbench("track", run.name)
    assert none.returncode == 2 and all(name in none.stderr for name in ("--to ", *TRACKERS))


def test_trackers_import_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys; from engine.extensions.trackers import __main__, to_tensorboard, to_trackio, to_wandb;"
        "import tensorboard, trackio, wandb;"
        "print([m for m in ('torch', 'transformers', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
