"""The batch script of a run: options of sbatch, and the signals that the job passes on to the worker."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import Executor
from engine.extensions.slurm import slurm
from engine.extensions.slurm.slurm import array_script, limit_seconds, script

WORKER = """
import pathlib, signal, sys, time
def stop(number, frame):
    pathlib.Path("result.json").write_text('{\\n "status": "stopped"\\n}')
    pathlib.Path("signal").write_text(signal.Signals(number).name)
    sys.exit(0)
pathlib.Path("started").touch()
while "late" in sys.argv and not pathlib.Path("go").exists():
    time.sleep(0.01)
for name in (signal.SIGUSR1, signal.SIGTERM):
    signal.signal(name, stop)
signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGUSR1, signal.SIGTERM))
pathlib.Path("ready").touch()
if "end" in sys.argv:
    sys.exit(3)
while True:
    time.sleep(0.02)  # in short steps: Python calls no handler for a signal that arrives as it begins to sleep
"""
"""Answers to signals as the worker does, with `late` once there is a file `go`."""


TRIES = 20


def options(run: Path, **settings: object) -> list[str]:
    text = script(run, run / "engine.log", Executor(name="slurm", **settings))
    return [line.removeprefix("#SBATCH --") for line in text.splitlines() if line.startswith("#SBATCH")]


def test_options_are_named_as_sbatch_names_them(tmp_path: Path) -> None:
    given = options(
        tmp_path, partition="gpu", time="2-00:00:00", gres="gpu:a100:1", cpus=8, memory="64G", constraint="a|b"
    )
    assert given[-6:] == [
        "partition=gpu",
        "time=2-00:00:00",
        "gres=gpu:a100:1",
        "cpus-per-task=8",
        "mem=64G",
        "constraint=a|b",
    ]
    assert "requeue" in given and "signal=B:USR1@120" in given
    assert options(tmp_path)[-1] == "signal=B:USR1@120"


@pytest.mark.parametrize("value", ["a b", "p\n#SBATCH --uid=0", 'p"', "p'", "$(id)", "`id`", ""])
def test_values_that_could_be_misread_are_refused(value: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        options(tmp_path, partition=value)
    assert error.value.code == "slurm.invalid_option"


@pytest.mark.parametrize("name", ["x --account=y", "x -A y", "a # b", "$(id)", "a b;c&d", "x=%j", "ü 好"])
def test_a_name_cannot_become_another_option(name: str, tmp_path: Path) -> None:
    for text in (
        script(tmp_path / name, tmp_path / name / "engine.log", Executor(name="slurm")),
        array_script(tmp_path / name, [tmp_path / name / "run"], Executor(name="slurm")),
    ):
        lines = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
        words = [shlex.split(line) for line in lines]
        assert all(len(arguments) == 1 for arguments in words), lines
        options = dict(arguments[0].partition("=")[::2] for arguments in words)
        assert options["--job-name"] == name and "--account" not in options
        hint = text.splitlines()[1]
        assert "ftbench" not in hint or shlex.split(hint.split("`")[1]) == ["ftbench", "resume", name]


def test_paths_are_quoted_or_refused(tmp_path: Path) -> None:
    spaced = tmp_path / "my runs 100%" / "run"
    assert f'output="{tmp_path}/my runs 100%%/run/engine.log"' in options(spaced)
    with pytest.raises(UserError) as error:
        options(tmp_path / 'a"b')
    assert error.value.code == "slurm.path"


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("90", 5400),
        ("1:30", 90),
        ("12:00:00", 43_200),
        ("2-0", 172_800),
        ("1-12:30", 131_400),
        ("2-00:00:01", 172_801),
        ("UNLIMITED", None),
    ],
)
def test_time_limits_are_read_as_sbatch_reads_them(limit: str, seconds: int | None) -> None:
    assert limit_seconds(limit) == seconds


def test_a_time_limit_without_time_to_train_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        options(tmp_path, time="3")
    assert error.value.code == "slurm.short_time_limit"
    assert "time=4" in options(tmp_path, time="4") and "time=3" in options(tmp_path, time="3", notice=60)


@pytest.mark.parametrize("sent", [signal.SIGUSR1, signal.SIGTERM])
def test_signals_reach_the_worker_and_only_the_time_limit_queues_again(
    sent: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = started(tmp_path, monkeypatch)
    wait_for(tmp_path / "ready")
    os.kill(job.pid, sent)
    assert job.wait(60) == 0
    assert (tmp_path / "signal").read_text() == sent.name
    requeued = tmp_path / "scontrol.words"
    assert requeued.exists() == (sent == signal.SIGUSR1)
    assert not requeued.exists() or requeued.read_text().split() == ["requeue", "17"]


def test_a_signal_before_the_worker_can_answer_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = started(tmp_path, monkeypatch, "late")
    wait_for(tmp_path / "started")
    os.kill(job.pid, signal.SIGUSR1)
    wait_until(lambda: not pending(job.pid))  # passed on
    (tmp_path / "go").touch()
    assert job.wait(60) == 0
    assert (tmp_path / "signal").read_text() == "SIGUSR1"
    assert (tmp_path / "scontrol.words").read_text().split() == ["requeue", "17"]


def pending(pid: int) -> bool:
    """Whether a process has signals that it has not fetched."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


@pytest.mark.slow
def test_no_signal_is_lost_at_the_moment_the_job_begins_to_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try sends it as soon as the worker is ready."""
    for number in range(TRIES):
        folder = tmp_path / str(number)
        folder.mkdir()
        job = started(folder, monkeypatch)
        wait_for(folder / "ready", 0.0)
        os.kill(job.pid, signal.SIGTERM)
        assert job.wait(60) == 0 and (folder / "signal").read_text() == "SIGTERM"


def test_the_exit_status_is_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert started(tmp_path, monkeypatch, "end").wait(60) == 3


def started(folder: Path, monkeypatch: pytest.MonkeyPatch, *words: str) -> subprocess.Popen[bytes]:
    """The script in a shell, with a stand-in for the worker and one for scontrol that records its words."""
    (folder / "worker.py").write_text(WORKER)
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" > {folder}/scontrol.words\n')
    scontrol.chmod(0o755)
    command = [sys.executable, str(folder / "worker.py"), *words]
    monkeypatch.setattr(slurm, "worker_command", lambda module, run: command)
    text = script(folder, folder / "engine.log", Executor(name="slurm"))
    (folder / "job.sbatch").write_text(text)
    environment = {**os.environ, "PATH": f"{scontrol.parent}:{os.environ['PATH']}", "SLURM_JOB_ID": "17"}
    return subprocess.Popen(["bash", "job.sbatch"], cwd=folder, env=environment)


def wait_for(path: Path, pause: float = 0.01) -> None:
    wait_until(path.exists, pause)


def wait_until(condition: Callable[[], bool], pause: float = 0.01) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(pause)


def test_options_of_slurm_need_the_executor() -> None:
    with pytest.raises(UserError) as error:
        resolve_preset("demo-lora", None, {"executor.partition": "gpu"})
    assert error.value.code == "preset.unread_executor"
    assert resolve_preset("demo-lora", None, {"executor.partition": "gpu", "executor.name": "slurm"})
