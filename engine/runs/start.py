"""Start runs, ladders and sweeps: the one way from a subcommand or a key to a running worker."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec.structs import replace

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.files import check_utf8, working_directory, write_atomically
from engine.config.model_files import check_model_config
from engine.config.preset import EffectiveConfig, Flat, with_settings
from engine.config.preset_checks import check_benchmarks, check_parallelism
from engine.config.preset_library import with_absolute_paths
from engine.config.schema import Config
from engine.config.setting_groups import RELOCATABLE_KEYS
from engine.config.trackers import check_trackers
from engine.hardware.devices import device_settings, devices_for, slots_of
from engine.runs import launch
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir, SweepDir, create_sweep, iterate_sweeps
from engine.runs.ladder.rungs import LadderPlan
from engine.runs.ladder.sweep import Axis
from engine.runs.resuming import change_configuration, find_continued_run, find_moved_files
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from engine.runs.trackers import start_trackers

C = TypeVar("C", LadderDir, SweepDir)


def start_run(
    runs: Path,
    preset: str,
    effective: EffectiveConfig,
    *,
    wait: bool = True,
    data_fingerprint: str = "",
    command: str = "",
    created: Callable[[RunDir], object] = lambda run: None,
) -> RunDir:
    """Create a run's directory, start its worker, and return once the worker writes events.

    `wait=False` starts even if the GPU is busy. `data_fingerprint` is that of the checked rows: the worker refuses
    other rows. `command` is the command line that `run.toml` records. `created` is called with the run before its
    worker starts. Raises UserError if the model cannot be trained, the device does not exist, the run to start from
    does not match or the directory cannot be created, and RunFailed if the worker does not start.
    """
    check_startable(effective.config)
    find_continued_run(effective.config)
    run = run_dir.create(runs, preset, effective, wait=wait, data_fingerprint=data_fingerprint, command=command)
    created(run)
    try:
        _start_worker_and_trackers(run)
    except (UserError, RunFailed):
        if effective.config.executor.name == "slurm" and run.job() is None:  # nothing was submitted
            run_dir.delete(run)
        raise
    return run


def repeat_run(run: RunDir) -> RunDir:
    """Start a new run with the frozen configuration of an existing one. Raises as `start_run` does."""
    frozen = run_dir.read_frozen(run)
    notices = [Notice("preset.stored_note", note) for note in frozen.notes]
    chosen = EffectiveConfig(frozen.config, frozen.origins, notices)
    return start_run(run.path.parent, frozen.preset, chosen, command=frozen.command)


def resume_run(run: RunDir, settings: Flat | None = None) -> None:
    """Start the worker of a stopped, failed or died run again: it resumes from the latest complete checkpoint.

    `settings`: other devices (DEVICE_KEYS) or places of files (RELOCATABLE_KEYS) than before. A file that is missing is
    looked for (`find_moved_files`).

    Raises UserError if the run is running, has finished or was deleted, and RunFailed if the worker does not start.
    """
    if not run.path.exists():
        raise UserError("the run was deleted", str(run.path), "start another with `ftbench run`", code="run.deleted")
    check_utf8(str(run.path))
    run.check_files()
    frozen = run_dir.read_frozen(run)
    state = run.state()
    if state in run_dir.ACTIVE:
        hint = f"watch it with `ftbench attach {run.argument}`"
        raise UserError("already running", run.name, hint, code="run.already_running")
    if state == "finished":
        raise UserError("already finished", run.name, "start another with `ftbench run`", code="run.finished")
    changed = with_absolute_paths(settings or {}, working_directory())
    changed |= find_moved_files(run, frozen.config, changed)
    if changed:
        change_configuration(run, changed, check_device)
    _start_worker_and_trackers(run)


def start_ladder(
    runs: Path, plan: LadderPlan, *, created: Callable[[LadderDir], object] = lambda folder: None
) -> LadderDir:
    """Create a ladder's directory, start its process, and return once the process holds the ladder's lock.

    A ladder of the same work whose process was killed is continued instead. `created` is called with the ladder before
    its process starts. Raises as `start_run` does.
    """
    _check(plan)
    killed = [ladder for ladder in ladder_dir.iterate(runs) if ladder.was_killed() and _is_same_work(ladder, plan)]
    if killed:  # a ladder of a sweep is continued by the sweep
        killed = [ladder for ladder in killed if ladder not in _ladders_of_sweeps(runs)]
    folder = _to_continue(killed, plan.fresh) or ladder_dir.create(runs, plan)
    created(folder)
    launch.start_ladder_process(folder)
    return folder


def resume_ladder(folder: LadderDir | SweepDir, settings: Flat | None = None) -> None:
    """Start the process of a ladder or sweep again; finished runs and ladders are not repeated.

    `settings`: other places of files (RELOCATABLE_KEYS) than before. One that is missing is looked for
    (`find_moved_files`). Raises UserError if it is running.
    """
    check_utf8(str(folder.path))
    ladders = folder.ladders()
    if folder.is_active():
        hint = f"watch it with `ftbench attach {folder.argument}`"
        raise UserError("already running", folder.name, hint, code=f"{folder.KIND}.already_running")
    for ladder in ladders:
        _use_moved_files(ladder, settings)
    launch.start_ladder_process(folder)


def _use_moved_files(folder: LadderDir, settings: Flat | None) -> None:
    """Write the places where its files are now into a ladder's plan. Raises UserError for other keys, and for a file
    that is missing.
    """
    plan = folder.plan()
    changed = with_absolute_paths(settings or {}, working_directory())
    if other := sorted(changed.keys() - set(RELOCATABLE_KEYS)):
        hint = f"only {', '.join(RELOCATABLE_KEYS)} can"
        raise UserError(f"{other[0]} cannot change in a resumed ladder", "--set", hint, code="ladder.setting_fixed")
    for rung in plan.rungs:
        changed |= find_moved_files(folder, rung.config, changed)
    if changed:
        rungs = [replace(rung, config=with_settings(rung.config, changed)) for rung in plan.rungs]
        write_atomically(folder.plan_file, ladder_dir.plan_text(replace(plan, rungs=rungs)).encode())


def start_sweep(
    runs: Path,
    axes: Sequence[Axis],
    cells: Sequence[tuple[dict[str, Any], LadderPlan]],
    budget: float | None = None,
    command: str = "",
    *,
    created: Callable[[SweepDir], object] = lambda folder: None,
) -> SweepDir:
    """Create the directories of a sweep, start its process, and return once it holds the sweep's lock.

    A sweep of the same work whose process was killed is continued instead. `created` is called with the sweep before
    its process starts. Raises as `start_run` does.
    """
    for _, plan in cells:
        _check(plan)
    plans = [plan for _, plan in cells]
    sweeps = (sweep for sweep in iterate_sweeps(runs) if sweep.was_killed())
    killed = [sweep for sweep in sweeps if _is_same_sweep(sweep, budget, plans)]
    folder = _to_continue(killed, plans[0].fresh) or create_sweep(runs, axes, cells, budget, command)
    created(folder)
    launch.start_ladder_process(folder)
    return folder


def _is_same_work(ladder: LadderDir, plan: LadderPlan) -> bool:
    """Whether a ladder was planned to do the same, whenever, wherever and by whichever command line."""
    try:
        stored = ladder.plan()
    except UserError:
        return False  # damaged
    origin = {"created": plan.created, "started_in": plan.started_in, "command": plan.command, "notices": plan.notices}
    return replace(stored, **origin) == plan


def _is_same_sweep(sweep: SweepDir, budget: float | None, plans: Sequence[LadderPlan]) -> bool:
    try:
        stored = sweep.plan()
    except UserError:
        return False  # damaged
    ladders = [sweep.ladder(cell.ladder) for cell in stored.cells]
    return stored.budget == budget and len(ladders) == len(plans) and all(map(_is_same_work, ladders, plans))


def _ladders_of_sweeps(runs: Path) -> list[LadderDir]:
    ladders: list[LadderDir] = []
    for sweep in iterate_sweeps(runs):
        with contextlib.suppress(UserError):  # damaged
            ladders += sweep.ladders()
    return ladders


def _to_continue(killed: Sequence[C], fresh: bool) -> C | None:
    """The latest of those that were killed, None with `--fresh`; of the others, those without runs are removed."""
    latest = max(killed, key=lambda folder: folder.name, default=None)
    chosen = None if fresh else latest
    for folder in killed:
        if folder is not chosen and not folder.has_runs():
            folder.remove()
    return chosen


def _check(plan: LadderPlan) -> None:
    """Raise UserError if a rung cannot be started."""
    for rung in plan.rungs:
        check_startable(rung.config)


def check_startable(config: Config) -> None:
    """Raise UserError if a run cannot be started: for its model, trackers, benchmarks or device."""
    check_model_config(config.model)
    check_trackers(config.track.to)
    check_benchmarks(config.evaluation)
    check_parallelism(config)
    check_device(config)


def check_device(config: Config) -> None:
    """Raise UserError if the devices do not exist. A Slurm job runs elsewhere, with what Slurm gives it."""
    device = config.hardware.device
    if config.executor.name == "local":
        devices_for(*device_settings(config))
    elif slots_of(device) > 1:
        problem, hint = (
            "a Slurm job cannot be divided into slots",
            "omit the slots; --gres and executor.cpus set its size",
        )
        raise UserError(problem, f"hardware.device={device}", hint, code="device.slots_in_slurm")


def _start_worker_and_trackers(run: RunDir) -> None:
    size = run.events_size()
    launch.wait_for_hello(run, launch.start_worker(run), size)
    start_trackers(run)
