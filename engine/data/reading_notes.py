"""Notes on how data was read, without duplicates although files are read several times."""

from __future__ import annotations


class ReadingNotes(list[str]):
    """A list of distinct sentences. Those in `decisions` are also part of the reason for a format."""

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[str] = []

    def add(self, text: str, decision: bool = False) -> None:
        if text not in self:
            self.append(text)
            if decision:
                self.decisions.append(text)
