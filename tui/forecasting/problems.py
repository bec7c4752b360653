"""What is wrong before a run or a ladder is started, each in words with what to do about it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.contract.modelfiles import ModelFiles
from engine.contract.schema import Config
from engine.planning.changes import changes
from engine.planning.fit import Asked
from engine.planning.room import Room
from tui.forecasting.disk import free_disk, needed_disk
from tui.forecasting.forecast import Forecast
from tui.forecasting.scene import Report, Scene
from tui.methods import NAMES
from tui.show import size


@dataclass(frozen=True)
class Problem:
    """What is wrong, and what to do about it."""

    text: str
    do: str = ""
    blocking: bool = False
    """It would fail for certain."""


def model_problems(config: Config, files: ModelFiles) -> Iterator[Problem]:
    """A model that is not there, or has to be fetched first."""
    if files.wrong:
        do = f"`ftbench pull {config.model.id}`, or give a folder" if files.fetch else "check model.id"
        yield Problem(f"model {config.model.id}: {files.wrong}", do, blocking=True)
    elif files.fetch:
        yield Problem(f"model {config.model.id} is not on this machine: it is fetched first", "takes a network")


def data_problems(config: Config, report: Report) -> Iterator[Problem]:
    """What the engine refused or warned of."""
    if report.error:
        yield Problem(report.error, "", blocking=True)
    if report.answer is None:
        return
    if report.answer["refused"]:
        yield Problem(report.answer["refused"], "", blocking=True)
    for warning in (notice["text"] for notice in report.answer["warnings"]):
        yield Problem(f"data: {warning}")


def memory_problems(found: Sequence[Forecast], files: ModelFiles, scene: Scene) -> Iterator[Problem]:
    """Methods that are tight or do not fit, by the formula."""
    for one in found:
        if one.estimate is None or scene.room is None or one.verdict not in ("tight", "does not fit"):
            continue
        what = f"{NAMES[one.method]} {'is tight' if one.verdict == 'tight' else 'does not fit'} by the formula: "
        held = f", of which others hold {size(scene.room.used)}" if scene.room.used else ""
        what += f"{size(one.estimate.peak)} of {size(scene.room.total)}{held}"
        yield Problem(what, _remedies(one, files, scene.room))


def _remedies(one: Forecast, files: ModelFiles, room: Room) -> str:
    """Single settings that would make it fit, by the formula; and the method that takes less."""
    smaller = {"full": "LoRA or QLoRA", "lora": "QLoRA", "qlora": "a smaller model"}[one.method]
    if one.verdict == "tight" or one.estimate is None or one.config is None or files.table is None:
        return f"if it runs out of memory: a smaller train.micro_batch or train.max_length, or {smaller}"
    ways = changes(Asked(one.config, files.table, one.estimate.rows, room))
    words = [
        " and ".join(f"{key} = {str(value).lower()}" for key, value in way.settings.items()) + f" ({size(way.peak)})"
        for way in ways
    ]
    return ", or ".join([*words, smaller])


def disk_problems(found: Sequence[Forecast], runs: Path) -> Iterator[Problem]:
    """A folder that cannot be written to, a disk with too little free."""
    there = next(folder for folder in (runs, *runs.parents) if folder.exists())
    if not os.access(there, os.W_OK):
        yield Problem(f"{there} cannot be written to", "start ftbench with --runs DIR", blocking=True)
    need, free = needed_disk(found), free_disk(runs)
    if need is not None and need > free:
        what = f"the disk has {size(free)} free, and checkpoints and model take about {size(need)}"
        yield Problem(what, f"free some space, or set train.keep_checkpoints = 1; runs lie in {runs}", blocking=True)


def foreign_problems(scene: Scene) -> Iterator[Problem]:
    """Processes on the card that are no runs of ours."""
    for other in scene.foreign:
        held = f" ({size(other.bytes)})" if other.bytes else ""
        yield Problem(
            f"process {other.pid} {other.name}{held} is on the card: time and memory will not be this run's alone",
            "end it, or measure later",
        )
