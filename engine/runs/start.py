"""Start, resume, stop and pause runs and ladders: the one way from a subcommand or a key to a worker."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli
import tomli_w
from msgspec.structs import replace

from engine.config.errors import Notice, RunFailed, UserError
from engine.config.files import MAX_SETTINGS_BYTES, check_utf8, read_regular, working_directory, write_atomically
from engine.config.model_files import check_model_config
from engine.config.preset import EffectiveConfig
from engine.config.preset_library import with_absolute_paths
from engine.config.schema import DEVICE_KEYS, RELOCATABLE_KEYS, Config
from engine.config.settings import Flat, flatten, with_settings
from engine.config.start_checks import refuse_whole_weights
from engine.executors import local
from engine.executors.jobs import Job, batch_system, system_of
from engine.executors.local import StartedProcess as StartedProcess
from engine.hardware.devices import device_settings, devices_for, slots_of
from engine.runs import run_hooks
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import ComparisonDir, LadderDir
from engine.runs.ladder.ladder_state import LadderPlan
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.event_log import EventLog, exit_message
from engine.runs.run.events import End
from engine.runs.run.folder import Folder, sort_by_start
from engine.runs.run.run_dir import RunDir, check_unchanged, find_continued_run, read_frozen, write_end

C = TypeVar("C", bound=ComparisonDir)
HELLO_SECONDS = 30.0
"""Time within which a started process has to appear."""
LIST_ACTIVE = "run `ftbench runs` to list active runs"


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
    """Create a run's directory, start its worker, and return once it writes events, or once its job is submitted.

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
        _start_with_hooks(run)
    except (UserError, RunFailed):
        if effective.config.executor.name != "local" and run.job() is None:  # nothing was submitted
            run_dir.delete(run)
        raise
    return run


def check_startable(config: Config) -> None:
    """Raise UserError if a run cannot be started: for its model or device, or by an extension."""
    check_model_config(config.model)
    run_hooks.check(config)
    if config.train.devices > 1 and config.train.parallelism == "fsdp":
        refuse_whole_weights(config)
    check_device(config)


def check_device(config: Config) -> None:
    """Raise UserError if the devices do not exist. A job runs elsewhere, with what the batch system gives it."""
    device = config.hardware.device
    if config.executor.name == "local":
        devices_for(*device_settings(config))
    elif slots_of(device) > 1:
        problem, where = "a job cannot be divided into slots", f"hardware.device={device}"
        hint = "omit the slots; --gres and executor.cpus set its size"
        raise UserError(problem, where, hint, code="device.slots_in_job")


def _start_with_hooks(run: RunDir) -> None:
    """Start the worker, wait until it writes events, and call the extensions."""
    size = run.events_size()
    wait_for_hello(run, start_worker(run), size)
    run_hooks.started(run)


def start_worker(run: RunDir) -> StartedProcess | None:
    """Start or resume the worker of a run: its process on this machine, or None for a job that was submitted.

    Raises UserError where its configuration was edited after it was created, where a symbolic link is in its directory,
    and where the batch system refuses the job.
    """
    run.check_files()
    frozen = read_frozen(run)
    check_unchanged(run, frozen)
    if (system := batch_system(frozen.config.executor.name)) is not None:
        system.submit(run.path, run.log_file, frozen.config.executor)
        return None
    return start_process("engine", run.path, run.log_file)


def start_process(module: str, folder: Path, log_file: Path, *arguments: str) -> StartedProcess:
    """Start a process as `local.start` does. Raises UserError also if the lock folder cannot be used."""
    locks.lock_folder()
    return local.start(module, folder, log_file, *arguments)


def wait_for_hello(run: RunDir, worker: StartedProcess | None, offset: int = 0) -> None:
    """Return once the worker has written to the event log past `offset` bytes; at once for a submitted job.

    Raises RunFailed if it exits first.
    """
    if worker is not None:
        _wait_until(lambda: run.events_size() > offset, worker, run)


def _wait_until(has_started: Callable[[], bool], process: StartedProcess, folder: Folder) -> None:
    """Wait for the start of a process. Raises RunFailed if it exits first, or after HELLO_SECONDS."""
    what, kind = ("worker", "run") if isinstance(folder, RunDir) else (folder.KIND, "ladder")
    deadline = time.monotonic() + HELLO_SECONDS
    while True:
        exited = process.poll() is not None  # before the check: it may start and exit between the two
        if has_started():
            return
        if exited:
            record = folder.read_end()
            reason = record.reason if record else exit_message(folder.log_file) or f"exit status {process.returncode}"
            text = f"the {what} exited at start: {reason}; see {folder.log_file}"
            raise RunFailed(text, f"{kind}.exited_at_start")
        if time.monotonic() > deadline:
            text = f"the {what} did not start within {HELLO_SECONDS:.0f} s; see {folder.log_file}"
            raise RunFailed(text, f"{kind}.start_timeout")
        time.sleep(0.01)


