"""`ftbench home DIR`: runs and caches are moved to another disk completely, or the old home stays in use."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import pytest
from command import ftbench
from made_ladder import made_ladder
from made_sweep import made_sweep

from engine.config import preset_library
from engine.config.errors import RunFailed, UserError
from engine.config.files import used_folder
from engine.config.home import cache_folder, config_file, configured_home
from engine.runs import moving
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir
from engine.runs.moving import move_home
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir

Usage = namedtuple("Usage", "total used free")
STEPS = ((os, "link"), (os, "fsync"), (os, "rename"), (os, "replace"), (os, "unlink"), (os, "rmdir"), (os, "mkdir"))
"""Functions before each call of which a move is killed."""


@pytest.fixture(autouse=True)
def default_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The default runs home, with a run that has a checkpoint, and a cached model."""
    monkeypatch.delenv("FTBENCH_RUNS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    finished(runs_home())
    model = cache_folder() / "models" / "tiny"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    repository = cache_folder() / "hub" / "models--team--small"
    (repository / "blobs").mkdir(parents=True)
    (repository / "blobs" / "abc").write_text("{}")
    (repository / "snapshots" / "main").mkdir(parents=True)
    (repository / "snapshots" / "main" / "config.json").symlink_to("../../blobs/abc")
    return tmp_path / "data" / "ftbench" / "runs"


@pytest.fixture(params=["same file system", "another file system"])
def target(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The new home; between file systems files are copied, here too."""
    if request.param == "another file system":
        monkeypatch.setattr(moving, "_have_one_file_system", lambda source, parent: False)
    return tmp_path / "disk" / "ftbench"


def finished(runs: Path) -> RunDir:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)
    (run.checkpoints / "step-2").mkdir(parents=True)
    (run.checkpoints / "step-2" / "weights").write_bytes(b"w" * 5000)
    return run


def content(root: Path) -> dict[str, bytes]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file() and path.name != "engine.lock")
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def home_of_everything() -> dict[str, bytes]:
    """Every run by the home that is in use now, without entries in progress."""
    return {name: text for name, text in content(runs_home()).items() if not name.startswith(".")}


def test_runs_ladders_sweeps_and_caches_are_found_in_the_new_home(target: Path, default_home: Path) -> None:
    made_sweep(default_home)
    before, cached = home_of_everything(), content(cache_folder())
    done = ftbench("home", str(target))
    assert done.returncode == 0, done.stderr
    assert runs_home() == target / "runs" and home_of_everything() == before
    assert cache_folder() == target / "cache" and content(cache_folder()) == cached
    assert not default_home.exists() and not (target / moving.MOVED_FROM).exists()
    listed = json.loads(ftbench("runs", "--json").stdout)
    kinds = (RunDir.iterate, LadderDir.iterate, SweepDir.iterate)
    assert [len(list(iterate(runs_home()))) for iterate in kinds] == [4, 3, 1] and len(listed) == 7
    shown = json.loads(ftbench("home", "--json").stdout)
    assert shown["home"] == str(target) and shown["runs"]["bytes"] > 5000 and shown["cache"]["free"] > 0


@pytest.mark.parametrize("step", range(0, 60, 3))
def test_a_move_that_is_killed_loses_nothing_and_continues(step: int, tmp_path: Path) -> None:
    """Killed before the step-th call that changes the disk: the runs are complete in the home that is in use."""
    target, before, cached = tmp_path / "disk", home_of_everything(), content(cache_folder())
    child = os.fork()
    if child == 0:
        die_at(step)
        list(move_home(target))
        os._exit(0)
    killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
    assert before.items() <= home_of_everything().items()
    assert {run.state() for run in RunDir.iterate(runs_home())} == {"finished"}
    if killed:
        if configured_home() is None or (target / moving.MOVED_FROM).exists():
            list(move_home(target))
        assert runs_home() == target / "runs"
    assert home_of_everything() == before and content(cache_folder()) == cached
    assert not [*target.rglob(".*.tmp"), *(tmp_path / "data").rglob(".*.tmp")]


def die_at(step: int) -> None:
    """Let the process exit, as by SIGKILL, before the step-th call of STEPS."""
    calls = iter(range(10**6))

    def dying(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **named: object) -> object:
            if next(calls) == step:
                os._exit(9)
            return function(*arguments, **named)

        return call

    for module, name in STEPS:
        setattr(module, name, dying(getattr(module, name)))


def test_what_runs_or_is_read_or_has_a_link_stays(tmp_path: Path, default_home: Path) -> None:
    run, target = next(RunDir.iterate(default_home)), tmp_path / "disk"

    def code() -> str:
        with pytest.raises(UserError) as refused:
            list(move_home(target))
        assert configured_home() is None and home_of_everything()
        return refused.value.code

    lock = locks.acquire(run.lock_file, "1")
    assert lock is not None and code() == "home.active"
    os.close(lock)
    with used_folder(run.path):
        assert code() == "home.active"
    (run.path / "exports").symlink_to(tmp_path)
    assert code() == "run.link"
    (run.path / "exports").unlink()
    list(move_home(target))
    assert runs_home() == target / "runs"


def test_a_target_that_cannot_be_used_is_refused(
    tmp_path: Path, default_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "other" / "runs" / next(default_home.iterdir()).name).mkdir(parents=True)
    codes = {
        default_home / "below": "home.nested",
        default_home.parent: "home.same",
        tmp_path / "file": "runs.not_writable",
        tmp_path / "other": "home.conflict",
    }
    for target, code in codes.items():
        with pytest.raises(UserError) as refused:
            list(move_home(target))
        assert refused.value.code == code and configured_home() is None
    monkeypatch.setenv("FTBENCH_RUNS", str(tmp_path / "elsewhere"))
    with pytest.raises(UserError) as refused:
        list(move_home(tmp_path / "disk"))
    assert refused.value.code == "home.variable_set"


def test_a_full_disk_keeps_the_old_home(target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "_have_one_file_system", lambda source, parent: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1 << 40, 1 << 40, 1 << 20))
    monkeypatch.setattr(moving, "_bytes", lambda root: 2 << 20)
    before = home_of_everything()
    with pytest.raises(RunFailed) as failed:
        list(move_home(target))
    assert failed.value.code == "home.disk_full" and configured_home() is None and home_of_everything() == before
    assert not list(target.rglob(".*.tmp"))


def test_a_copy_that_differs_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving, "_have_one_file_system", lambda source, parent: False)

    def damage(source: str, target: str) -> None:
        Path(target).write_bytes(Path(source).read_bytes()[:-1] + b"?")

    monkeypatch.setattr(shutil, "copy2", damage)
    with pytest.raises(UserError) as failed:
        list(move_home(tmp_path / "disk"))
    assert failed.value.code == "home.cannot_move" and configured_home() is None and home_of_everything()


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", 'home = "{}"\n'),
        ('theme = "dark"  # mine\n[keys]\nhome = "x"\n', 'home = "{}"\ntheme = "dark"  # mine\n[keys]\nhome = "x"\n'),
        ('mouse = false\nhome = "/old" # disk\n[track]\n', 'mouse = false\nhome = "{}"\n[track]\n'),
    ],
)
def test_one_key_of_the_settings_is_set_and_the_rest_stays(before: str, after: str, tmp_path: Path) -> None:
    """The file may be a link into a collection of settings."""
    (tmp_path / "dotfiles").mkdir()
    (tmp_path / "dotfiles" / "config.toml").write_text(before.replace("/old", str(tmp_path / "old")))
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().symlink_to(tmp_path / "dotfiles" / "config.toml")
    list(move_home(tmp_path / "disk"))
    assert config_file().is_symlink() and config_file().read_text() == after.format(tmp_path / "disk")


@pytest.mark.parametrize("settings", [b'name = "\xff"\n', b"[section\n"])
def test_settings_that_cannot_be_edited_keep_the_old_home(settings: bytes, target: Path, default_home: Path) -> None:
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_bytes(settings)
    with pytest.raises(UserError) as refused:
        list(move_home(target))
    assert refused.value.code == "home.config" and runs_home() == default_home
    config_file().unlink()
    list(move_home(target))
    assert runs_home() == target / "runs"


def test_a_ladder_and_its_runs_stay_together(target: Path, default_home: Path) -> None:
    folder, state = made_ladder(default_home, seeds=[0])
    list(move_home(target))
    moved = LadderDir.find(runs_home(), folder.name)
    assert moved.path.parent == target / "runs"
    assert all((moved.runs / entry.run).is_dir() for entry in state.entries if entry.run)
