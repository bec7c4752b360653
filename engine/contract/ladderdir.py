"""A ladder is a directory too, beside the runs it starts.

One process writes it (`python -m engine.ladder`). `ladder.json` is rewritten whole after every change, so a reader
always sees a consistent state.
"""

from __future__ import annotations

import os
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli
import tomli_w

from engine.contract import locks
from engine.contract.errors import UserError
from engine.contract.ladder import Ladder, Plan
from engine.contract.preset import flatten, nested
from engine.contract.rundir import write_atomically


@dataclass(frozen=True)
class LadderDir:
    """The paths of one ladder. Owns the names; nobody else spells them."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

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
    def log_file(self) -> Path:
        return self.path / "engine.log"

    @property
    def lock_file(self) -> Path:
        return self.path / "engine.lock"

    @property
    def probes(self) -> Path:
        return self.path / "probes"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    def pid(self) -> int | None:
        """The live process's id, None where nobody climbs."""
        text = locks.holder(self.lock_file)
        return int(text) if text and text.isdigit() else None

    def is_live(self) -> bool:
        return locks.holder(self.lock_file) is not None

    def state(self) -> Ladder | None:
        """How far it is; None before the first word. Raises UserError where the file is damaged."""
        try:
            return msgspec.json.decode(self.state_file.read_bytes(), type=Ladder)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise UserError(f"damaged: {error}", str(self.state_file), "delete the ladder or start it again") from error

    def write_state(self, ladder: Ladder) -> None:
        """`ladder.json`, whole or not at all."""
        ladder.updated = time.time()
        write_atomically(self.state_file, msgspec.json.format(msgspec.json.encode(ladder), indent=1))

    def plan(self) -> Plan:
        """What it was told to do. Raises UserError where `ladder.toml` is absent or damaged."""
        try:
            return msgspec.convert(tomli.loads(self.plan_file.read_text("utf-8")), Plan)
        except FileNotFoundError as error:
            what = "not a ladder: no ladder.toml"
            raise UserError(what, str(self.path), "`ftbench runs` lists what there is") from error
        except (tomli.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
            raise UserError(f"damaged: {error}", str(self.plan_file), "start a new ladder") from error


def create(runs: Path, plan: Plan) -> LadderDir:
    """Make a ladder's directory (mode 0700) with its plan in place."""
    safe = "".join(character if character.isalnum() or character in "-_" else "-" for character in plan.preset)[:40]
    path = runs / f"{time.strftime('%Y%m%d-%H%M%S')}-{safe or 'work'}-ladder-{secrets.token_hex(2)}"
    try:
        runs.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.mkdir(mode=0o700)
    except OSError as error:
        raise UserError(
            f"cannot make a ladder's directory: {error.strerror}", str(runs), "choose another with --runs DIR"
        ) from error
    ladder = LadderDir(path)
    try:
        write_atomically(ladder.plan_file, plan_text(plan).encode())
    except BaseException:
        shutil.rmtree(path, ignore_errors=True)
        raise
    return ladder


def plan_text(plan: Plan) -> str:
    """The text of `ladder.toml`."""
    table = msgspec.to_builtins(plan)
    for written, rung in zip(table["rungs"], plan.rungs, strict=True):
        values = {key: value for key, value in flatten(rung.config).items() if value is not None and value != {}}
        written["config"] = nested(values)
    return tomli_w.dumps(table)


def remove(ladder: LadderDir) -> None:
    """Delete a ladder that never began to work."""
    shutil.rmtree(ladder.path, ignore_errors=True)


def find(runs: Path, name: str) -> LadderDir:
    """A ladder by its name, an unambiguous part of it, its path, or `last`."""
    if (Path(name) / "ladder.toml").is_file():
        return LadderDir(Path(name).absolute())
    known = sorted(iterate(runs), key=lambda ladder: ladder.name)
    if name == "last" and known:
        return known[-1]
    exact = [ladder for ladder in known if ladder.name == name]
    partly = exact or [ladder for ladder in known if name in ladder.name]
    if len(partly) == 1:
        return partly[0]
    if partly:
        raise UserError(f"{name!r} could be {len(partly)} ladders", str(runs), "give more of the name")
    raise UserError(f"no ladder {name!r}", str(runs), "`ftbench ladder PRESET` makes one, --runs DIR looks elsewhere")


def iterate(runs: Path) -> Iterator[LadderDir]:
    """Every ladder in the folder, in no order."""
    try:
        with os.scandir(runs) as entries:
            for entry in entries:
                if entry.is_dir() and Path(entry.path, "ladder.toml").exists():
                    yield LadderDir(Path(entry.path))
    except FileNotFoundError:
        return
