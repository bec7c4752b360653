"""Ladder directories, next to the runs that the ladder starts.

One process writes a ladder (`python -m engine.ladder`). It replaces `ladder.json` atomically after every change, so
readers always see a consistent state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli
import tomli_w

from engine.config.errors import UserError
from engine.config.files import remove_tree, write_atomically
from engine.config.preset import flatten, nested
from engine.config.preset_library import called
from engine.runs import end_record, folder
from engine.runs.folder import Folder
from engine.runs.ladder import Ladder, LadderPlan, decode_ladder


@dataclass(frozen=True)
class LadderDir(Folder):
    """Paths in a ladder directory; the only place where its file names are spelled."""

    @property
    def runs(self) -> Path:
        """The folder that contains its runs."""
        return self.path.parent

    @property
    def plan_file(self) -> Path:
        return self.path / "ladder.toml"

    @property
    def state_file(self) -> Path:
        return self.path / "ladder.json"

    @property
    def probes(self) -> Path:
        return self.path / "probes"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    def started_in(self) -> str:
        """The directory that the ladder was started from, '' for ladders of versions that did not record it."""
        return folder.started_in(self.plan_file)

    def state(self) -> Ladder | None:
        """Read `ladder.json`; None before the ladder has started. Raises UserError if it is damaged or unreadable.

        If the disk was too full to write the outcome, it comes from the reserved `end.json`.
        """
        try:
            ladder = decode_ladder(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"delete it and run `ftbench resume {self.name}`, which reuses the finished runs"
            raise UserError(f"damaged file: {error}", str(self.state_file), do, code="ladder.damaged") from error
        except OSError as error:
            raise _unreadable(self.state_file, error) from error
        if ladder.status == "running" and (record := end_record.read(self.end_file)):
            ladder.status, ladder.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return ladder

    def write_state(self, ladder: Ladder) -> None:
        """Replace `ladder.json` atomically."""
        ladder.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(ladder), indent=1))

    def plan(self) -> LadderPlan:
        """Read `ladder.toml`. Raises UserError if it is missing, damaged or unreadable."""
        try:
            return msgspec.convert(tomli.loads(self.plan_file.read_text("utf-8")), LadderPlan)
        except FileNotFoundError as error:
            what, do = "not a ladder: ladder.toml is missing", "run `ftbench runs` to list runs and ladders"
            raise UserError(what, str(self.path), do, code="ladder.not_a_ladder") from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            what = f"damaged file: {error}"
            raise UserError(what, str(self.plan_file), "start a new ladder", code="ladder.damaged") from error
        except OSError as error:
            raise _unreadable(self.plan_file, error) from error


def _unreadable(file: Path, error: OSError) -> UserError:
    what = f"cannot read the file: {error.strerror}"
    return UserError(what, str(file), "check its owner and mode", code="ladder.unreadable")


def create(runs: Path, plan: LadderPlan) -> LadderDir:
    """Create a ladder directory (mode 0700) with its plan."""
    plan = msgspec.structs.replace(plan, started_in=plan.started_in or folder.working_directory())
    return LadderDir(folder.make(runs, called(plan.preset), "ladder", "ladder.toml", plan_text(plan)))


def plan_text(plan: LadderPlan) -> str:
    """The text of `ladder.toml`."""
    table = msgspec.to_builtins(plan)
    for written, rung in zip(table["rungs"], plan.rungs, strict=True):
        values = {key: value for key, value in flatten(rung.config).items() if value is not None and value != {}}
        written["config"] = nested(values)
    return tomli_w.dumps(table)


def remove(ladder: LadderDir) -> None:
    """Delete a ladder that never started."""
    remove_tree(ladder.path, ignore_errors=True)


def find(runs: Path, name: str) -> LadderDir:
    """Find a ladder by its name, an unambiguous part of it, its path, or `last`."""
    if folder.has_file(Path(name), "ladder.toml"):
        return LadderDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "ladder", runs, "`ftbench ladder PRESET` starts one")


def iterate(runs: Path) -> Iterator[LadderDir]:
    """All ladders in the folder, in no particular order."""
    return map(LadderDir, folder.holding(runs, "ladder.toml"))
