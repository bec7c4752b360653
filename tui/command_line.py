"""The command line that starts what is selected on the bench."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from engine.config.preset import Flat
from engine.config.setting_specs import setting_text
from engine.runs.home import runs_home
from tui.selection import Selection

OPTIONS = {"model.id": "--model", "data.id": "--data", "model.from_run": "--from"}
"""Settings that have an option."""


def run_command(selection: Selection, runs: Path, wait: bool = True) -> str:
    """`ftbench run PRESET …` for a run of this selection; `wait=False` starts while the GPU is busy."""
    method = ["--method", selection.method] if selection.method else []
    now = [] if wait else ["--now"]
    return _joined(["run", selection.preset, *method, *_settings(selection.read_overrides()), *_home(runs), *now])


def ladder_command(selection: Selection, options: Iterable[str], runs: Path) -> str:
    """`ftbench ladder PRESET …` for a ladder of this selection; `options` are those of the ladder."""
    return _joined(["ladder", selection.preset, *options, *_settings(selection.overrides()), *_home(runs)])


def _settings(values: Flat) -> list[str]:
    words: list[str] = []
    for key, value in values.items():
        if option := OPTIONS.get(key):
            words += [option, str(value)]
        else:
            words += ["--set", f"{key}={setting_text(value)}"]
    return words


def _home(runs: Path) -> list[str]:
    """The option that selects the runs directory, where it is not the runs home."""
    return [] if runs.resolve() == runs_home() else ["--runs", str(runs)]


def _joined(words: list[str]) -> str:
    return shlex.join(["ftbench", *words])
