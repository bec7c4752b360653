"""A run is a directory: where everything in it lies, and what its files say about it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import tomli

from engine import __version__
from engine.contract import folder
from engine.contract.errors import UserError
from engine.contract.files import write_atomically
from engine.contract.folder import Folder
from engine.contract.preset import Effective, flatten, nested
from engine.contract.result import Result
from engine.contract.schema import Config
from engine.contract.split_version import OLDEST, SPLIT_VERSION

STARTING_SECONDS = 20.0
"""A run without a lock and without events is `starting` this long after its creation, then `died`."""


@dataclass(frozen=True)
class RunDir(Folder):
    """The paths of one run. Owns the names; nobody else spells them."""

    @property
    def config_file(self) -> Path:
        return self.path / "run.toml"

    @property
    def events_file(self) -> Path:
        return self.path / "events.jsonl"

    @property
    def result_file(self) -> Path:
        return self.path / "result.json"

    @property
    def paused_file(self) -> Path:
        """There from a pause until the run goes on: whoever pauses writes it."""
        return self.path / "paused"

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def predictions_file(self) -> Path:
        return self.path / "predictions.jsonl"

    def result(self) -> Result | None:
        """The outcome, None while there is none. Raises UserError where the file is damaged or cannot be read."""
        try:
            return msgspec.json.decode(self.result_file.read_bytes(), type=Result)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise UserError(f"damaged: {error}", str(self.result_file), "delete the run or start it again") from error
        except OSError as error:
            raise UserError(f"cannot be read: {error.strerror}", str(self.result_file), "look at its owner") from error

    def is_paused(self) -> bool:
        """Whether its stop was meant for a while."""
        return self.paused_file.exists() and self.state() == "stopped"

    def state(self) -> str:
        """live, starting, died, or the outcome's status."""
        if self.is_live():
            return "live"
        try:
            result = self.result()
        except UserError:
            return "damaged"
        if result:
            return result.status
        try:
            young = time.time() - self.config_file.stat().st_mtime < STARTING_SECONDS
        except FileNotFoundError:
            return "damaged"
        return "starting" if young and not self.events_file.exists() else "died"


@dataclass(frozen=True)
class Frozen:
    """What `run.toml` holds."""

    config: Config
    origins: dict[str, str]
    preset: str
    created: float
    notes: list[str]
    wait: bool
    """False: begin although another run holds the card."""
    split_version: int = OLDEST
    """The rule that divides its rows (`engine.contract.split_version`)."""
    data_fingerprint: str = ""
    """Of the rows that were checked before the launch: the run refuses other rows. '' where none were."""


class About(msgspec.Struct):
    """The section `run` of `run.toml`: what is no setting."""

    preset: str
    created: float
    notes: list[str]
    wait: bool = True
    split_version: int = OLDEST
    data_fingerprint: str = ""


def runs_folder(given: Path | None = None) -> Path:
    """`--runs DIR`, else $FTBENCH_RUNS, else ./runs."""
    return (given or Path(os.environ.get("FTBENCH_RUNS") or "runs")).absolute()


def create(
    runs: Path,
    preset: str,
    effective: Effective,
    wait: bool = True,
    work: str = "",
    split_version: int = SPLIT_VERSION,
    data_fingerprint: str = "",
) -> RunDir:
    """Make a run directory (mode 0700) with its frozen configuration in place.

    `work` is the fingerprint under which a ladder finds the run again. `split_version`: an older one only for the runs
    of a ladder that began under it. `data_fingerprint`: of the rows that a check showed, '' where there was none.
    """
    text = frozen_text(preset, effective, wait, work, split_version, data_fingerprint)
    return RunDir(folder.make(runs, preset, effective.config.method, "run.toml", text))


def frozen_text(
    preset: str,
    effective: Effective,
    wait: bool = True,
    work: str = "",
    split_version: int = SPLIT_VERSION,
    data_fingerprint: str = "",
) -> str:
    """The text of `run.toml`."""
    import tomli_w  # only who starts a run needs it

    values = {key: value for key, value in flatten(effective.config).items() if value is not None and value != {}}
    about = {
        "preset": preset,
        "created": time.time(),
        "version": __version__,
        "wait": wait,
        "work": work,
        "split_version": split_version,
        "data_fingerprint": data_fingerprint,
        "notes": effective.notes,
    }
    return tomli_w.dumps({**nested(values), "run": about, "origins": effective.origins})


def read_frozen(run: RunDir) -> Frozen:
    """What this run was told to do. Raises UserError where `run.toml` is absent, damaged or cannot be read."""
    try:
        table: dict[str, Any] = tomli.loads(run.config_file.read_text("utf-8"))
        about = msgspec.convert(table.pop("run"), About)
        origins = msgspec.convert(table.pop("origins"), dict[str, str])
        config = msgspec.convert(table, Config)
    except FileNotFoundError as error:
        raise UserError("not a run: no run.toml", str(run.path), "`ftbench runs` lists the runs") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError, KeyError, msgspec.ValidationError) as error:
        raise UserError(f"damaged: {error}", str(run.config_file), "start a new run") from error
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}", str(run.config_file), "look at its owner") from error
    return Frozen(
        config,
        origins,
        about.preset,
        about.created,
        about.notes,
        about.wait,
        about.split_version,
        about.data_fingerprint,
    )


def blank_result(run: RunDir, frozen: Frozen) -> Result:
    """A result that has everything known before the work begins."""
    config = frozen.config
    return Result(
        status="failed",
        reason="",
        name=run.name,
        preset=frozen.preset,
        method=config.method,
        model=config.model.id,
        data=config.data.id,
        metric=config.evaluation.metric,
        created=frozen.created,
        ended=time.time(),
        currency=config.cost.currency,
        split_version=frozen.split_version,
    )


def write_result(run: RunDir, result: Result) -> None:
    """`result.json`, whole or not at all."""
    write_atomically(run.result_file, msgspec.json.format(msgspec.json.encode(result), indent=1))


def find(runs: Path, name: str) -> RunDir:
    """A run by its name, an unambiguous part of it, its path, or `last`."""
    if (Path(name) / "run.toml").is_file():
        return RunDir(Path(name).absolute())
    return folder.pick(iterate(runs), name, "run", runs, "`ftbench runs` lists the runs")


def iterate(runs: Path) -> Iterator[RunDir]:
    """Every run directory in the folder, in no order."""
    return map(RunDir, folder.holding(runs, "run.toml"))
