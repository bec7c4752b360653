"""Runs as jobs of a real Slurm: their states, signals, restarts, and what fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import FTBENCH, MICRO, ON_SMALL, events_of
from faults.worker_runs import UNPROBED, losses, start, wait_for, wait_for_end
from forked import ftbench
from slurm_sandbox import IS_INSTALLED, Sandbox

from engine.config.errors import UserError
from engine.extensions.slurm.slurm import UNKNOWN, SlurmQueue, Unreachable, command, queue
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import resume_run, stop
from tui.history.run_list import describe

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Slurm is not installed")
SLURM = ["--executor", "slurm"]
SHORT = [*UNPROBED, *ON_SMALL]
LONG = [{"train.steps=12": "train.steps=20", "train.batch=4": "train.batch=2"}.get(word, word) for word in SHORT]
"""Twice as many steps of half the rows: enough that a run can be stopped twice."""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox(tmp_path_factory.mktemp("slurm"))
    sandbox.up()
    yield sandbox
    sandbox.down()


@pytest.fixture(autouse=True)
def slurm(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    for name in ("SLURM_CONF", "PATH"):
        monkeypatch.setenv(name, sandbox.environment()[name])
    return sandbox


@pytest.fixture
def busy() -> Iterator[None]:
    """Both nodes in use."""
    jobs = [command("sbatch", "--parsable", "--output=/dev/null", "--wrap=sleep 600").strip() for _ in range(2)]
    yield
    for job in jobs:
        command("scancel", job)


def until(condition: Callable[[], object], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        time.sleep(0.1)


def test_a_job_that_is_cancelled_stopped_and_without_controller_gives_the_scores_of_the_same_run_on_this_machine(
    slurm: Sandbox, tmp_path: Path
) -> None:
    """Cancelled by Slurm's own command, then stopped by ours, both of which save a checkpoint."""
    run = start(tmp_path / "runs", *LONG, *SLURM, execute=ftbench)
    wait_for(run, "checkpoint")
    check_a_damaged_job(run, ("damaged", "live"))
    job = run.job()
    assert job is not None
    command("scancel", job.id)
    wait_for_end(run)
    assert run.state() == "stopped"
    before = len(events_of(run.path))
    assert ftbench("resume", str(run.path), "--detach").returncode == 0
    wait_for(run, "checkpoint", after=before)
    assert ftbench("stop", str(run.path)).returncode == 0
    result = run.result()
    assert result is not None and (result.status, run.state()) == ("stopped", "stopped")
    before = len(events_of(run.path))
    assert ftbench("resume", str(run.path), "--detach").returncode == 0
    wait_for(run, "hello", after=before)  # on a busy machine the stop may have come after the last step
    check_a_killed_controller(run, slurm, tmp_path / "other")
    until(lambda: run.state() == "finished")
    assert not run.is_active() and run.job() != job
    assert [event["type"] for event in events_of(run.path)].count("hello") == 3

    local = start(tmp_path / "local", *LONG, execute=ftbench)
    wait_for_end(local)
    assert losses(local) == losses(run) and len(losses(run)) == 20 and local.job() is None
    expected, actual = (result.after for finished in (local, run) if (result := finished.result()))
    assert expected and actual and (expected.score, expected.loss) == (actual.score, actual.loss)
    check_a_damaged_job(run, ("damaged",))


def check_a_killed_controller(run: RunDir, slurm: Sandbox, others: Path) -> None:
    """Each command reports it in one line, and a job that runs is not disturbed."""
    job = run.job()
    assert job is not None
    command("scontrol", "update", f"JobId={job.id}", "Comment=saved")
    changed, saved = time.time(), slurm.folder / "state" / "job_state"
    until(
        lambda: saved.exists() and saved.stat().st_mtime > changed
    )  # else the controller forgets the job and drains the node
    slurm.kill_controller()
    try:
        with pytest.raises(Unreachable):
            command("squeue")
        assert SlurmQueue().state(job).state == UNKNOWN
        refused = ftbench("run", "demo-lora", *SLURM, "--runs", str(others))
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and "does not answer" in refused.stderr
        assert not list(others.iterdir())
        stopped = ftbench("stop", str(run.path))
        assert stopped.returncode == 1 and len(stopped.stderr.splitlines()) == 1
        wait_for(run, "end", status="finished")
    finally:
        slurm.start_controller()


def check_a_damaged_job(run: RunDir, states: tuple[str, ...]) -> None:
    """A run whose job cannot be read is listed in one of these states."""
    file = run.path / "job.json"
    content = file.read_bytes()
    file.write_text("{")
    assert run.state() in states
    file.write_bytes(content)


