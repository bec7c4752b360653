"""Expected content of generated rows and files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class ExpectedRow:
    """A row and the answers that must be trained on, in order; empty if the row must be left out."""

    values: Any
    answers: tuple[str, ...]
    references: tuple[str, ...] = ()
    """Further accepted answers, used to score a test item."""


@dataclass(frozen=True)
class Rows:
    """Rows of one format."""

    format: str
    rows: list[ExpectedRow]
    options: Json = field(default_factory=dict)
    """Settings of the `data` section that the format needs."""
    refused: bool = False
    """Whether the data is not for supervised fine-tuning and must be refused."""


@dataclass(frozen=True)
class Case:
    """Files of a dataset, the settings to read them with, and the expected outcome."""

    format: str
    container: str
    expect: str
    """valid: every row as expected. refused: a UserError. odd, broken: a UserError or an account that adds up."""
    files: dict[str, bytes]
    path: str
    """Value of data.id, relative to the folder with the files."""
    options: Json
    splits: dict[str, list[ExpectedRow]]
    """Rows of the given splits (train, and validation and test where there are files for them)."""
    has_names: bool = True
    """Whether the file has column names."""
    max_length: int = 4096
    note: str = ""
    """How the file was damaged, for cases that are not valid."""

    @property
    def read(self) -> dict[str, list[ExpectedRow]]:
        """The splits that are read: a share in the settings replaces a file of that split."""
        return {name: rows for name, rows in self.splits.items() if name not in self.options}

    @property
    def rows(self) -> list[ExpectedRow]:
        return [row for rows in self.read.values() for row in rows]

    @property
    def columns(self) -> set[str]:
        """Names of columns with a value in any row that is read; empty for rows that are not objects."""
        records = [row.values for row in self.rows if self.has_names and isinstance(row.values, dict)]
        return {key for row in records for key, value in row.items() if value is not None}
