"""Experiment trackers that a run can be logged to, without their libraries."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from engine.config.errors import UserError

TrackerName = Literal["trackio", "tensorboard", "wandb"]


@dataclass(frozen=True)
class TrackerSpec:
    """An experiment tracker."""

    name: TrackerName
    """In `track.to`, and of the optional dependency: `pip install 'ftbench[NAME]'`."""
    has_projects: bool
    """Whether it keeps the runs of each `track.project` apart."""
    view: str
    """The command that shows what was logged; {project}, {home} (of runs) and {folder} (of the run's tracker files) are
    replaced."""


TRACKERS: dict[str, TrackerSpec] = {
    "trackio": TrackerSpec("trackio", True, "trackio show --project {project}"),
    "tensorboard": TrackerSpec("tensorboard", False, "tensorboard --logdir {home}"),
    "wandb": TrackerSpec("wandb", True, "wandb sync --append {folder}/wandb/offline-run-*"),
}


def is_installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def check_trackers(names: Sequence[str], where: str = "track.to") -> None:
    """Raise UserError for an unknown tracker, or one whose package is not installed."""
    for name in names:
        if name not in TRACKERS:
            hint = f"use {', '.join(TRACKERS)}"
            raise UserError(f"unknown tracker {name!r}", where, hint, code="track.unknown")
        if not is_installed(name):
            hint = f"`pip install 'ftbench[{name}]'`, or remove it"
            raise UserError(f"{name} is not installed", where, hint, code="track.not_installed")
