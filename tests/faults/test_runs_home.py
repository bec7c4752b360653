"""A run is found from every directory: started in one, its terminal lost, found training after a login in another."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import ftbench
from screen import Terminal

from engine.runs.run.run_dir import RunDir
from faults.test_bench_story import PRESET, launch
from faults.worker_runs import kill, wait_for_end

STEPS = 10_000
"""More than are done before the test has stopped the run."""


class User:
    """A user with a preset on key 9 and the default runs home."""

    def __init__(self, folder: Path) -> None:
        self.project, self.elsewhere = folder / "project", folder / "elsewhere"
        self.data, config = folder / "data", folder / "config"
        for directory in (self.project, self.elsewhere, config / "ftbench" / "presets"):
            directory.mkdir(parents=True)
        (config / "ftbench" / "presets" / "short.toml").write_text(PRESET.format(steps=STEPS))
        self.env = {
            "XDG_CONFIG_HOME": str(config),
            "XDG_DATA_HOME": str(self.data),
            "FTBENCH_RUNS": "",
            "HOME": str(folder),
        }
        self.terminals: list[Terminal] = []

    def log_in(self, directory: Path, forked: bool) -> Terminal:
        self.terminals.append(Terminal(cwd=directory, env=self.env, forked=forked))
        return self.terminals[-1]

    def runs(self) -> list[RunDir]:
        return list(RunDir.iterate(self.data / "ftbench" / "runs"))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    user = User(tmp_path)
    for name, value in user.env.items():
        monkeypatch.setenv(name, value)
    yield user
    for terminal in user.terminals:
        if terminal.process.poll() is None:
            terminal.process.kill()
    for run in user.runs():
        kill(run)


def test_a_run_is_found_training_after_a_login_in_another_directory(user: User) -> None:
    first = user.log_in(user.project, forked=False)  # the kernel sends it SIGHUP
    launch(first, STEPS)
    first.hang_up()
    (run,) = user.runs()
    assert run.is_active() and run.started_in() == str(user.project)
    assert list(user.project.iterdir()) == []

    second = user.log_in(user.elsewhere, forked=True)
    second.wait(f"/{STEPS:,}", 400)
    second.wait("· ~/project")  # where it was started
    second.press("q")
    assert second.leave() == 0
    assert f"attach {run.name}".encode() in second.bytes

    (listed,) = json.loads(ftbench("runs", "--json", cwd=user.elsewhere).stdout)
    assert listed["name"] == run.name and listed["state"].startswith("training")
    assert listed["started_in"] == str(user.project)
    stopped = ftbench("stop", "last", cwd=user.elsewhere)
    assert stopped.returncode == 0 and f"{run.name}, started in" in stopped.stdout
    wait_for_end(run)
    attached = ftbench("attach", "last", cwd=user.elsewhere)
    assert attached.returncode == 0 and "stopped" in attached.stdout
