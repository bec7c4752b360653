"""Values that shell completion offers for arguments and options."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.gpu_prices import list_gpus
from engine.config.method_specs import method_names
from engine.config.metric_specs import metric_names
from engine.config.preset_library import list_presets
from engine.config.preset_values import known_keys
from engine.config.schema import SECTIONS
from engine.config.trackers import TRACKERS
from engine.runs.cleaning import KINDS
from engine.runs.home import runs_home
from engine.runs.ladder import ladder_dir, sweep_dir
from engine.runs.run import run_dir
from engine.runs.run.exports import ExportKind, WeightType, artifact_words
from tui.cli.schema import FILES
from tui.data.datasets import EMBEDDED
from tui.data.recent import read_recent

SHELLS = ("bash", "zsh")
Values = Iterable[str]


def run_names(home: Path | None) -> Values:
    """The runs of the runs home, the latest first."""
    return ["last", *sorted((run.name for run in run_dir.iterate(runs_home(home))), reverse=True)]


def ladder_names(home: Path | None) -> Values:
    """Ladders, and sweeps, which the same subcommands accept."""
    folders = (*ladder_dir.iterate(runs_home(home)), *sweep_dir.iterate(runs_home(home)))
    return ["last", *sorted((one.name for one in folders), reverse=True)]


def all_names(home: Path | None) -> Values:
    """Runs and ladders."""
    return dict.fromkeys([*run_names(home), *ladder_names(home)])


def preset_names(home: Path | None) -> Values:
    return [one.name for one in list_presets() if not one.error]


def data_names(home: Path | None) -> Values:
    """Embedded and recent datasets; the shell adds the files."""
    return [*EMBEDDED, *read_recent()]


def settings(home: Path | None) -> Values:
    """`train.batch=`, and with each value for keys that have a few: `train.schedule=linear`."""
    found = [f"{key}=" for key in known_keys() if "." in key]
    for section, kind in SECTIONS.items():
        for name, annotation in get_type_hints(kind).items():
            found += [f"{section}.{name}={value}" for value in _choices(annotation)]
    found += [f"evaluation.metric={name}" for name in metric_names()]
    return found


def _choices(annotation: Any) -> list[str]:
    """The values of a field that is one of a few: `Literal["a", "b"]`, `bool`."""
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return [str(value) for value in get_args(annotation)]
    if get_origin(annotation) is list:
        return []
    return [choice for one in get_args(annotation) for choice in _choices(one)]


def _fixed(*values: str) -> Callable[[Path | None], Values]:
    return lambda home: values


OPTIONS: dict[str, Callable[[Path | None], Values]] = {
    "--set": settings,
    "--method": lambda home: method_names(),
    "--rung": lambda home: method_names(),
    "--model": lambda home: ["tiny", *CATALOG],
    "--data": data_names,
    "--preset": preset_names,
    "--from": run_names,
    "--run": run_names,
    "--against": lambda home: ["base", "start", *run_names(home)],
    "--metric": lambda home: metric_names(),
    "--gpu": lambda home: [gpu.name for gpu in list_gpus()],
    "--ship": _fixed("gguf", *artifact_words()),
    "--type": _fixed(*get_args(WeightType)),
    "--split": _fixed("train", "validation", "test"),
    "--device": _fixed("auto", "cpu"),
    "--devices": _fixed("auto", "all", "cpu", "cpu:2"),
}
"""Option -> its values."""
OPTIONS_OF = {
    ("export", "--to"): _fixed(*get_args(ExportKind)),
    ("track", "--to"): _fixed(*TRACKERS),
    ("presets new", "--from"): preset_names,
}
"""The same where an option has another meaning in one subcommand."""
ARGUMENTS: dict[str, Callable[[Path | None], Values]] = {
    "RUN": all_names,
    "RUN...": all_names,
    "LADDER": ladder_names,
    "PRESET": preset_names,
    "DATA": data_names,
    "SHELL": _fixed(*SHELLS),
    "FILE": _fixed(*FILES),
    "WHAT...": _fixed(*KINDS),
}
"""Metavar of an argument -> its values."""
ARGUMENTS_OF = {"pull": lambda home: ["gguf", *CATALOG]}
"""The same for the argument of one subcommand."""


def option_values(subcommand: str, option: str, home: Path | None) -> Values:
    """The values of an option; none where it takes a file, a number or text, or they cannot be read."""
    source = OPTIONS_OF.get((subcommand, option)) or OPTIONS.get(option)
    return _read(source, home)


def argument_values(subcommand: str, metavar: str, home: Path | None) -> Values:
    """The values of an argument, in the same way."""
    return _read(ARGUMENTS_OF.get(subcommand) or ARGUMENTS.get(metavar), home)


def _read(source: Callable[[Path | None], Values] | None, home: Path | None) -> Values:
    try:
        return [] if source is None else source(home)
    except (OSError, UserError):  # no message while a line is typed; the command itself reports it
        return []
