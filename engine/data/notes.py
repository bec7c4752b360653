"""Remarks on how data was read, each kept once although files are read several times."""

from __future__ import annotations


class Notes(list[str]):
    """A list of distinct sentences."""

    def add(self, text: str) -> None:
        if text not in self:
            self.append(text)
