"""Runs and ladders of another directory are moved into the runs home: completely, or not at all."""

from __future__ import annotations

import errno
import json
import os
import shlex
import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import FTBENCH
from made_ladder import made_ladder
from made_sweep import made_sweep

from engine.config import preset_library
from engine.config.errors import UserError
from engine.runs import adopt as adopting
from engine.runs import ladder_dir, locks, run_dir
from engine.runs.adopt import adopt, adoptable
from engine.runs.run_dir import RunDir
from engine.runs.sweep_dir import SweepDir

Usage = namedtuple("Usage", "total used free")


CAN_MOUNT = shutil.which("unshare") is not None and subprocess.run(["unshare", "-m", "true"]).returncode == 0


def finished(runs: Path) -> RunDir:
    """A run that has ended, with a checkpoint and a symbolic link in it."""
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)
    (run.checkpoints / "step-2").mkdir(parents=True)
    (run.checkpoints / "step-2" / "weights").write_bytes(b"w" * 5000)
    (run.checkpoints / "latest").symlink_to("step-2")
    return run


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "engine.lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def states(source: Path, home: Path) -> dict[str, str]:
    return {one.name: one.state for one in adopt(source, home)}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    return tmp_path / "project" / "runs"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture(params=["same file system", "another file system"])
def any_home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The home; renaming into it fails as it does across file systems."""
    home = tmp_path / "home"
    if request.param == "another file system":
        refuse_renames(home, monkeypatch)
    return home


def refuse_renames(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename = Path.rename

    def across(path: Path, target: Path) -> Path:
        if Path(target).parent == home and path.parent != home:
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", across)


def test_runs_are_moved_whole_and_an_empty_directory_goes(old: Path, any_home: Path) -> None:
    runs = [finished(old) for _ in range(3)]
    before = {run.name: content(run.path) for run in runs}
    assert states(old, any_home) == dict.fromkeys(sorted(before), "moved")
    assert not old.exists()
    assert {path.name: content(path) for path in any_home.iterdir()} == before
    for run in run_dir.iterate(any_home):
        assert run.state() == "finished" and not run.lock_file.exists()
        assert (run.checkpoints / "latest").readlink() == Path("step-2")


def test_a_ladder_finds_its_runs_after_the_move(old: Path, any_home: Path) -> None:
    folder, _ = made_ladder(old, seeds=(0,))
    (old / "notes.txt").write_text("mine")
    assert set(states(old, any_home).values()) == {"moved"}
    assert [path.name for path in old.iterdir()] == ["notes.txt"]
    moved = ladder_dir.find(any_home, folder.name)
    state = moved.state()
    assert state is not None and state.status == "finished"
    for entry in state.entries:
        assert not entry.run or RunDir(moved.runs / entry.run).result() is not None


def test_what_is_running_stays_and_is_named(old: Path, home: Path) -> None:
    done, live = finished(old), finished(old)
    lock = locks.acquire(live.lock_file, "1")
    assert lock is not None
    try:
        result = {one.name: one for one in adopt(old, home)}
    finally:
        os.close(lock)
    assert (result[done.name].state, result[live.name].state) == ("moved", "refused")
    assert "running" in result[live.name].reason and live.path.exists()
    assert states(old, home) == {live.name: "moved"}


def test_a_ladder_and_its_runs_stay_together(old: Path, home: Path) -> None:
    folder, ladder = made_ladder(old, seeds=(0,))
    members = {folder.name, *(entry.run for entry in ladder.entries if entry.run)}
    other = finished(old)
    lock = locks.acquire(RunDir(old / next(iter(members - {folder.name}))).lock_file, "1")
    assert lock is not None
    try:
        assert states(old, home) == {**dict.fromkeys(members, "refused"), other.name: "moved"}
    finally:
        os.close(lock)


@pytest.mark.parametrize("moment", ["copying", "verifying", "renaming", "removing"])
def test_an_interrupted_adoption_loses_nothing_and_continues(
    moment: str, old: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, other = finished(old), finished(old)
    before = {one.name: content(one.path) for one in (run, other)}

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        refuse_renames(home, patched)
        if moment == "copying":
            patched.setattr(shutil, "copytree", interrupt)
        elif moment == "verifying":
            patched.setattr(adopting, "_digests", interrupt)
        elif moment == "renaming":
            patched.setattr(adopting, "_flush", interrupt)
        else:
            patched.setattr(adopting, "_remove_original", interrupt)
        with pytest.raises(KeyboardInterrupt):
            list(adopt(old, home))
    listed = [one.name for folder in (old, home) for one in run_dir.iterate(folder)]
    assert set(listed) == set(before)
    assert set(states(old, home).values()) == {"moved"}
    assert {path.name: content(path) for path in home.iterdir()} == before and not old.exists()


def test_originals_left_by_a_process_that_was_killed_are_removed(old: Path, home: Path) -> None:
    run, other = finished(old), finished(old)
    shutil.copytree(run.path, home / run.name, symlinks=True)
    run.path.rename(old / f".{run.name}.tmp")
    assert states(old, home) == {other.name: "moved"}
    assert not old.exists() and {path.name for path in home.iterdir()} == {run.name, other.name}


def test_another_run_of_the_same_name_is_not_replaced(old: Path, home: Path) -> None:
    run = finished(old)
    shutil.copytree(run.path, home / run.name)
    (home / run.name / "result.json").write_text("another")
    (result,) = adopt(old, home)
    assert result.state == "failed" and run.path.exists()
    assert (home / run.name / "result.json").read_text() == "another"


def test_a_run_that_the_home_links_to_is_not_removed(old: Path, home: Path) -> None:
    run = finished(old)
    before = content(old)
    home.mkdir()
    (home / run.name).symlink_to(run.path)
    assert states(old, home)[run.name] == "failed"
    assert content(old) == before


@pytest.mark.skipif(not CAN_MOUNT, reason="this user cannot mount")
def test_the_home_under_another_path_is_refused(old: Path, home: Path) -> None:
    """As with a volume that a container mounts twice: the paths differ, the directory is the same."""
    finished(old)
    before = content(old)
    home.mkdir()
    adoption = shlex.join([FTBENCH, "runs", "--adopt", str(old), "--runs", str(home), "--json"])
    mounted = [
        "unshare",
        "-m",
        "sh",
        "-c",
        f"mount --bind {shlex.quote(str(old))} {shlex.quote(str(home))} && {adoption}",
    ]
    done = subprocess.run(mounted, capture_output=True, text=True)
    assert done.returncode == 2 and json.loads(done.stderr)["error"]["code"] == "runs.adopt_home"
    assert content(old) == before


def test_a_copy_that_differs_is_not_trusted(old: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(old)
    refuse_renames(home, monkeypatch)
    copytree = shutil.copytree

    def damaged(source: Path, target: Path, *arguments: object, **how: object) -> None:
        copytree(source, target, *arguments, **how)
        if (weights := Path(target) / "checkpoints" / "step-2" / "weights").exists():
            weights.write_bytes(b"v" * 5000)

    monkeypatch.setattr(shutil, "copytree", damaged)
    (result,) = adopt(old, home)
    assert result.state == "failed" and run.state() == "finished" and list(home.iterdir()) == []


def test_a_home_without_room_keeps_the_originals(old: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = finished(old)
    refuse_renames(home, monkeypatch)
    monkeypatch.setattr(adopting.shutil, "disk_usage", lambda path: Usage(1 << 30, 1 << 30, 100))
    monkeypatch.setattr(adopting, "check_home", lambda home: None)
    (result,) = adopt(old, home)
    assert result.state == "failed" and "MiB needed" in result.reason
    assert run.state() == "finished" and not run.lock_file.exists() and list(home.iterdir()) == []


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "none", str(folder)], capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_real_move_to_another_disk(old: Path, other_disk: Path) -> None:
    run = finished(old)
    before = content(run.path)
    assert states(old, other_disk / "home") == {run.name: "moved"}
    assert content(other_disk / "home" / run.name) == before and not old.exists()


def test_what_cannot_be_adopted_is_refused(tmp_path: Path, old: Path, home: Path) -> None:
    finished(old)
    cases = {
        home: "runs.adopt_home",
        tmp_path / "absent": "runs.adopt_not_found",
        tmp_path / "project": "runs.adopt_nothing",
    }
    for source, code in cases.items():
        with pytest.raises(UserError) as error:
            list(adopt(source, home))
        assert error.value.code == code
    assert str(old) in error.value.do


def test_a_link_to_a_run_stays(old: Path, home: Path, tmp_path: Path) -> None:
    run = finished(tmp_path / "elsewhere")
    old.mkdir(parents=True)
    (old / run.name).symlink_to(run.path)
    assert states(old, home) == {run.name: "refused"} and run.path.exists()


def test_runs_of_a_working_directory_are_found(tmp_path: Path, old: Path, home: Path) -> None:
    assert adoptable(old.parent, home) is None
    finished(old)
    assert adoptable(old.parent, home) == old
    assert adoptable(old.parent, old) is None  # it is the home
    old.rename(old.with_name("ftbench_runs"))
    assert adoptable(old.parent, home) == old.with_name("ftbench_runs")
    (tmp_path / "code" / "runs").mkdir(parents=True)
    assert adoptable(tmp_path / "code", home) is None  # no runs of ours


def test_a_sweep_and_its_ladders_stay_together(old: Path, home: Path) -> None:
    sweep = made_sweep(old)
    members = {sweep.name, *(cell.ladder for cell in sweep.plan().cells)}
    lock = locks.acquire(sweep.ladder(min(members - {sweep.name})).lock_file, "1")
    assert lock is not None
    try:
        found = states(old, home)
        assert {name for name, state in found.items() if state == "refused"} == members
    finally:
        os.close(lock)
    moved = {one.name: one for one in adopt(old, home)}
    assert set(moved) == members and moved[sweep.name].kind == "sweep"
    cells = SweepDir(home / sweep.name).plan().cells
    assert all(SweepDir(home / sweep.name).ladder(cell.ladder).plan() for cell in cells)
