"""The directory of a ladder, in the same folder as its runs.

One process writes it (`python -m engine.ladder`). `ladder.json` is replaced atomically after every change, so readers
always see a consistent state.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli
import tomli_w

from engine.config.errors import Notice, UserError
from engine.config.files import remove_tree, write_atomically
from engine.config.preset import flatten, nested
from engine.config.preset_library import preset_name
from engine.config.renamed_keys import current_table, current_values
from engine.runs import end_record, folder
from engine.runs.folder import Folder
from engine.runs.ladder import Ladder, LadderPlan, decode_ladder
from engine.runs.run_dir import RunDir


@dataclass(frozen=True)
class LadderDir(Folder):
    """The paths of one ladder; no other module knows its file names."""

    @property
    def runs(self) -> Path:
        """The folder that contains the ladder's runs."""
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
        """The stored state; None before the first start. Raises UserError if the file is damaged or cannot be read.

        If the disk was too full to record how the ladder ended, that is read from the reserved `end.json`.
        """
        try:
            ladder = decode_ladder(self.state_file.read_bytes())
        except FileNotFoundError:
            return None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            do = f"delete it, then `ftbench resume {self.name}` starts over and reuses finished runs"
            raise UserError(f"damaged file ({error})", str(self.state_file), do, code="ladder.damaged") from error
        except OSError as error:
            raise _unreadable(error, self.state_file) from error
        if ladder.status == "running" and (record := end_record.read(self.end_file)):
            ladder.status, ladder.reason = ("stopped" if record.status == "stopped" else "failed"), record.reason
        return ladder

    def finished_runs(self) -> list[RunDir]:
        """One finished run of each rung. Raises UserError if there is none, and as `state`."""
        ladder = self.state()
        names = ladder.finished_runs() if ladder else []
        if not names:
            do = "wait until a run has finished"
            raise UserError("no finished run in the ladder", self.name, do, code="ladder.no_finished_run")
        return [RunDir(self.runs / name) for name in names]

    def write_state(self, ladder: Ladder) -> None:
        """Replace `ladder.json` atomically."""
        ladder.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(ladder), indent=1))

    def plan(self) -> LadderPlan:
        """The plan. Raises UserError if `ladder.toml` is missing, damaged or cannot be read."""
        try:
            return msgspec.convert(self._plan_table()[0], LadderPlan)
        except FileNotFoundError as error:
            what, do = "not a ladder, ladder.toml not found", "`ftbench runs` lists runs and ladders"
            raise UserError(what, str(self.path), do, code="ladder.not_a_ladder") from error
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            what = f"damaged file ({error})"
            raise UserError(what, str(self.plan_file), "start a new ladder", code="ladder.damaged") from error
        except OSError as error:
            raise _unreadable(error, self.plan_file) from error

    def renamed_settings(self) -> list[Notice]:
        """A notice for each setting of the plan that has another name now."""
        return self._plan_table()[1]

    def _plan_table(self) -> tuple[dict[str, Any], list[Notice]]:
        """The content of `ladder.toml` under the settings' current names."""
        table = tomli.loads(self.plan_file.read_text("utf-8"))
        notices: list[Notice] = []
        for rung in table["rungs"]:
            rung["config"], renamed = current_table(rung["config"], str(self.plan_file))
            rung["settings"] = current_values(rung.get("settings", {}))[0]
            notices += [notice for notice in renamed if notice not in notices]
        return table, notices


def _unreadable(error: OSError, path: Path) -> UserError:
    return UserError(
        f"cannot read file ({error.strerror})", str(path), "check its permissions", code="ladder.unreadable"
    )


def create(runs: Path, plan: LadderPlan) -> LadderDir:
    """Create a ladder's directory (mode 0700) with its plan."""
    plan = msgspec.structs.replace(plan, started_in=plan.started_in or folder.current_directory())
    return LadderDir(folder.make(runs, preset_name(plan.preset), "ladder", "ladder.toml", plan_text(plan)))


def plan_text(plan: LadderPlan) -> str:
    """The text of `ladder.toml`."""
    table = msgspec.to_builtins(plan)
    for rung_table, rung in zip(table["rungs"], plan.rungs, strict=True):
        values = {key: value for key, value in flatten(rung.config).items() if value is not None and value != {}}
        rung_table["config"] = nested(values)
    return tomli_w.dumps(table)


def remove(ladder: LadderDir) -> None:
    """Delete a ladder that has not started any run."""
    remove_tree(ladder.path, ignore_errors=True)


def find(runs: Path, name: str) -> LadderDir:
    """Find a ladder by its path, its name, an unambiguous part of the name, or `last`."""
    if folder.has_file(Path(name), "ladder.toml"):
        return LadderDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "ladder", runs, "`ftbench ladder PRESET` starts one")


def iterate(runs: Path) -> Iterator[LadderDir]:
    """Every ladder in the folder, unordered."""
    return map(LadderDir, folder.holding(runs, "ladder.toml"))