def repeat_run(run: RunDir) -> RunDir:
    """Start a new run with the frozen configuration of an existing one. Raises as `start_run` does."""
    frozen = read_frozen(run)
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
    frozen = read_frozen(run)
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
    _start_with_hooks(run)


def change_configuration(run: RunDir, settings: Flat, check: Callable[[Config], object]) -> None:
    """Set DEVICE_KEYS and RELOCATABLE_KEYS in the frozen configuration of a run that is not running.

    `check` raises if the devices do not exist. A note of each place that changes is logged when the run resumes.

    Raises UserError also for another key or an invalid value, and where the file was edited; it is then not changed.
    """
    if other := sorted(settings.keys() - {*DEVICE_KEYS, *RELOCATABLE_KEYS}):
        problem = f"{other[0]} cannot change in a resumed run"
        hint = f"only {', '.join((*DEVICE_KEYS, *RELOCATABLE_KEYS))} can"
        raise UserError(problem, "--set", hint, code="run.setting_fixed")
    frozen = read_frozen(run)
    check_unchanged(run, frozen)
    try:
        check(msgspec.convert(msgspec.to_builtins(with_settings(frozen.config, settings)), Config))
    except msgspec.ValidationError as error:
        problem, hint = f"invalid value: {error}", "docs/configuration.md lists the values"
        raise UserError(problem, "--set", hint, "preset.invalid_value") from error
    table: dict[str, Any] = tomli.loads(read_regular(run.config_file, MAX_SETTINGS_BYTES).decode())
    for key, value in settings.items():
        section, _, name = key.partition(".")
        before = flatten(frozen.config)[key]
        if key in RELOCATABLE_KEYS and before != value:
            table["run"].setdefault("notes", []).append(f"resumed with {key} = {value}, before {before}")
        table.setdefault(section, {})[name] = value
    write_atomically(run.config_file, tomli_w.dumps(table).encode())


def find_moved_files(run: RunDir | LadderDir, config: Config, given: Flat) -> Flat:
    """Where a run's files and folders are now that are not where its configuration says: another machine, or moved.

    One with the same name is taken from the working directory, else from the folder with the directory of runs. Raises
    UserError for one that is in neither. `given`: settings that have another place.
    """
    moved: Flat = {}
    for key in RELOCATABLE_KEYS:
        value = flatten(config)[key]
        if key in given or not isinstance(value, str) or not Path(value).is_absolute() or Path(value).exists():
            continue
        folders = (working_directory(), run.path.parent.parent)
        places = [folder / Path(value).name for folder in folders if (folder / Path(value).name).exists()]
        if not places:
            hint = f"copy it here, or `ftbench resume {run.argument} --set {key}=PATH`"
            raise UserError(f"{key} was not found", value, hint, "run.file_missing")
        moved[key] = str(places[0].absolute())
    return moved


def start_ladder(
    runs: Path, plan: LadderPlan, *, created: Callable[[LadderDir], object] = lambda folder: None
) -> LadderDir:
    """Create a ladder's directory, start its process, and return once the process holds the ladder's lock.

    A ladder of the same work whose process was killed is continued instead. `created` is called with the ladder before
    its process starts. Raises as `start_run` does.
    """
    for rung in plan.rungs:
        check_startable(rung.config)
    killed = [ladder for ladder in LadderDir.iterate(runs) if ladder.was_killed() and is_same_work(ladder, plan)]
    if killed:
        parts = ladder_dir.composed_of(runs)
        killed = [ladder for ladder in killed if ladder.name not in parts]
    return continue_or_create(killed, plan.fresh, lambda: ladder_dir.create(runs, plan), created)


def is_same_work(ladder: LadderDir, plan: LadderPlan) -> bool:
    """Whether a ladder was planned to do the same, whenever, wherever and by whichever command line."""
    try:
        stored = ladder.plan()
    except UserError:
        return False  # damaged
    origin = {key: getattr(plan, key) for key in ("created", "number", "started_in", "command", "notices")}
    return replace(stored, **origin) == plan


def continue_or_create(killed: Sequence[C], fresh: bool, create: Callable[[], C], created: Callable[[C], object]) -> C:
    """Resume the latest killed one; without one, or with `fresh`, create and start one.

    Other killed ones that have no runs are deleted.
    """
    chosen = None if fresh else next(iter(sort_by_start(killed, latest_first=True)), None)
    for other in killed:
        if other is not chosen and not other.has_runs():
            other.remove()
    folder = chosen or create()
    created(folder)
    start_ladder_process(folder)
    return folder


