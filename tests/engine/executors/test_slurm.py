"""Runs as jobs of a real Slurm: their states, signals, restarts, and what fails."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command import FTBENCH, MICRO, events_of, ftbench
from faults.worker_runs import UNPROBED, losses, start, wait_for, wait_for_end
from slurm_sandbox import IS_INSTALLED, Sandbox

from engine.config.errors import UserError
from engine.executors.slurm import UNKNOWN, SlurmQueue, Unreachable, command, queue
from engine.runs import launch
from engine.runs.ladder import ladder_dir
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.start import resume_run
from tui.history.run_list import describe

pytestmark = pytest.mark.skipif(not IS_INSTALLED, reason="Slurm is not installed")
SLURM = ["--executor", "slurm"]


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


def test_a_job_gives_the_scores_of_the_same_run_on_this_machine(tmp_path: Path) -> None:
    done = [
        ftbench("run", "demo-lora", *MICRO, *where, "--runs", str(tmp_path / name))
        for name, where in (("local", []), ("slurm", SLURM))
    ]
    assert [one.returncode for one in done] == [0, 0], done
    local, job = (next(run_dir.iterate(tmp_path / name)) for name in ("local", "slurm"))
    assert losses(local) == losses(job) and len(losses(job)) == 4
    results = [run.result() for run in (local, job)]
    after = [result.after for result in results if result and result.after]
    assert after[0].score == after[1].score and after[0].loss == after[1].loss
    assert job.job() is not None and local.job() is None
    assert job.state() == "finished" and not job.is_active()


def test_a_pending_job_is_listed_with_its_reason_and_can_be_cancelled_and_resumed(busy: None, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
    until(lambda: describe(run).state == "pending: Resources")
    assert run.is_active() and not run.is_locked()
    with pytest.raises(UserError) as error:
        resume_run(run)
    assert error.value.code == "run.already_running"
    stopped = ftbench("stop", str(run.path))
    assert stopped.returncode == 0 and "cancelled while its Slurm job was pending" in stopped.stdout
    until(lambda: run.state() == "stopped")  # this process asks Slurm every few seconds
    first = run.job()
    resume_run(run)
    assert run.job() != first and run.state() == "pending"
    launch.stop(run)


def test_a_stopped_job_saves_a_checkpoint_and_resumes_with_the_same_losses(tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
    wait_for(run, "checkpoint")
    assert ftbench("stop", str(run.path)).returncode == 0
    result = run.result()
    assert result is not None and (result.status, run.state()) == ("stopped", "stopped")
    assert ftbench("resume", str(run.path)).returncode == 0
    assert len(losses(run)) == 12 and run.state() == "finished"
    assert len([event for event in events_of(run.path) if event["type"] == "hello"]) == 2


def test_a_job_whose_node_dies_is_queued_again_and_resumes(slurm: Sandbox, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
    wait_for(run, "checkpoint")
    job = run.job()
    assert job is not None
    node = SlurmQueue().state(job).node
    slurm.kill_node(node)
    try:
        until(lambda: run.state() == "finished", 300)
    finally:
        slurm.start_node(node)
    assert run.job() == job and len(losses(run)) == 12
    assert len([event for event in events_of(run.path) if event["type"] == "hello"]) == 2


def test_a_job_at_its_time_limit_is_queued_again_and_followed_to_the_end(tmp_path: Path) -> None:
    settings = ["train.steps=40" if word == "train.steps=12" else word for word in UNPROBED]
    run = start(tmp_path / "runs", *settings, *SLURM)
    followed = subprocess.Popen([FTBENCH, "attach", str(run.path)], stdout=subprocess.PIPE, text=True)
    assert followed.stdout is not None
    said = followed.stdout.readline()  # it follows the run before the signal
    wait_for(run, "step")
    job = run.job()
    assert job is not None
    command("scancel", "--batch", "--signal=USR1", job.id)  # what Slurm sends before the limit
    said += followed.stdout.read()
    assert followed.wait(600) == 0 and "stopped" in said and "is pending" in said and "resumed" in said
    assert len([event for event in events_of(run.path) if event["type"] == "hello"]) == 2
    assert run.job() == job and len(losses(run)) == 40 and run.state() == "finished"


def test_a_ladder_is_a_job_array_with_the_scores_of_the_same_ladder_on_this_machine(tmp_path: Path) -> None:
    words = ["demo-lora", "--rung", "lora", "--rung", "full", "--no-probe", *MICRO]
    ladders = []
    for name, where in (("local", []), ("slurm", [*SLURM, "--set", "executor.max_jobs=2"])):
        done = ftbench("ladder", *words, *where, "--runs", str(tmp_path / name))
        assert done.returncode == 0, done.stderr
        folder = ladder_dir.find(tmp_path / name, "last")
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
        *SLURM,
        "--runs",
        str(tmp_path / "runs"),
    ]
    assert ftbench("ladder", *words, "--detach").returncode == 0
    folder = ladder_dir.find(tmp_path / "runs", "last")
    until(lambda: (state := folder.state()) and [entry.progress != "" for entry in state.entries] == [True, True])
    assert ftbench("stop", str(folder.path)).returncode == 0
    state = folder.state()
    assert state is not None and state.status == "stopped"
    assert {RunDir(folder.runs / entry.run).state() for entry in state.entries} == {"stopped"}
    assert command("squeue", "--noheader", "--states=pending").strip() == ""


def test_a_job_that_was_cancelled_elsewhere_is_stopped_with_a_checkpoint(tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
    wait_for(run, "checkpoint")
    job = run.job()
    assert job is not None
    command("scancel", job.id)
    wait_for_end(run)
    assert run.state() == "stopped"


def test_a_job_that_never_ran_and_is_gone_is_named(busy: None, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
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


def test_a_controller_that_does_not_answer_is_one_line_and_loses_nothing(slurm: Sandbox, tmp_path: Path) -> None:
    run = start(tmp_path / "runs", *UNPROBED, *SLURM)
    wait_for(run, "step")
    job = run.job()
    assert job is not None
    slurm.kill_controller()
    try:
        with pytest.raises(Unreachable):
            command("squeue")
        assert SlurmQueue().state(job).state == UNKNOWN
        refused = ftbench("run", "demo-lora", *SLURM, "--runs", str(tmp_path / "other"))
        assert refused.returncode == 1 and len(refused.stderr.splitlines()) == 1 and "does not answer" in refused.stderr
        assert not list((tmp_path / "other").iterdir())
        stopped = ftbench("stop", str(run.path))
        assert stopped.returncode == 1 and len(stopped.stderr.splitlines()) == 1
        wait_for(run, "end")
    finally:
        slurm.start_controller()
    until(lambda: run.state() == "finished")
    assert len(losses(run)) == 12


def test_without_slurm_the_line_says_where_to_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    done = ftbench("run", "demo-lora", *SLURM, "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2 and "login node" in done.stderr and not list((tmp_path / "runs").iterdir())


def test_a_run_directory_with_a_damaged_job_is_listed_as_damaged(tmp_path: Path) -> None:
    run = RunDir(start(tmp_path / "runs", *UNPROBED, *SLURM).path)
    (run.path / "job.json").write_text("{")
    assert run.state() in ("damaged", "live")
    until(lambda: not run.is_locked())
    assert run.state() == "damaged"
