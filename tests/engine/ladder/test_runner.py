"""Which run a ladder takes for its own work, and which it leaves alone."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import msgspec
import pytest

from engine.config.errors import UserError
from engine.config.preset import Effective
from engine.ladder.identity import identity, index
from engine.ladder.pipeline import LadderPipeline
from engine.ladder.runner import LadderRunner
from engine.runs import ladder_dir, launch, locks, run_dir
from engine.runs.events import Status
from engine.runs.ladder import Ladder, LadderPlan, LadderRun, SharedWork
from engine.runs.ladder_dir import LadderDir
from engine.runs.ladder_plan import make_plan
from engine.runs.run_dir import RunDir
from engine.runs.stop_request import StopRequest, StopRequested


@pytest.fixture
def plan() -> LadderPlan:
    return make_plan("demo", ["lora"], {}, probe=False)


def climb_of(folder: LadderDir, plan: LadderPlan) -> LadderRunner:
    ladder = Ladder(name=folder.name, preset="demo", command="", created=0.0, seeds=[0])
    ladder.work = SharedWork(
        model="", data="", train=1, validation=1, test=9, tokens=1, steps=1, batch=1, metric="json"
    )
    return LadderRunner(folder, ladder, StopRequest(), fresh=False)


def made(folder: Path, plan: LadderPlan, status: Status | None) -> RunDir:
    """A run of the plan's only rung, with that outcome."""
    config = plan.rungs[0].config
    run = run_dir.create(folder, "demo", Effective(config, {}), work=identity(config, {}, {}, {}))
    if status:
        result = run_dir.blank_result(run, run_dir.read_frozen(run))
        result.status, result.reason = status, "for a reason"
        run_dir.write_result(run, result)
    return run


def entry(run: RunDir | None = None, folder: LadderDir | None = None) -> LadderRun:
    name = str(run.path.relative_to(folder.runs)) if run and folder else ""
    return LadderRun(rung="lora", kind="run", seed=0, learning_rate=5e-3, run=name)


class Started(Exception):
    """The climb would have started a worker for the run in its argument."""


def refuse_to_start(run: RunDir) -> launch.Worker:
    raise Started(run)


def started(climb: LadderRunner, wanted: LadderRun, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setattr(launch, "launch", refuse_to_start)
    with pytest.raises(Started) as caught:
        climb.do(wanted, plan.rungs[0].config, plan.rungs[0])
    run = caught.value.args[0]
    assert isinstance(run, RunDir)
    return run


def test_what_failed_in_an_earlier_life_is_tried_again(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    failed = made(tmp_path, plan, "failed")
    again = started(climb_of(folder, plan), entry(failed, folder), plan, monkeypatch)
    assert again.path != failed.path


@pytest.mark.parametrize("kind", ["probe", "run", "trial"])
def test_a_run_is_held_to_the_rows_of_the_ladders_survey(
    kind: str, tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    climb = climb_of(ladder_dir.create(tmp_path, plan), plan)
    assert climb.ladder.work
    climb.ladder.work.fingerprints["data"] = "d" * 64
    run = started(climb, msgspec.structs.replace(entry(), kind=kind), plan, monkeypatch)
    assert run_dir.read_frozen(run).data_fingerprint == "d" * 64


@pytest.mark.parametrize("status", ["out_of_memory", "diverged"])
def test_what_would_end_alike_is_not_tried_again(status: Status, tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    wanted = entry(made(tmp_path, plan, status), folder)
    assert climb_of(folder, plan).do(wanted, plan.rungs[0].config, plan.rungs[0]) is None
    assert (wanted.status, wanted.reason) == (status, "for a reason")


def test_a_run_that_another_ladder_made_meanwhile_is_taken(tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    climb = climb_of(folder, plan)
    climb.look_around()
    other, wanted = made(tmp_path, plan, "finished"), entry()
    assert climb.do(wanted, plan.rungs[0].config, plan.rungs[0])
    assert wanted.run == other.name and wanted.reused


def test_two_ladders_that_look_at_the_same_moment_share_one_run(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = threading.Barrier(2, timeout=1.0)

    def index_of_both(runs: Path) -> dict[str, list[RunDir]]:
        found = index(runs)
        with contextlib.suppress(threading.BrokenBarrierError):  # alone, as it should be
            looked.wait()
        return found

    monkeypatch.setattr("engine.ladder.runner.index", index_of_both)
    monkeypatch.setattr(launch, "launch", refuse_to_start)
    climbs = [climb_of(ladder_dir.create(tmp_path, plan), plan) for _ in range(2)]
    entries = [entry(), entry()]

    def climb(number: int) -> None:
        with contextlib.suppress(Started, StopRequested):
            climbs[number].do(entries[number], plan.rungs[0].config, plan.rungs[0])

    threads = [threading.Thread(target=climb, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while not all(one.run for one in entries) and time.monotonic() < deadline:
        time.sleep(0.05)
    for one in climbs:
        one.stopping.ask(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert entries[0].run == entries[1].run and sorted(one.reused for one in entries) == [False, True]
    assert len(list(run_dir.iterate(tmp_path))) == 1


def test_an_own_probe_is_found_again(tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    probe = made(folder.probes, plan, "finished")
    climb, wanted = climb_of(folder, plan), entry(probe, folder)
    wanted.kind, wanted.status = "probe", "finished"
    assert climb.do(wanted, plan.rungs[0].config, plan.rungs[0])
    assert not climb.ladder.warnings and not wanted.reused


@pytest.mark.parametrize("own", [False, True])
def test_a_stop_reaches_the_ladders_own_run_only(
    own: bool, tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    run = made(tmp_path, plan, None)
    climb, wanted = climb_of(folder, plan), entry(run, folder) if own else entry()
    held = locks.hold(run.lock_file, "1")
    assert held is not None
    told = []

    def stop(run: RunDir) -> None:
        told.append(run)
        os.close(held)

    def asked_while_it_waits(seconds: float) -> None:
        climb.stopping.ask(signal.SIGTERM)

    monkeypatch.setattr(launch, "stop", stop)
    monkeypatch.setattr("engine.ladder.runner.time.sleep", asked_while_it_waits)
    with pytest.raises(StopRequested):
        climb.do(wanted, plan.rungs[0].config, plan.rungs[0])
    assert bool(told) == own
    assert wanted.status == "planned"
    if not own:
        os.close(held)


@pytest.mark.parametrize(("test", "validation", "field"), [(0, 5, "data.test"), (5, 0, "data.validation")])
def test_rows_that_a_ladder_cannot_do_without(
    test: int, validation: int, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("demo", ["lora"], {}, learning_rates=2)
    climb = climb_of(ladder_dir.create(tmp_path, plan), plan)
    work = climb.ladder.work
    assert work
    work.test, work.validation = test, validation
    found = {"work": msgspec.to_builtins(work), "versions": {}, "machine": {}, "warnings": []}
    monkeypatch.setattr("engine.ladder.pipeline.ask", lambda *_: found)
    with pytest.raises(UserError, match=field):
        LadderPipeline(climb, plan).survey()
