"""A session in a real terminal: launch, follow, lose the connection, return, stop, resume, leave."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import SMALL
from screen import Terminal

from engine.runs.run.run_dir import RunDir
from faults.worker_runs import kill

PRESET = f"""
title = "A short one"
about = "The small model"
slot = 9
method = "lora"
[model]
id = "{SMALL}"
[data]
id = "tickets"
max_rows = 64
validation = 0.005
[train]
steps = {{steps}}
batch = 4
checkpoint_every = 100
[evaluation]
rows = 4
max_new_tokens = 4
forgetting_text = "none"
"""


class UserFolders:
    """Folders of a user: one user preset on key 9, and a runs folder."""

    def __init__(self, folder: Path, steps: int) -> None:
        self.folder, self.runs = folder, folder / "runs"
        self.env = {"XDG_CONFIG_HOME": str(folder / "config"), "XDG_STATE_HOME": str(folder / "state")}
        presets = folder / "config" / "ftbench" / "presets"
        presets.mkdir(parents=True)
        (presets / "short.toml").write_text(PRESET.format(steps=steps))
        self.open: list[Terminal] = []

    def open_bench(self, size: tuple[int, int], forked: bool = True) -> Terminal:
        terminal = Terminal("--runs", str(self.runs), cwd=self.folder, env=self.env, size=size, forked=forked)
        self.open.append(terminal)
        return terminal

    def run(self) -> RunDir:
        return RunDir(max(self.runs.iterdir(), key=lambda path: path.name))


@pytest.fixture
def user(tmp_path: Path) -> Iterator[UserFolders]:
    user = UserFolders(tmp_path, steps=400)
    yield user
    for terminal in user.open:
        if terminal.process.poll() is None:
            terminal.process.kill()
    for path in user.runs.iterdir() if user.runs.exists() else []:
        kill(RunDir(path))


def launch(terminal: Terminal, steps: int = 400) -> None:
    terminal.wait("ready:")
    terminal.press("9")
    terminal.wait("A short one")
    terminal.press("enter")
    terminal.wait("─ launch ─")
    terminal.press("enter")
    terminal.wait(f"/{steps:,}", 120)


def test_a_lost_connection_then_stop_resume_and_leave(user: UserFolders) -> None:
    first = user.open_bench((120, 36), forked=False)  # the kernel sends it SIGHUP
    launch(first)
    first.hang_up()
    run = user.run()
    worker = run.pid()
    assert run.is_active() and worker is not None
    os.kill(worker, signal.SIGSTOP)  # a fast machine would finish the run before it is asked to stop

    second = user.open_bench((80, 24))
    second.wait("loss")
    second.wait("/400")
    second.press("s")
    second.wait("Stop")
    second.press("enter")
    os.kill(worker, signal.SIGCONT)
    second.wait("stopped", 60)
    second.wait(lambda: run.state() == "stopped", 30)
    second.press("u")
    second.wait("TRAINING", 120)
    second.press("q")
    assert second.leave() == 0
    assert f"{run.name} continues".encode() in second.bytes and run.is_active()
    assert second.bytes.rindex(b"\x1b[?1049l") > second.bytes.rindex(b"\x1b[?1049h")

    third = user.open_bench((160, 45))
    third.wait("finished", 240)
    third.press("q")
    assert third.leave() == 0
    result = run.result()
    assert result and result.status == "finished" and result.steps == 400
