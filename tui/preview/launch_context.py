"""What is known before a launch: the state of the machine, and the data check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.memory.formula.memory_budget import MemoryBudget
from engine.runs.device_queue import Turn
from tui.data.preview import signature
from tui.live.machine import OtherProcess


@dataclass(frozen=True)
class LaunchContext:
    """The machine as it is now."""

    runs: Path
    room: MemoryBudget | None = None
    foreign: Sequence[OtherProcess] = ()
    """Processes on the card that are no runs of ours."""
    turns: Sequence[Turn] = ()


@dataclass(frozen=True)
class Report:
    """The data check: None until it is done."""

    answer: dict[str, Any] | None = None
    error: str = ""
    asked: bool = True
    """Whether the check is still running."""

    progress: str = ""
    """How far the check is."""

    @property
    def rows(self) -> dict[str, int]:
        return self.answer["rows"] if self.answer else {}

    @property
    def fingerprint(self) -> str:
        """Of the prepared rows, for the run to train on exactly these; '' while they are not known."""
        return str(self.answer["fingerprint"]) if self.answer else ""

    @property
    def longest(self) -> int | None:
        """Tokens of the longest training row before the cut."""
        lengths = self.answer["lengths"].get("train") if self.answer else None
        return int(lengths["tokens"]["max"]) if lengths else None


class Reports:
    """Data checks that were made, kept until a file of the data changes."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[str, Any]] = {}

    def key(self, arguments: dict[str, Any]) -> bytes:
        """What a check depends on: the files and the settings that it uses."""
        try:
            mark = signature(arguments["data"]["id"])[1]
        except OSError:
            mark = []
        return msgspec.json.encode([mark, arguments])

    def known(self, key: bytes) -> Report | None:
        answer = self._known.get(key)
        return Report(answer, asked=False) if answer else None

    def keep(self, key: bytes, report: Report) -> None:
        if report.answer:
            self._known[key] = report.answer
