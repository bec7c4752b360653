"""What may change in a resumed run, and in a run that starts from another one (`model.from_run`).

Of the frozen configuration of a resumed run only the devices and the places of its files may change: up to rounding
its losses are the same.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import tomli
import tomli_w

from engine.config.errors import UserError
from engine.config.files import MAX_SETTINGS_BYTES, read_regular, working_directory, write_atomically
from engine.config.method_specs import method_title, reads
from engine.config.preset import Flat, flatten
from engine.config.preset_values import with_settings
from engine.config.schema import Config
from engine.config.setting_groups import DEVICE_KEYS, RELOCATABLE_KEYS, SAME_AS_STARTING_RUN
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.event_log import stream
from engine.runs.run.events import Hello
from engine.runs.run.frozen_config import FrozenRun, edited_keys, values_that_are_set
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir, read_frozen


def check_unchanged(run: RunDir, frozen: FrozenRun) -> None:
    """Raise UserError if `run.toml` was edited since the run was created."""
    hellos = (event for event in stream(run.events_file, Hello) if isinstance(event, Hello))
    recorded = next((hello.config for hello in hellos if hello.config), None)
    if recorded is None:
        changes = sorted(edited_keys(run.config_file) - {*DEVICE_KEYS, *RELOCATABLE_KEYS})
    else:
        changes = list(_changes(recorded, values_that_are_set(frozen.config)))
    if changes:
        when = "was created" if recorded is None else "started"
        problem = f"the configuration changed after the run {when}: {', '.join(changes)}"
        hint = "restore it, or start a new run with `ftbench run PRESET --set KEY=VALUE`"
        raise UserError(problem, str(run.config_file), hint, code="run.config_changed")


def _changes(before: Flat, now: Flat) -> Iterator[str]:
    """`train.batch was 16 and is 8`. A key that the version of the run did not have is not a change,
    nor are other devices and places.
    """
    defaults = values_that_are_set(Config())
    for key in sorted({*before, *now} - {*DEVICE_KEYS, *RELOCATABLE_KEYS}):
        was, value = before.get(key), now.get(key)
        if was != value and not (key not in before and value == defaults.get(key)):
            yield f"{key} was {_shown(was)} and is {_shown(value)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value)


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


def continued_run_name(config: Config) -> str:
    """The name of the run that this configuration starts from, '' for none; the run may have been deleted."""
    return Path(config.model.from_run).name if config.model.from_run else ""


def find_continued_run(config: Config) -> tuple[RunDir, Result] | None:
    """The finished run that this configuration starts from, None if it starts from the base model.

    Raises UserError if the run was deleted, has no finished model, or was trained with another method, base model or
    adapter.
    """
    if config.model.from_run is None:
        return None
    run = RunDir(Path(config.model.from_run))
    if not run.config_file.is_file():
        problem, hint = (
            "the run to start from was not found",
            "`ftbench runs` lists the runs; choose another with --from",
        )
        raise UserError(problem, str(run.path), hint, "run.start_missing")
    other, result = read_frozen(run).config, run.result()
    if result is None or result.status != "finished" or not any(run.model.glob("*.safetensors")):
        state = run.state()
        problem = f"the run to start from has no {'model' if state == 'finished' else 'finished model'}: {state}"
        hint = "wait until it has finished" if run.is_active() else "choose a finished run with --from"
        raise UserError(problem, run.name, hint, "run.start_not_finished")
    _refuse_other_settings(config, other, run.name)
    return run, result


def _refuse_other_settings(config: Config, other: Config, name: str) -> None:
    """Raise UserError that names the first setting that differs and the value to set."""
    if config.method != other.method:
        problem = f"{name} was trained with {method_title(other.method)}, this run uses {method_title(config.method)}"
        raise UserError(problem, "--from", f"use --method {other.method}", "run.start_method")
    ours, theirs = flatten(config), flatten(other)
    for key in SAME_AS_STARTING_RUN:
        if reads(config.method, key) and ours[key] != theirs[key]:
            problem = (
                f"{name} was trained with {key} = {_setting_text(theirs[key])}, this run has {_setting_text(ours[key])}"
            )
            value = theirs[key] if isinstance(theirs[key], str) else json.dumps(theirs[key])
            hint = f"remove {key}" if theirs[key] is None else f"use --set {shlex.quote(f'{key}={value}')}"
            raise UserError(problem, "--from", hint, "run.start_setting")


def _setting_text(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
