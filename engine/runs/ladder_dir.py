"""A ladder is a directory too, beside the runs it starts.

One process writes it (`python -m engine.ladder`). `ladder.json` is rewritten whole after every change, so a reader
always sees a consistent state.
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
    """The paths of one ladder. Owns the names; nobody else spells them."""

    @property
    def runs(self) -> Path:
        """The folder its runs lie in."""
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
        """How far it is; None before it has begun. Raises UserError where the file is damaged or cannot be read.

        Where the disk was too full to write how the ladder ended, that comes from its reserved `end.json`.
        """
        try:
            ladder = decode_ladder(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"delete it: `ftbench resume {self.name}` starts over and finds the runs that are done"
            raise UserError(f"damaged: {error}", str(self.state_file), do, code="ladder.damaged") from error
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", str(self.state_file), "check its owner") from error
        if ladder.status == "running" and (record := end_record.read(self.end_file)):
            ladder.status, ladder.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return ladder

    def write_state(self, ladder: Ladder) -> None:
        """`ladder.json`, whole or not at all."""
        ladder.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(ladder), indent=1))

    def plan(self) -> LadderPlan:
        """What it was told to do. Raises UserError where `ladder.toml` is absent or damaged."""
        try:
            return msgspec.convert(tomli.loads(self.plan_file.read_text("utf-8")), LadderPlan)
        except FileNotFoundError as error:
            what = "not a ladder: no ladder.toml"
            raise UserError(what, str(self.path), "`ftbench runs` lists what there is") from error
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            what = f"damaged: {error}"
            raise UserError(what, str(self.plan_file), "start a new ladder", code="ladder.damaged") from error
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", str(self.plan_file), "check its owner") from error


def create(runs: Path, plan: LadderPlan) -> LadderDir:
    """Make a ladder's directory (mode 0700) with its plan in place."""
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
    """Delete a ladder that never began to work."""
    remove_tree(ladder.path, ignore_errors=True)


def find(runs: Path, name: str) -> LadderDir:
    """A ladder by its name, an unambiguous part of it, its path, or `last`."""
    if folder.has_file(Path(name), "ladder.toml"):
        return LadderDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "ladder", runs, "`ftbench ladder PRESET` makes one")


def iterate(runs: Path) -> Iterator[LadderDir]:
    """Every ladder in the folder, in no order."""
    return map(LadderDir, folder.holding(runs, "ladder.toml"))
