"""The finished run that another run starts from: `model.from_run`, set by `ftbench run PRESET --from RUN`."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from engine.config.errors import UserError
from engine.config.method_specs import method_title, reads
from engine.config.preset import flatten
from engine.config.schema import Config
from engine.runs.run.frozen_config import FrozenRun
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir, read_frozen

SAME_SETTINGS = (
    "model.id",
    "model.revision",
    "model.chat_template",
    "adapter.rank",
    "adapter.alpha",
    "adapter.target_modules",
    "adapter.rslora",
    "adapter.dora",
    "quantization.type",
    "quantization.double",
)
"""Settings that must equal those of the starting run, because its weights fit no others."""


@dataclass(frozen=True)
class ContinuedRun:
    """A finished run from which another one starts."""

    directory: RunDir
    frozen: FrozenRun
    result: Result


def continued_run_name(config: Config) -> str:
    """The name of the run that this configuration starts from, '' for none; the run may have been deleted."""
    return Path(config.model.from_run).name if config.model.from_run else ""


def find_continued_run(config: Config) -> ContinuedRun | None:
    """The run that this configuration starts from, None if it starts from the base model.

    Raises UserError if the run was deleted, has no finished model, or was trained with another method, base model or
    adapter.
    """
    if config.model.from_run is None:
        return None
    run = RunDir(Path(config.model.from_run))
    if not run.config_file.is_file():
        what, do = "the run to start from was not found", "`ftbench runs` lists the runs; choose another with --from"
        raise UserError(what, str(run.path), do, "run.start_missing")
    frozen, result = read_frozen(run), run.result()
    if result is None or result.status != "finished" or not any(run.model.glob("*.safetensors")):
        state = run.state()
        what = f"the run to start from has no {'model' if state == 'finished' else 'finished model'}: {state}"
        do = "wait until it has finished" if run.is_active() else "choose a finished run with --from"
        raise UserError(what, run.name, do, "run.start_not_finished")
    _refuse_other_settings(config, frozen.config, run.name)
    return ContinuedRun(run, frozen, result)


def _refuse_other_settings(config: Config, other: Config, name: str) -> None:
    """Raise UserError that names the first setting that differs and the value to set."""
    if config.method != other.method:
        what = f"{name} was trained with {method_title(other.method)}, this run uses {method_title(config.method)}"
        raise UserError(what, "--from", f"use --method {other.method}", "run.start_method")
    ours, theirs = flatten(config), flatten(other)
    for key in SAME_SETTINGS:
        if reads(config.method, key) and ours[key] != theirs[key]:
            what = f"{name} was trained with {key} = {_shown(theirs[key])}, this run has {_shown(ours[key])}"
            value = theirs[key] if isinstance(theirs[key], str) else json.dumps(theirs[key])
            do = f"remove {key}" if theirs[key] is None else f"use --set {shlex.quote(f'{key}={value}')}"
            raise UserError(what, "--from", do, "run.start_setting")


def _shown(value: object) -> str:
    return "unset" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
