"""Files of a run that are pipes, links, directories, huge or unreadable: only that run is damaged.

Every subcommand that reads runs is called with each file replaced by each of them. None may block (SIGALRM) or fill the
memory (RLIMIT_AS); each ends with exit status 0, 1 or 2 and at most one line of error.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest
from made_ladder import made_ladder
from screen import Terminal
from typer.main import get_command
from typer.testing import CliRunner

from engine.config.errors import RunFailed, UserError
from engine.config.files import IrregularFile
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir
from tui.cli.main import app

COMMAND = get_command(app)
"""Built once: that takes as long as a subcommand."""
SECONDS = 20
"""A command takes 0.1 s."""
MEMORY = 1 << 30
"""Bytes that the commands may need in addition."""
HUGE = 6 << 30


def make_huge(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(HUGE)


def make_unreadable(path: Path) -> None:
    path.write_bytes(b"{}")
    path.chmod(0)


KINDS: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "directory": Path.mkdir,
    "link": lambda path: path.symlink_to(path.parent),
    "huge": make_huge,
    "unreadable": make_unreadable,
}
RUN_FILES = (
    *("run.toml", "events.jsonl", "result.json", "end.json", "job.json", "engine.log", "engine.lock", "paused"),
    *("predictions.jsonl", "tracking/wandb.json", "exports/merged/fidelity.json", "exports/merged/scores.jsonl"),
)
LADDER_FILES = ("ladder.toml", "ladder.json", "end.json", "engine.log", "engine.lock", "report.md")
RUN_COMMANDS = (
    *(["runs"], ["runs", "--json"], ["queue"], ["clean"], ["clean", "exports", "--yes"], ["clean", "temporary"]),
    *(["attach", "RUN"], ["resume", "RUN"], ["stop", "RUN"], ["gate", "RUN"], ["report"], ["doctor"]),
)
LADDER_COMMANDS = (
    ["runs"],
    ["clean"],
    ["attach", "LADDER"],
    ["resume", "LADDER"],
    ["stop", "LADDER"],
    ["gate", "LADDER"],
)


@pytest.fixture
def limits() -> Iterator[None]:
    """Let a blocked or endless read fail instead of the whole test session."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise AssertionError("the command blocks")

    before, soft, hard = signal.signal(signal.SIGALRM, give_up), *resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("made") / "runs"
    made_ladder(runs, seeds=[0])
    return runs


@pytest.fixture
def home(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A finished ladder with its runs; no process is started from it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "runs")

    def refuse(*arguments: object) -> None:
        raise RunFailed("not in this test", "test.no_process")

    monkeypatch.setattr("engine.executors.local.start", refuse)
    monkeypatch.setattr("typer.testing._get_command", lambda app: COMMAND)
    monkeypatch.setattr("tui.extensions.doctor.command.check_everything", lambda runs: [])  # takes a second
    monkeypatch.setattr("engine.runs.rpc_client.start_server", refuse)
    return tmp_path / "runs"


def call(home: Path, *arguments: str) -> str:
    """What a subcommand prints. It must end in time, with exit status 0, 1 or 2, and without a traceback."""
    signal.alarm(SECONDS)
    try:
        done = CliRunner().invoke(app, [*arguments, "--runs", str(home)])
    finally:
        signal.alarm(0)
    failure = done.exception
    if isinstance(failure, UserError | RunFailed | IrregularFile | PermissionError):
        return str(failure)  # `handle_errors` prints one line
    assert failure is None or isinstance(failure, SystemExit), (arguments, done.exc_info)
    assert done.exit_code in (0, 1, 2), (arguments, done.output)
    return done.output


def replace(path: Path, kind: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    KINDS[kind](path)


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", RUN_FILES)
def test_no_file_of_a_run_blocks_or_breaks_a_subcommand(file: str, kind: str, home: Path) -> None:
    damaged, *others = sorted(RunDir.iterate(home), key=lambda run: run.name)
    if file == "end.json":  # it is read where there is no result
        damaged.result_file.unlink(missing_ok=True)
    replace(damaged.path / file, kind)
    for words in RUN_COMMANDS:
        shown = call(home, *(damaged.name if word == "RUN" else word for word in words))
        if words == ["runs"]:
            assert all(run.name in shown for run in others) and damaged.name in shown
    unreadable_by_root = kind == "unreadable" and os.geteuid() == 0
    if "/" not in file and not unreadable_by_root and (kind != "directory" or "." in file):
        assert damaged.state() == "damaged" and "damaged" in call(home, "runs")
    assert {run.state() for run in others} == {"finished"}


@pytest.mark.usefixtures("limits")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", LADDER_FILES)
def test_no_file_of_a_ladder_blocks_or_breaks_a_subcommand(file: str, kind: str, home: Path) -> None:
    (name,) = (path.name for path in home.iterdir() if (path / "ladder.toml").exists())
    replace(LadderDir(home / name).path / file, kind)
    for words in LADDER_COMMANDS:
        assert "finished" in call(home, *(name if word == "LADDER" else word for word in words)) or words != ["runs"]


def test_a_job_that_is_a_pipe_is_not_waited_for(home: Path) -> None:
    """`job.json` is read on every refresh of the bench."""
    run = next(RunDir.iterate(home))
    os.mkfifo(run.path / "job.json")
    with pytest.raises(UserError) as caught:
        run.job()
    assert caught.value.code == "run.job_damaged" and not run.is_active()


SCREENS = {"r": "runs in", "l": "of full's gain", "M": "pid user", "P": "presets; yours are in"}
"""Keys that read runs or ladders, and what their screens show whatever is damaged."""


@pytest.mark.parametrize("leave", ["q", "sigterm"])
def test_the_bench_answers_keys_and_leaves_although_files_of_runs_are_pipes(leave: str, home: Path) -> None:
    """A run, or a ladder, with each of its files a pipe: a read that waits for a writer would block every key."""
    runs = sorted(RunDir.iterate(home), key=lambda run: run.name)
    for number, file in enumerate(RUN_FILES):
        copy = home / f"20991231-0000{number:02}-demo-lora-{number:04x}"
        shutil.copytree(runs[-1].path, copy)
        replace(copy / file, "pipe")
    (ladder,) = (path for path in home.iterdir() if (path / "ladder.toml").exists())
    for number, file in enumerate(LADDER_FILES):
        copy = home / f"20991231-0000{number:02}-demo-ladder-{number:04x}"
        shutil.copytree(ladder, copy)
        replace(copy / file, "pipe")
    terminal = Terminal("--runs", str(home), cwd=home.parent, size=(100, 30))
    terminal.wait("ready:")
    for key, shown in SCREENS.items() if leave == "q" else ():
        terminal.press(key)
        terminal.wait(shown, 60)
        terminal.press("escape")
        terminal.wait("ready:", 60)
    if leave == "q":
        terminal.press("q")
    else:
        terminal.process.send_signal(signal.SIGTERM)
    terminal.process.wait(60)
