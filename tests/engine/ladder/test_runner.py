"""Which runs a ladder reuses, resumes, starts and stops, and what they record of it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config.errors import UserError
from engine.config.preset import EffectiveConfig
from engine.config.settings import with_settings
from engine.ladder.pipeline import LadderPipeline, load_or_create
from engine.ladder.runner import LadderRunner, identity, index
from engine.runs import start
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import Kind, Ladder, LadderEntry, LadderPlan, Rung, SharedWork, rate_grid
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog
from engine.runs.run.events import Environment, Hello, Status
from engine.runs.run.run_dir import RunDir
from engine.runs.stopping import StopRequest, StopRequested


@pytest.fixture
def plan() -> LadderPlan:
    return make_plan("demo", ["lora"], {}, probe=False)


def runner_of(folder: LadderDir, plan: LadderPlan) -> LadderRunner:
    ladder = Ladder(name=folder.name, preset="demo", command="", created=0.0, seeds=[0])
    ladder.work = SharedWork(
        model="", data="", train=1, validation=1, test=9, tokens=1, steps=1, batch=1, metric="json"
    )
    return LadderRunner(folder, ladder, StopRequest(), fresh=False)


def create_run(folder: Path, plan: LadderPlan, status: Status | None) -> RunDir:
    """A run of the plan's only rung with this outcome."""
    config = with_settings(plan.rungs[0].config, {"evaluation.metric": "json"})  # the ladder's, decided once
    run = run_dir.create(folder, "demo", EffectiveConfig(config, {}), identity=identity(config, {}, {}, {}))
    if status:
        result = run_dir.blank_result(run, run_dir.read_frozen(run))
        result.status, result.reason = status, "some reason"
        run_dir.write_result(run, result)
    return run


def test_every_run_has_the_metric_that_the_ladder_decided(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    runner, planned, config = runner_of(folder, plan), entry(), plan.rungs[0].config
    assert config.evaluation.metric == "auto"
    run = started(runner, planned, plan, monkeypatch)
    assert run_dir.read_frozen(run).config.evaluation.metric == "json"
    assert runner.identity(config) == runner.identity(with_settings(config, {"evaluation.metric": "json"}))


@pytest.mark.parametrize(
    ("changed", "reused"),
    [
        ({"cpu": "another"}, True),
        ({"threads": 4}, True),
        ({"versions": {"torch": "3"}}, False),
        ({"data": "d2"}, False),
    ],
    ids=lambda value: str(value),
)
def test_a_ladder_on_another_machine_keeps_its_own_runs_of_the_same_work(
    changed: dict[str, Any], reused: bool, tmp_path: Path, plan: LadderPlan
) -> None:
    there, fingerprints, versions = {"cpu": "a CPU", "threads": 2}, {"data": "d", "model": "m"}, {"torch": "2"}
    config = with_settings(plan.rungs[0].config, {"evaluation.metric": "json", "data.id": "/there/mails.csv"})
    key = identity(config, fingerprints, versions, there)
    run = run_dir.create(tmp_path, "demo", EffectiveConfig(config, {}), identity=key)
    EventLog(run.events_file).write(Environment(versions=versions, machine=there))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)

    folder = ladder_dir.create(tmp_path, plan)
    runner = runner_of(folder, plan)
    assert runner.ladder.work
    runner.ladder.work.fingerprints = fingerprints | {key: changed[key] for key in changed if key == "data"}
    runner.ladder.versions = changed.get("versions", versions)
    runner.ladder.machine = there | {key: changed[key] for key in changed if key in there}
    here = with_settings(config, {"data.id": "/here/mails.csv"})
    assert runner.has_finished(entry(run, folder), here) is reused
    runner.fresh = True
    assert not runner.has_finished(entry(run, folder), here)


def entry(run: RunDir | None = None, folder: LadderDir | None = None) -> LadderEntry:
    name = str(run.path.relative_to(folder.runs)) if run and folder else ""
    return LadderEntry(rung="lora", kind="run", seed=0, learning_rate=5e-3, run=name)


class Started(Exception):
    """Raised instead of starting a worker for the run in its argument."""


def refuse_to_start(run: RunDir) -> start.StartedProcess:
    raise Started(run)


