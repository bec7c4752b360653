"""A lock folder of another user is refused by every subcommand that needs it, before files are created."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from forked import ftbench
from made_ladder import made_ladder
from screen import Terminal
from subcommands import subcommands

from engine.config import preset_library
from engine.config.errors import UserError
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import locks
from engine.runs.run import run_dir

NEEDS = {
    "run": ["run", "demo-lora", "--detach"],
    "ladder": ["ladder", "demo", "--detach"],
    "demo": ["demo", "--detach"],
    "resume": ["resume", "RUN", "--detach"],
    "export": ["export", "RUN"],
    "runs": ["runs"],
    "track": ["track", "RUN", "--to", "tensorboard"],
    "queue": ["queue"],
}
WITHOUT = {
    "attach", "stop", "report", "gate", "plan", "pull", "doctor", "data check", "data show", "presets list",
    "presets show", "presets new", "presets import", "try", "schema", "clean",
    "monitor", "home", "judge", "rate", "check", "compare",
}  # fmt: skip
"""Subcommands that only read run directories and files; `doctor` reports the folder, `try` refuses an unfinished run
before it uses locks, and `home DIR` where the environment sets the runs, as here."""


def spoil(folder: Path, kind: str) -> None:
    """Replace the lock folder. Skips the test if this user cannot do so."""
    folder.rmdir()
    if kind == "a link":
        (folder.parent / "elsewhere").mkdir()
        folder.symlink_to(folder.parent / "elsewhere")
    elif kind == "a file":
        folder.write_text("")
    else:
        if os.geteuid():
            pytest.skip("only root can create a folder of another user")
        folder.mkdir(mode=0o777)
        os.chown(folder, 12345, 12345)


def everything(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*"))


@pytest.fixture
def lock_folder() -> Path:
    return Path(os.environ["FTBENCH_LOCKS"])


def test_every_subcommand_is_listed_as_using_locks_or_not() -> None:
    assert sorted(subcommands()) == sorted([*NEEDS, *WITHOUT])


@pytest.mark.parametrize("kind", ["another user's", "a link", "a file"])
def test_a_folder_of_another_user_a_link_or_a_file_is_refused(kind: str, lock_folder: Path) -> None:
    spoil(lock_folder, kind)
    with pytest.raises(UserError) as refused:
        locks.lock_folder()
    assert refused.value.code == "locks.folder" and "FTBENCH_LOCKS" in refused.value.hint


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another user, because root can write everywhere."""
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to others
        Path(place).chmod(0o755)
        folder = Path(place, "locks")
        folder.mkdir(mode=0o500)
        os.chown(folder, 65534, 65534)
        monkeypatch.setenv("FTBENCH_LOCKS", str(folder))
        assert _as_nobody(locks.lock_folder) == "locks.folder"


def _as_nobody(work: Callable[[], object]) -> str:
    """Error code in a child process of another user, '' for no error."""
    reading, writing = os.pipe()
    if not (child := os.fork()):
        with contextlib.suppress(BaseException):
            os.setuid(65534)
            try:
                work()
            except UserError as error:
                os.write(writing, error.code.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


@pytest.mark.parametrize("name", NEEDS)
def test_every_subcommand_refuses_it_before_files_are_created(name: str, tmp_path: Path, lock_folder: Path) -> None:
    run = run_dir.create(tmp_path / "runs", "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    spoil(lock_folder, "a link" if os.geteuid() else "another user's")
    before = everything(tmp_path)
    done = ftbench(*(str(run.path) if word == "RUN" else word for word in NEEDS[name]))
    assert done.returncode == 2, done
    (line,) = done.stderr.splitlines()
    assert str(lock_folder) in line and "FTBENCH_LOCKS" in line
    assert everything(tmp_path) == before


def test_resuming_a_ladder_refuses_it_too(tmp_path: Path, lock_folder: Path) -> None:
    made_ladder(tmp_path / "runs")
    ladder = next(LadderDir.iterate(tmp_path / "runs"))
    spoil(lock_folder, "a link")
    before = everything(tmp_path)
    done = ftbench("resume", str(ladder.path), "--detach")
    assert done.returncode == 2 and str(lock_folder) in done.stderr
    assert everything(tmp_path) == before


def test_the_bench_refuses_it_before_it_opens(tmp_path: Path, lock_folder: Path) -> None:
    spoil(lock_folder, "a link")
    terminal = Terminal(cwd=tmp_path)
    assert terminal.leave() == 2
    assert b"FTBENCH_LOCKS" in terminal.bytes and b"\x1b[?1049h" not in terminal.bytes


def test_a_bench_whose_lock_folder_is_replaced_reports_it_and_stays_open(tmp_path: Path, lock_folder: Path) -> None:
    terminal = Terminal(cwd=tmp_path, env={"FTBENCH_RUNS": str(tmp_path / "runs")})
    try:
        terminal.wait("ready:")
        spoil(lock_folder, "a link")
        terminal.wait("cannot read the device queue")
        terminal.press("q")
        assert terminal.leave() == 0
    finally:
        terminal.process.kill()
        terminal.process.wait()


def test_a_lock_that_is_a_folder_or_a_link_is_refused(lock_folder: Path) -> None:
    (lock_folder / "folder").mkdir()
    (lock_folder / "link").symlink_to(lock_folder / "elsewhere")
    for name in ("folder", "link"):
        with pytest.raises(UserError) as refused:
            locks.acquire(lock_folder / name)
        assert refused.value.code == "locks.file"
    assert not (lock_folder / "elsewhere").exists()


def test_a_lock_removed_as_stale_between_opening_and_locking_is_opened_again(
    lock_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, opened = lock_folder / "0.lock", locks._opened
    calls: list[int] = []

    def opened_and_removed(path: Path) -> int:
        descriptor = opened(path)
        if not calls:
            assert locks.remove_stale(path)
        calls.append(descriptor)
        return descriptor

    monkeypatch.setattr(locks, "_opened", opened_and_removed)
    held = locks.acquire(path, "1")
    assert len(calls) == 2 and held is not None
    assert locks.holder(path) == "1" and not locks.remove_stale(path)
    os.close(held)
    assert locks.remove_stale(path) and not path.exists()
