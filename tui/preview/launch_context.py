"""Inputs of the launch preview: the state of the machine, and the result of the data check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.device_queue import QueuePlace
from tui.data.preview import signature
from tui.live.machine import OtherProcess


@dataclass(frozen=True)
class LaunchContext:
    """The current state of the machine."""

    runs: Path
    budget: MemoryBudget | None = None
    foreign: Sequence[OtherProcess] = ()
    """GPU processes that are not ftbench runs."""
    turns: Sequence[QueuePlace] = ()


@dataclass(frozen=True)
class DataCheck:
    """The data check; `answer` is None until it is done."""

    answer: dict[str, Any] | None = None
    error: str = ""
    running: bool = True
    """Whether the check is still running."""

    progress: str = ""
    """Progress of the check."""
    sharing: str | None = None
    """What shared prefixes save; '' if nothing, None if it is not known yet."""

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


class DataCheckCache:
    """Cache of data checks, valid until a data file changes."""

    def __init__(self) -> None:
        self._known: dict[bytes, DataCheck] = {}

    def key(self, arguments: dict[str, Any]) -> bytes:
        """Cache key: everything that a check depends on, files and settings."""
        try:
            mark = signature(arguments["data"]["id"])[1]
        except OSError:
            mark = []
        return msgspec.json.encode([mark, arguments])

    def known(self, key: bytes) -> DataCheck | None:
        return self._known.get(key)

    def keep(self, key: bytes, report: DataCheck) -> None:
        if report.answer:
            self._known[key] = report
