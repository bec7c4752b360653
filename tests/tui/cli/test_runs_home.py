"""What the command line says of the runs home: where a run was started, and when a disk is too small."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from pathlib import Path

import pytest
from command import ftbench
from made_ladder import made_ladder

from engine.config import preset_library
from engine.config.errors import UserError
from engine.runs import home
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli import lookup, runs
from tui.cli.run import check_disk

Usage = namedtuple("Usage", "total used free")


def finished(folder: Path) -> RunDir:
    run = run_dir.create(folder, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)
    return run


def test_runs_and_ladders_are_listed_with_the_directory_they_were_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    with monkeypatch.context() as there:
        there.chdir(project)
        run, (ladder, _) = finished(tmp_path / "runs"), made_ladder(tmp_path / "runs", seeds=(0,))
    runs.runs(tmp_path / "runs")
    shown = capsys.readouterr().out.splitlines()
    for name in (run.name, ladder.name):
        (line,) = [line for line in shown if line.startswith(name)]
        assert line.endswith("~/project")
    runs.runs(tmp_path / "runs", json=True)
    assert {entry["started_in"] for entry in json.loads(capsys.readouterr().out)} == {str(project)}
    for directory in (run, ladder):
        lookup.show_origin(directory)
        assert capsys.readouterr().out == f"{directory.name}, started in ~/project\n"
        lookup.show_origin(directory, quiet=True)
        monkeypatch.chdir(project)
        lookup.show_origin(directory)
        monkeypatch.chdir(tmp_path)
        assert capsys.readouterr().out == ""


def test_an_empty_home_says_what_runs_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = locks.acquire(locks.device_lock("cpu"), f"1 {tmp_path}/other/20260101-000000-demo-full-full-beef")
    assert device is not None
    try:
        runs.runs(tmp_path / "runs")
    finally:
        os.close(device)
    empty, elsewhere = capsys.readouterr().out.splitlines()
    assert f"no runs in {tmp_path}/runs;" in empty
    assert elsewhere.startswith("full-beef ") and f" {tmp_path}/other." in elsewhere and "--runs" in elsewhere


def test_a_network_file_system_is_warned_of_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mounts").write_text("27 1 0:40 / / rw - nfs4 server:/ rw\n")
    monkeypatch.setattr(home, "MOUNTS", tmp_path / "mounts")
    assert lookup.home_for_launch(tmp_path / "runs", json=False) == tmp_path / "runs"
    printed = capsys.readouterr()
    assert "nfs4" in printed.err and "[runs.network_filesystem]" in printed.err and printed.out == ""
    runs.runs(tmp_path / "runs")  # nothing is started
    assert capsys.readouterr().err == ""


def test_a_disk_too_small_for_checkpoints_is_refused_before_anything_is_created(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = preset_library.resolve_preset("demo-full", None, {}).config
    check_disk([config], tmp_path / "runs", json=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 20 << 20))
    with pytest.raises(UserError) as error:
        check_disk([config], tmp_path / "runs", json=False)
    assert error.value.code == "disk.too_small" and "20.0 MiB" in error.value.problem
    assert not (tmp_path / "runs").exists()


def test_a_home_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = ftbench("run", "demo-lora", "--detach", "--runs", str(tmp_path / "file"))
    assert done.returncode == 2 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert str(tmp_path / "file") in line and "--runs DIR" in line
