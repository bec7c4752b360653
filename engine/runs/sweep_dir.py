"""The directory of a sweep, in the same folder as its ladders. One process writes it (`python -m engine.ladder`)."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli
import tomli_w

from engine.config.errors import UserError
from engine.config.files import remove_tree, write_atomically
from engine.config.preset_library import preset_name
from engine.runs import end_record, folder, ladder_dir
from engine.runs.folder import Folder
from engine.runs.ladder import LadderPlan
from engine.runs.ladder_dir import LadderDir
from engine.runs.sweep import Axis, PlannedCell, Sweep, SweepPlan


@dataclass(frozen=True)
class SweepDir(Folder):
    """The paths of one sweep."""

    @property
    def runs(self) -> Path:
        """The folder that contains its ladders and their runs."""
        return self.path.parent

    @property
    def plan_file(self) -> Path:
        return self.path / "sweep.toml"

    @property
    def state_file(self) -> Path:
        return self.path / "sweep.json"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    def started_in(self) -> str:
        """The directory that the sweep was started from."""
        return folder.started_in(self.plan_file)

    def ladder(self, name: str) -> LadderDir:
        """The directory of a cell's ladder."""
        return LadderDir(self.runs / name)

    def plan(self) -> SweepPlan:
        """The plan. Raises UserError if `sweep.toml` is missing, damaged or cannot be read."""
        try:
            return msgspec.convert(tomli.loads(self.plan_file.read_text("utf-8")), SweepPlan)
        except (ValueError, RecursionError) as error:
            what = f"damaged file ({error})"
            raise UserError(what, str(self.plan_file), "start a new sweep", code="sweep.damaged") from error
        except OSError as error:
            what = f"cannot read file ({error.strerror})"
            raise UserError(what, str(self.plan_file), "check its permissions", code="sweep.unreadable") from error

    def state(self) -> Sweep | None:
        """The stored state; None before the first start. Raises UserError if the file is damaged or cannot be read."""
        try:
            sweep = msgspec.json.decode(self.state_file.read_bytes(), type=Sweep)
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"delete it, then `ftbench resume {self.name}` starts over and reuses finished runs"
            raise UserError(f"damaged file ({error})", str(self.state_file), do, code="sweep.damaged") from error
        except OSError as error:
            what = f"cannot read file ({error.strerror})"
            raise UserError(what, str(self.state_file), "check its permissions", code="sweep.unreadable") from error
        if sweep.status == "running" and (record := end_record.read(self.end_file)):
            sweep.status, sweep.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return sweep

    def write_state(self, sweep: Sweep) -> None:
        """Replace `sweep.json` atomically."""
        sweep.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(sweep), indent=1))


def create(
    runs: Path,
    axes: Sequence[Axis],
    cells: Sequence[tuple[dict[str, Any], LadderPlan]],
    budget: float | None = None,
    command: str = "",
) -> SweepDir:
    """Create the directories of a sweep and of its ladders, which later changes of the preset do not affect."""
    made: list[LadderDir] = []
    try:
        made += (ladder_dir.create(runs, plan) for _, plan in cells)
        planned = [
            PlannedCell(values=values, ladder=ladder.name) for (values, _), ladder in zip(cells, made, strict=True)
        ]
        first = cells[0][1]
        plan = SweepPlan(
            preset=first.preset,
            created=time.time(),
            axes=list(axes),
            cells=planned,
            budget=budget,
            command=command,
            started_in=folder.current_directory(),
        )
        table = {key: value for key, value in msgspec.to_builtins(plan).items() if value is not None}
        return SweepDir(folder.make(runs, preset_name(plan.preset), "sweep", "sweep.toml", tomli_w.dumps(table)))
    except BaseException:
        for ladder in made:
            ladder_dir.remove(ladder)
        raise


def remove(sweep: SweepDir) -> None:
    """Delete a sweep that has not started any run, with its ladders."""
    for cell in sweep.plan().cells:
        ladder_dir.remove(sweep.ladder(cell.ladder))
    remove_tree(sweep.path, ignore_errors=True)


def find(runs: Path, name: str) -> SweepDir:
    """Find a sweep by its path, its name, an unambiguous part of the name, or `last`."""
    if folder.has_file(Path(name), "sweep.toml"):
        return SweepDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "sweep", runs, "`ftbench ladder PRESET --vary KEY=V1,V2` starts one")


def iterate(runs: Path) -> Iterator[SweepDir]:
    """Every sweep in the folder, unordered."""
    return map(SweepDir, folder.holding(runs, "sweep.toml"))
