"""The command line that starts what is selected on the bench."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from pathlib import Path

from engine.config.preset import Flat
from engine.config.setting_specs import setting_text
from engine.runs.home import runs_home
from tui.choice import Choice

OPTIONS = {"model.id": "--model", "data.id": "--data", "model.from_run": "--from"}
"""Settings that have an option."""


def run_command(choice: Choice, runs: Path, wait: bool = True) -> str:
    """`ftbench run PRESET …` for a run of this selection; `wait=False` starts while the GPU is busy."""
    method = ["--method", choice.method] if choice.method else []
    now = [] if wait else ["--now"]
    return _joined(["run", choice.preset, *method, *_settings(choice.read_overrides()), *_home(runs), *now])


def ladder_command(choice: Choice, options: Iterable[str], runs: Path) -> str:
    """`ftbench ladder PRESET …` for a ladder of this selection; `options` are those of the ladder."""
    return _joined(["ladder", choice.preset, *options, *_settings(choice.overrides()), *_home(runs)])


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