def test_a_pending_job_is_listed_with_its_reason_and_can_be_cancelled_and_resumed(busy: None, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *SHORT, *SLURM, execute=ftbench)
    until(lambda: describe(run).state == "pending: Resources")
    assert run.is_active() and not run.is_locked()
    with pytest.raises(UserError) as error:
        resume_run(run)
    assert error.value.code == "run.already_running"
    stopped = ftbench("stop", str(run.path))
    assert stopped.returncode == 0 and all(word in stopped.stdout for word in ("cancelled", "job", "pending"))
    until(lambda: run.state() == "stopped")  # this process asks Slurm every few seconds
    first = run.job()
    resume_run(run)
    assert run.job() != first and run.state() == "pending"
    stop(run)


def test_a_job_is_queued_again_at_its_time_limit_and_when_its_node_dies_and_followed_to_the_end(
    slurm: Sandbox, tmp_path: Path
) -> None:
    run = start(tmp_path / "runs", *LONG, *SLURM, execute=ftbench)
    followed = subprocess.Popen([FTBENCH, "attach", str(run.path)], stdout=subprocess.PIPE, text=True)
    assert followed.stdout is not None
    said = followed.stdout.readline()  # it follows the run before the signal
    wait_for(run, "checkpoint")
    job = run.job()
    assert job is not None
    before = len(events_of(run.path))
    command("scancel", "--batch", "--signal=USR1", job.id)  # what Slurm sends before the limit
    wait_for(run, "hello", after=before)
    wait_for(run, "checkpoint", after=len(events_of(run.path)))
    node = SlurmQueue().state(job).node
    slurm.kill_node(node)
    try:
        said += followed.stdout.read()
        until(lambda: run.state() == "finished", 300)
    finally:
        slurm.start_node(node)
    assert followed.wait(600) == 0 and "stopped" in said and "is pending" in said and "resumed" in said
    assert [event["type"] for event in events_of(run.path)].count("hello") == 3
    assert run.job() == job and len(losses(run)) == 20


def test_a_ladder_is_a_job_array_with_the_scores_of_the_same_ladder_on_this_machine(tmp_path: Path) -> None:
    words = ["demo-lora", "--rung", "lora", "--rung", "full", "--no-probe", *MICRO, *ON_SMALL]
    ladders = []
    for name, executor_options in (("local", []), ("slurm", [*SLURM, "--set", "executor.max_jobs=2"])):
        done = ftbench("ladder", *words, *executor_options, "--runs", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        folder = LadderDir.find(tmp_path / name, "last")
        state = folder.state()
        assert state is not None
        ladders.append((folder, state))
    (_, local), (folder, state) = ladders
    assert [row.score for row in local.rows] == [row.score for row in state.rows]
    jobs = {RunDir(folder.runs / entry.run).job() for entry in state.entries}
    array = next(job.id.split("_")[0] for job in jobs if job)
    assert {job.id for job in jobs if job} == {f"{array}_0", f"{array}_1"}
    assert "--array=0-1%2" in (folder.path / "job.sbatch").read_text()


def test_a_stopped_ladder_cancels_its_jobs_and_resumes(busy: None, tmp_path: Path) -> None:
    words = [
        "demo-lora",
        "--rung",
        "lora",
        "--rung",
        "full",
        "--no-probe",
        *MICRO,
        *ON_SMALL,
        *SLURM,
        "--runs",
        str(tmp_path / "runs"),
    ]
    assert ftbench("ladder", *words, "--detach").returncode == 0
    folder = LadderDir.find(tmp_path / "runs", "last")
    until(lambda: (state := folder.state()) and [entry.progress != "" for entry in state.entries] == [True, True])
    assert ftbench("stop", str(folder.path)).returncode == 0
    state = folder.state()
    assert state is not None and state.status == "stopped"
    assert {RunDir(folder.runs / entry.run).state() for entry in state.entries} == {"stopped"}
    assert command("squeue", "--noheader", "--states=pending").strip() == ""


def test_a_job_that_never_ran_and_is_gone_is_named(busy: None, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *SHORT, *SLURM, execute=ftbench)
    job = run.job()
    assert job is not None
    command("scancel", job.id)
    queue.refresh()
    until(lambda: not run.is_active())
    until(lambda: run.state() == "died", 30)
    assert describe(run).reason == f"Slurm job {job.id} was cancelled"


def test_a_refused_job_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    done = ftbench("run", "demo-lora", *SLURM, "--partition", "missing", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert "missing" in done.stderr and not list((tmp_path / "runs").iterdir())


def test_without_slurm_the_line_says_where_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ftbench("run", "demo-lora", *SLURM, "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2 and "login node" in done.stderr and not list((tmp_path / "runs").iterdir())