def started(runner: LadderRunner, like: LadderEntry, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    monkeypatch.setattr(start, "start_worker", refuse_to_start)
    with pytest.raises(Started) as caught:
        runner.run_entry(like, plan.rungs[0].config)
    run = caught.value.args[0]
    assert isinstance(run, RunDir)
    return run


def test_a_run_that_failed_before_resuming_is_run_again(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    failed = create_run(tmp_path, plan, "failed")
    again = started(runner_of(folder, plan), entry(failed, folder), plan, monkeypatch)
    assert again.path != failed.path


@pytest.mark.parametrize("kind", ["probe", "run", "trial"])
def test_a_run_records_the_data_fingerprint_of_its_ladder(
    kind: str, tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(ladder_dir.create(tmp_path, plan), plan)
    assert runner.ladder.work
    runner.ladder.work.fingerprints["data"] = "d" * 64
    run = started(runner, msgspec.structs.replace(entry(), kind=kind), plan, monkeypatch)
    assert run_dir.read_frozen(run).data_fingerprint == "d" * 64


@pytest.mark.parametrize("status", ["out_of_memory", "diverged"])
def test_a_run_that_would_fail_again_is_not_repeated(status: Status, tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    planned = entry(create_run(tmp_path, plan, status), folder)
    assert runner_of(folder, plan).run_entry(planned, plan.rungs[0].config) is None
    assert (planned.status, planned.reason) == (status, "some reason")


def test_a_run_that_another_ladder_finished_in_the_meantime_is_reused(tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    runner = runner_of(folder, plan)
    runner.index_runs()
    other, planned = create_run(tmp_path, plan, "finished"), entry()
    assert runner.run_entry(planned, plan.rungs[0].config)
    assert planned.run == other.name and planned.reused


def test_two_ladders_that_search_at_the_same_time_share_one_run(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    barrier = threading.Barrier(2, timeout=1.0)

    def index_together(runs: Path) -> dict[str, list[RunDir]]:
        indexed = index(runs)
        with contextlib.suppress(threading.BrokenBarrierError):  # only one is here at a time, as intended
            barrier.wait()
        return indexed

    monkeypatch.setattr("engine.ladder.runner.index", index_together)
    monkeypatch.setattr(start, "start_worker", refuse_to_start)
    runners = [runner_of(ladder_dir.create(tmp_path, plan), plan) for _ in range(2)]
    entries = [entry(), entry()]

    def run(number: int) -> None:
        with contextlib.suppress(Started, StopRequested):
            runners[number].run_entry(entries[number], plan.rungs[0].config)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 120
    while not all(ladder_entry.run for ladder_entry in entries) and time.monotonic() < deadline:
        time.sleep(0.05)
    for runner in runners:
        runner.stopping.ask(signal.SIGTERM)
    for thread in threads:
        thread.join()
    assert entries[0].run == entries[1].run and sorted(ladder_entry.reused for ladder_entry in entries) == [False, True]
    assert len(list(RunDir.iterate(tmp_path))) == 1


def test_a_ladder_reuses_its_own_probe(tmp_path: Path, plan: LadderPlan) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    probe = create_run(folder.probes, plan, "finished")
    runner, planned = runner_of(folder, plan), entry(probe, folder)
    planned.kind, planned.status = "probe", "finished"
    assert runner.run_entry(planned, plan.rungs[0].config)
    assert not runner.ladder.warnings and not planned.reused


@pytest.mark.parametrize("own", [False, True])
def test_a_stop_is_forwarded_to_the_ladders_own_run_only(
    own: bool, tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    run = create_run(tmp_path, plan, None)
    runner, planned = runner_of(folder, plan), entry(run, folder) if own else entry()
    held = locks.acquire(run.lock_file, "1")
    assert held is not None
    stopped = []

    def stop(run: RunDir) -> None:
        stopped.append(run)
        os.close(held)

    def request_stop(seconds: float) -> None:
        runner.stopping.ask(signal.SIGTERM)

    monkeypatch.setattr(start, "stop", stop)
    monkeypatch.setattr("engine.ladder.runner.time.sleep", request_stop)
    with pytest.raises(StopRequested):
        runner.run_entry(planned, plan.rungs[0].config)
    assert bool(stopped) == own
    assert planned.status == "planned"
    if not own:
        os.close(held)


def test_a_worker_that_ends_unexpectedly_is_started_again_with_a_warning(
    tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ladder_dir.create(tmp_path, plan)
    run = create_run(tmp_path, plan, None)
    starts = 0

    def start(runner: LadderRunner, entry: LadderEntry, run: RunDir) -> None:
        nonlocal starts
        starts += 1
        EventLog(run.events_file).write(Hello(pid=1, host="h", version="0", resumed=starts > 1))
        if starts == 2:
            result = run_dir.blank_result(run, run_dir.read_frozen(run))
            result.status = "finished"
            run_dir.write_result(run, result)

    monkeypatch.setattr(LadderRunner, "_start", start)
    monkeypatch.setattr("engine.runs.run.run_dir.STARTING_SECONDS", 0.0)
    runner = runner_of(folder, plan)
    runner.run_entry(entry(run, folder), plan.rungs[0].config)
    assert starts == 2 and runner.ladder.warning_codes == ["ladder.worker_restarted"]
    assert run.name in runner.ladder.warnings[0]


@pytest.mark.parametrize(("test", "validation", "field"), [(0, 5, "data.test"), (5, 0, "data.validation")])
def test_a_ladder_without_test_or_validation_rows_is_refused(
    test: int, validation: int, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("demo", ["lora"], {}, learning_rates=2)
    runner = runner_of(ladder_dir.create(tmp_path, plan), plan)
    work = runner.ladder.work
    assert work
    work.test, work.validation = test, validation
    reply = {"work": msgspec.to_builtins(work), "versions": {}, "machine": {}, "warnings": []}
    monkeypatch.setattr("engine.ladder.pipeline.ask", lambda *_: reply)
    with pytest.raises(UserError, match=field):
        LadderPipeline(runner, plan).prepare()


def test_learning_rates_are_tried_with_a_seed_that_is_not_compared(tmp_path: Path) -> None:
    plan = make_plan("demo", ["lora"], {}, seeds=2, learning_rates=2)
    runner = runner_of(ladder_dir.create(tmp_path, plan), plan)
    LadderPipeline(runner, plan).list_entries()
    assert {entry.seed for entry in runner.ladder.entries if entry.kind == "trial"} == {2}
    assert [entry.seed for entry in runner.ladder.entries if entry.kind == "run"] == [0, 1]


@pytest.mark.parametrize(("best", "codes"), [(0, ["ladder.rate_at_edge"]), (1, []), (2, ["ladder.rate_at_edge"])])
def test_a_chosen_rate_at_the_end_of_the_grid_is_warned_of(
    best: int, codes: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan("demo", ["lora"], {}, learning_rates=3)
    runner = runner_of(ladder_dir.create(tmp_path, plan), plan)
    rates = rate_grid(plan.rungs[0].config.train.learning_rate, 3)

    def execute(
        runner: LadderRunner, runs: list[tuple[Rung, LadderEntry]], configure: object
    ) -> Iterator[tuple[tuple[Rung, LadderEntry], object]]:
        for rung, trial in runs:
            trial.status, trial.validation_loss = "finished", abs(rates.index(trial.learning_rate) - best)
            yield (rung, trial), object()

    monkeypatch.setattr(LadderRunner, "execute", execute)
    LadderPipeline(runner, plan).try_rates()
    assert runner.ladder.warning_codes == codes
    assert [trial.learning_rate for trial in runner.ladder.entries if trial.chosen] == [rates[best]]


def test_runs_of_a_ladder_record_the_directory_it_was_started_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    folder = ladder_dir.create(tmp_path / "runs", make_plan("demo", ["lora"], {}, probe=False))
    assert folder.started_in() == folder.plan().started_in == str(project)

    monkeypatch.chdir(folder.path)
    monkeypatch.setattr(start, "start_worker", refuse_to_start)
    plan = folder.plan()
    ladder = load_or_create(folder, plan)
    ladder.work = SharedWork(
        model="", data="", train=1, validation=1, test=9, tokens=1, steps=1, batch=1, metric="json"
    )
    wanted = LadderEntry(rung="lora", kind="run", seed=0, learning_rate=5e-3)
    with pytest.raises(Started):
        LadderRunner(folder, ladder, StopRequest(), False).run_entry(wanted, plan.rungs[0].config)
    (run,) = RunDir.iterate(tmp_path / "runs")
    assert run.started_in() == ladder.started_in == str(project)


@pytest.mark.parametrize(("kind", "told"), [("run", True), ("trial", True), ("probe", False)])
def test_extensions_are_told_of_runs_but_not_of_timing_probes(
    kind: Kind, told: bool, tmp_path: Path, plan: LadderPlan, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_of(ladder_dir.create(tmp_path, plan), plan)
    run = create_run(tmp_path, plan, None)
    seen: list[RunDir] = []
    monkeypatch.setattr(start, "start_worker", lambda run: None)
    monkeypatch.setattr("engine.runs.run_hooks.started", seen.append)
    runner._start(LadderEntry(kind=kind, rung="lora", seed=0, learning_rate=2e-4), run)
    assert [each.path for each in seen] == [run.path] * told