def start_ladder_process(ladder: ComparisonDir) -> None:
    """Start the process of a ladder, or of several, and return once it holds its lock.

    Raises RunFailed if it exits first.
    """
    ladder.check_files()
    earlier = ladder.state()
    process = start_process("engine.ladder", ladder.path, ladder.log_file)

    def has_started() -> bool:
        """Whether it has the lock, or has ended because little was left to do."""
        if ladder.is_active():
            return True
        if process.returncode is None:
            return False
        state = ladder.state()
        return process.returncode == 0 or bool(state and state.updated > (earlier.updated if earlier else 0))

    _wait_until(has_started, process, ladder)


def resume_ladder(folder: ComparisonDir, settings: Flat | None = None) -> None:
    """Start the process of a ladder, or of several, again; finished runs and ladders are not repeated.

    `settings`: other places of files (RELOCATABLE_KEYS) than before. One that is missing is looked for
    (`find_moved_files`). Raises UserError if it is running, and for other keys.
    """
    check_utf8(str(folder.path))
    ladders = folder.ladders()
    if folder.is_active():
        hint = f"watch it with `ftbench attach {folder.argument}`"
        raise UserError("already running", folder.name, hint, code=f"{folder.KIND}.already_running")
    for ladder in ladders:
        plan = ladder.plan()
        changed = with_absolute_paths(settings or {}, working_directory())
        if other := sorted(changed.keys() - set(RELOCATABLE_KEYS)):
            hint = f"only {', '.join(RELOCATABLE_KEYS)} can"
            raise UserError(f"{other[0]} cannot change in a resumed ladder", "--set", hint, code="ladder.setting_fixed")
        for rung in plan.rungs:
            changed |= find_moved_files(ladder, rung.config, changed)
        if changed:
            rungs = [replace(rung, config=with_settings(rung.config, changed)) for rung in plan.rungs]
            write_atomically(ladder.plan_file, ladder_dir.plan_text(replace(plan, rungs=rungs)).encode())
    start_ladder_process(folder)


def stop(run: RunDir | ComparisonDir) -> None:
    """Request a stop: the worker finishes its step, saves a checkpoint and exits; a ladder also stops its run.

    A job that waits in the queue of a batch system is cancelled. Raises UserError where it is not running or belongs to
    another user, and RunFailed where the batch system refuses.
    """
    if isinstance(run, RunDir) and (job := run.job()) is not None:
        _stop_job(run, job)
        return
    pid = run.pid()
    if pid is None:
        raise UserError(f"{run.name} is not running", hint=LIST_ACTIVE, code="run.not_running")
    try:
        os.kill(pid, signal.SIGTERM)
    except PermissionError as error:
        problem = f"{run.name} belongs to another user (process {pid})"
        raise UserError(problem, hint="ask its owner to stop it", code="run.not_yours") from error


def _stop_job(run: RunDir, job: Job) -> None:
    """Stop a run that is a job; one that waits is cancelled, and its end is recorded here."""
    system = system_of(job)
    system.refresh()
    state = system.state(job)
    if not state.is_active:
        raise UserError(f"{run.name} is not running: {state.text}", hint=LIST_ACTIVE, code="run.not_running")
    if not state.is_waiting:
        system.stop(job)
        return
    system.cancel(job)
    lock = run.acquire()
    if lock is None:  # it was started in the meantime, and its worker answers to the cancellation
        return
    try:
        if run.unwritten_end() is None and run.written_result() is None:
            how = f"run `ftbench resume {run.argument}` to submit it again"
            end = End(status="stopped", reason=f"cancelled while its job was pending; {how}")
            write_end(run, read_frozen(run), EventLog(run.events_file), end)
    finally:
        os.close(lock)
    system.refresh()


def try_to_stop(run: RunDir | ComparisonDir) -> bool:
    """Request a stop of what may have ended; False if its batch system does not answer and has to be asked again."""
    try:
        stop(run)
    except (UserError, ProcessLookupError):  # it ended in the meantime
        return True
    except RunFailed:
        return False
    return True


def pause(run: RunDir) -> None:
    """Stop a run and mark it as paused until it is resumed. Pausing releases the GPU.

    Raises UserError where it is not running or the mark cannot be written.
    """
    run.check_files()
    try:
        run.paused_file.touch(mode=0o600)
    except OSError as error:
        problem, hint = f"cannot mark the run as paused: {error.strerror}", "stop it instead: it can be resumed too"
        raise UserError(problem, str(run.path), hint, "run.cannot_pause") from error
    try:
        stop(run)
    except (UserError, RunFailed, ProcessLookupError):
        run.paused_file.unlink(missing_ok=True)
        raise
