"""Refuse to resume a run whose `run.toml` was edited: its steps would follow different configurations."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from engine.config.errors import UserError
from engine.config.preset import Flat
from engine.config.schema import Config
from engine.runs.run.event_log import stream
from engine.runs.run.events import Hello
from engine.runs.run.frozen_config import DEVICE_KEYS, FrozenRun, values_that_are_set
from engine.runs.run.run_dir import RunDir


def check_unchanged(run: RunDir, frozen: FrozenRun) -> None:
    """Raise UserError if `run.toml` was edited since the run was created."""
    hellos = (event for event in stream(run.events_file, Hello) if isinstance(event, Hello))
    recorded = next((hello.config for hello in hellos if hello.config), None)
    changes = list(_changes(recorded, values_that_are_set(frozen.config))) if recorded is not None else []
    do = "restore it, or start a new run with `ftbench run PRESET --set KEY=VALUE`"
    if changes:
        what = f"the configuration changed after the run started: {', '.join(changes)}"
        raise UserError(what, str(run.config_file), do, code="run.config_changed")
    if recorded is None and not frozen.intact:
        what = f"the configuration changed after the run was created: {', '.join(frozen.changed) or 'unknown key'}"
        raise UserError(what, str(run.config_file), do, code="run.config_changed")


def _changes(before: Flat, now: Flat) -> Iterator[str]:
    """`train.batch was 16 and is 8`. A key that the version of the run did not have is not a change,
    nor are other devices.
    """
    defaults = values_that_are_set(Config())
    for key in sorted({*before, *now} - set(DEVICE_KEYS)):
        was, value = before.get(key), now.get(key)
        if was != value and not (key not in before and value == defaults.get(key)):
            yield f"{key} was {_shown(was)} and is {_shown(value)}"


def _shown(value: Any) -> str:
    return "unset" if value is None else repr(value)
