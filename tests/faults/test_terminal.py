"""The worker survives its terminal, its parent and the command that follows it; `attach` shows everything."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import time
from pathlib import Path

import forked
import pytest
from command import FTBENCH, MICRO, ON_SMALL, with_steps
from places import TESTS

from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import CUDA_ERROR
from faults.worker_runs import kill, start, wait_for, wait_for_end

SHORT = [*MICRO, *ON_SMALL]
LONG, ENDLESS = with_steps(SHORT, 12), with_steps(SHORT, 2000)
"""For runs that are stopped or killed."""


Process = subprocess.Popen[bytes] | forked.ForkedProcess


def in_a_terminal(runs: Path, settings: list[str], installed: bool = False) -> tuple[Process, int, RunDir]:
    """`ftbench run` as session leader on a new pty: the process, our end of the pty, and the run.

    installed: the installed command, whose worker is its child; else a fork, with streams and session of its own too.
    """
    ours, theirs = pty.openpty()
    command = [FTBENCH, "run", "demo-lora", *settings, "--runs", str(runs)]
    start_process = subprocess.Popen if installed else forked.ForkedProcess
    process = start_process(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    deadline = time.monotonic() + 120
    while not (runs.exists() and any(runs.iterdir())) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process, ours, RunDir(next(runs.iterdir()))


def drain(terminal: int, seconds: float, until: bytes | None = None) -> bytes:
    """Output of the terminal within `seconds`, or until it contains `until`."""
    os.set_blocking(terminal, False)
    shown, deadline = b"", time.monotonic() + seconds
    while time.monotonic() < deadline and not (until and until in shown):
        try:
            shown += os.read(terminal, 65536)
        except BlockingIOError:
            time.sleep(0.02)
        except OSError:
            break
    return shown


@pytest.mark.parametrize("end", ["close", "hangup", "kill"])
def test_the_worker_continues_and_attach_shows_everything(end: str, tmp_path: Path) -> None:
    process, terminal, run = in_a_terminal(tmp_path / "runs", LONG, installed=end == "kill")
    wait_for(run, "step", step=1)
    if end == "close":
        os.close(terminal)
        wait_for_end(run)  # while the command writes to a terminal that is gone
        process.kill()
    else:
        os.kill(process.pid, signal.SIGHUP if end == "hangup" else signal.SIGKILL)
    process.wait()
    seen = forked.ftbench("attach", str(run.path))
    assert seen.returncode == 0, seen.stderr
    assert "200 train" in seen.stdout and "before training" in seen.stdout and "finished" in seen.stdout
    result = run.result()
    assert result and result.status == "finished" and result.steps == 12


def test_ctrl_c_asks_and_detaching_leaves_the_run_alone(tmp_path: Path) -> None:
    process, terminal, run = in_a_terminal(tmp_path / "runs", ENDLESS)
    wait_for(run, "step", step=1)
    os.kill(process.pid, signal.SIGINT)
    assert b"[d]etach" in drain(terminal, 120, until=b"[d]etach")
    os.write(terminal, b"d\n")
    shown = drain(terminal, 120, until=b"detached")
    assert process.wait(120) == 0 and b"detached" in shown
    assert run.is_active()
    done = forked.ftbench("stop", str(run.path))
    assert done.returncode == 0 and "stopped" in done.stdout
    wait_for_end(run)


def test_a_second_run_waits_for_the_device_and_then_starts(tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    first = forked.ftbench("run", "demo-lora", *ENDLESS, "--detach", "--json", "--runs", str(runs))
    assert first.returncode == 0, first.stderr
    running = RunDir(next(runs.iterdir()))
    second = forked.ftbench("run", "demo-lora", *SHORT, "--detach", "--runs", str(runs))
    assert second.returncode == 0
    waiting = next(RunDir(path) for path in runs.iterdir() if path != running.path)
    wait_for(waiting, "phase", name="waiting")
    assert waiting.is_active() and "waiting" in forked.ftbench("runs", "--runs", str(runs)).stdout
    third = forked.ftbench("run", "demo-lora", *SHORT, "--detach", "--runs", str(runs / "third"))
    assert third.returncode == 0
    canceled = RunDir(next((runs / "third").iterdir()))
    wait_for(canceled, "phase", name="waiting")
    assert "stopped while waiting" in forked.ftbench("stop", str(canceled.path)).stdout
    assert canceled.state() == "stopped"
    assert forked.ftbench("stop", str(running.path)).returncode == 0
    wait_for(waiting, "end", status="finished")


def test_attach_reports_a_worker_that_dies(tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *ENDLESS, execute=forked.ftbench)
    wait_for(run, "step", step=1)
    watcher = subprocess.Popen([FTBENCH, "attach", str(run.path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert watcher.stdout and watcher.stdout.readline()  # it follows the run
    kill(run)
    _, stderr = watcher.communicate(timeout=120)
    assert watcher.returncode == 1
    assert b"exited unexpectedly" in stderr and b"resume" in stderr and len(stderr.splitlines()) == 1


def test_a_worker_that_bitsandbytes_ended_is_reported_with_the_cuda_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS / "plugin_tight"))
    monkeypatch.setenv("CUDA_EXIT", "1")
    done = forked.ftbench("run", "demo-lora", *SHORT, "--method", "tight-lora", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 1
    assert f"{CUDA_ERROR}: out of memory" in done.stderr
    assert "killed" not in done.stderr
