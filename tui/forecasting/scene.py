"""What is known before a launch: the machine as it is, and what the engine said of the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.contract.turns import Turn
from engine.planning.room import Room
from tui.data.glance import signature
from tui.following.machine import Other


@dataclass(frozen=True)
class Scene:
    """The machine as it is now."""

    runs: Path
    room: Room | None = None
    foreign: Sequence[Other] = ()
    """Processes on the card that are no runs of ours."""
    turns: Sequence[Turn] = ()


@dataclass(frozen=True)
class Report:
    """What the engine found in the data: None until it has answered."""

    answer: dict[str, Any] | None = None
    error: str = ""
    asked: bool = True
    """Whether an answer is still to come."""

    @property
    def rows(self) -> dict[str, int]:
        return self.answer["rows"] if self.answer else {}

    @property
    def longest(self) -> int | None:
        """Tokens of the longest training row before the cut."""
        lengths = self.answer["lengths"].get("train") if self.answer else None
        return int(lengths["tokens"]["max"]) if lengths else None


class Reports:
    """What the engine said of data it has been asked about, until the data's files change."""

    def __init__(self) -> None:
        self._known: dict[bytes, dict[str, Any]] = {}

    def key(self, arguments: dict[str, Any]) -> bytes:
        """What an answer depends on; other runs' settings do not."""
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
