"""What the command line says of the runs home: where it is, how another is chosen, when a disk is too small."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections import namedtuple
from pathlib import Path

import pytest
from command import ftbench
from made_ladder import made_ladder
from made_sweep import made_sweep

from engine.config import preset_library
from engine.config.errors import UserError
from engine.config.files import used_folder
from engine.config.home import cache_folder, config_file, configured_home
from engine.runs import home
from engine.runs.ladder import ladder_dir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli import disk, lookup, runs
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


@pytest.fixture
def default_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default runs home, with a sweep and a cached model; its path has a space."""
    monkeypatch.delenv("FTBENCH_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "my data"))
    made_sweep(home.runs_home())
    (cache_folder() / "models" / "tiny").mkdir(parents=True)
    (cache_folder() / "models" / "tiny" / "config.json").write_text("{}")
    return home.runs_home()


def content(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_the_printed_commands_move_everything_to_the_chosen_home(default_home: Path, tmp_path: Path) -> None:
    target, before, cached = tmp_path / "other disk", content(default_home), content(cache_folder())
    printed = ftbench("home", str(target))
    assert printed.returncode == 0 and home.runs_home() == target / "runs" and content(default_home) == before
    first, *moves = printed.stdout.splitlines()
    assert str(target) in first and len(moves) == 2
    subprocess.run(["sh", "-ec", "\n".join(moves)], check=True)
    assert content(target / "runs") == before and content(target / "cache") == cached
    assert len(list(ladder_dir.iterate_all(home.runs_home()))) == 7 and not any(default_home.iterdir())
    shown = json.loads(ftbench("home", "--json").stdout)
    assert shown["home"] == str(target) and shown["runs"]["bytes"] > 5000 and shown["cache"]["free"] > 0
    back = json.loads(ftbench("home", str(default_home.parent), "--json").stdout)
    assert back["home"] == str(default_home.parent) and len(back["moves"]) == 2


def test_a_home_that_cannot_be_used_is_refused_and_nothing_changes(
    default_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    for name in ("linked runs/runs", "linked cache/cache"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(tmp_path)
    codes = {
        default_home / "below": "home.nested",
        cache_folder(): "home.nested",
        default_home.parent: "home.same",
        tmp_path / "file": "runs.not_writable",
        tmp_path / "linked runs": "home.not_a_directory",
        tmp_path / "linked cache": "home.not_a_directory",
    }

    def code(target: Path = tmp_path / "disk", given: Path | None = None) -> str:
        with pytest.raises(UserError) as refused:
            disk.home(target, given)
        assert configured_home() is None and not (tmp_path / "disk").exists()
        return refused.value.code

    assert {target: code(target) for target in codes} == codes
    run = next(RunDir.iterate(default_home))
    lock = locks.acquire(run.lock_file, "1")
    assert lock is not None and code() == "home.active"
    os.close(lock)
    with used_folder(run.path):
        assert code() == "home.active"
    (run.path / "exports").symlink_to(tmp_path)
    assert code() == "run.link"
    (run.path / "exports").unlink()
    assert code(given=tmp_path / "elsewhere") == "home.overridden"
    monkeypatch.setenv("FTBENCH_RUNS", str(tmp_path / "elsewhere"))
    assert code() == "home.overridden"
    monkeypatch.delenv("FTBENCH_RUNS")
    disk.home(tmp_path / "disk")
    assert configured_home() == tmp_path / "disk"


def test_the_option_before_the_subcommand_counts(default_home: Path, tmp_path: Path) -> None:
    refused = ftbench("--runs", str(tmp_path / "elsewhere"), "home", str(tmp_path / "disk"))
    assert refused.returncode == 2 and "--runs is set" in refused.stderr and configured_home() is None
    shown = ftbench("--runs", str(tmp_path / "elsewhere"), "home", "--json")
    assert json.loads(shown.stdout)["runs"]["path"] == str(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'home = "{}"\n'),
        ('theme = "dark"  # mine\n[keys]\nhome = "x"\n', 'home = "{}"\ntheme = "dark"  # mine\n[keys]\nhome = "x"\n'),
        ('mouse = false\nhome = "/old" # disk\n[track]\n', 'mouse = false\nhome = "{}"\n[track]\n'),
    ],
)
@pytest.mark.usefixtures("default_home")
def test_one_key_of_the_settings_is_set_and_the_rest_stays(before: str, after: str, tmp_path: Path) -> None:
    """The file may be a link into a collection of settings."""
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "config.toml").write_text(before.replace("/old", str(tmp_path / "old")))
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().symlink_to(tmp_path / "dotfiles" / "config.toml")
    disk.home(tmp_path / "disk")
    assert config_file().is_symlink() and config_file().read_text() == after.format(tmp_path / "disk")


@pytest.mark.parametrize("settings", [b'name = "\xff"\n', b"[section\n"])
def test_settings_that_cannot_be_edited_stay(settings: bytes, default_home: Path, tmp_path: Path) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_bytes(settings)
    with pytest.raises(UserError) as refused:
        disk.home(tmp_path / "disk")
    assert refused.value.code == "home.config" and config_file().read_bytes() == settings
    assert home.runs_home() == default_home
