"""Inputs of the launch preview: the state of the machine, and the result of the data check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config.schema import Config
from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.queue.device_queue import QueuePlace
from engine.runs.run.usage import ModelAccount
from tui.data.preview import signature
from tui.data_report import check_arguments
from tui.live.machine import ProcessSample


@dataclass(frozen=True)
class LaunchContext:
    """The current state of the machine."""

    runs: Path
    budget: MemoryBudget | None = None
    foreign: Sequence[ProcessSample] = ()
    """GPU processes that are not ftbench runs."""
    turns: Sequence[QueuePlace] = ()
    """Who uses the devices that the launch can use, and who waits for them."""
    devices: int = 1
    """How many runs can use these devices at the same time."""
    other_gpus: Sequence[MemoryBudget] = ()
    """The GPUs that the launch does not use."""


class WeightsCheck(msgspec.Struct, frozen=True):
    """What a run would do with the weights of its model."""

    account: ModelAccount | None = None
    """Use of every weight; None if it is not known."""
    refused: str = ""
    """Why the run would refuse its model with these settings."""


@dataclass(frozen=True)
class DataCheck:
    """The data check; `answer` is None until it is done."""

    answer: dict[str, Any] | None = None
    error: str = ""
    running: bool = True
    progress: str = ""
    sharing: str | None = None
    """What shared prefixes save; '' if nothing, None if it is not known yet."""
    weights: tuple[WeightsCheck, ...] = ()
    """Of each run of the launch; () until it is known."""

    @property
    def awaits_details(self) -> bool:
        """Whether the data is accepted, and shared prefixes and the use of the weights are not known yet."""
        return self.sharing is None and self.answer is not None and not self.answer["refused"]

    @property
    def rows(self) -> dict[str, int]:
        return self.answer["rows"] if self.answer else {}

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the prepared rows, with which the run verifies its own; '' until the check is done."""
        return str(self.answer["fingerprint"]) if self.answer else ""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest training row before truncation."""
        lengths = self.answer["lengths"].get("train") if self.answer else None
        return int(lengths["tokens"]["max"]) if lengths else None

    def tokens_per_row(self, max_length: int) -> float | None:
        """Mean tokens per training row, at most `max_length`; None until the check is done."""
        rows = self.rows.get("train")
        return min(self.answer["tokens"]["train"] / rows, max_length) if self.answer and rows else None


class DataCheckCache:
    """Cache of data checks, valid until a data file changes. `kept` is called when there is a new one."""

    def __init__(self, kept: Callable[[], object]) -> None:
        self._kept = kept
        self._known: dict[bytes, DataCheck] = {}

    def key(self, arguments: dict[str, Any]) -> bytes:
        """Cache key: everything that a check depends on, files and settings."""
        try:
            mark = signature(arguments["data"]["id"])[1]
        except OSError:
            mark = []
        return msgspec.json.encode([mark, arguments])

    def longest(self, config: Config) -> int | None:
        """Tokens of the longest training row of this configuration, where its data was checked."""
        report = self.known(self.key(check_arguments(config)))
        return report.longest if report else None

    def known(self, key: bytes) -> DataCheck | None:
        return self._known.get(key)

    def keep(self, key: bytes, report: DataCheck) -> None:
        if report.answer:
            self._known[key] = report
            self._kept()
