"""What the generator means by the rows and files that it makes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


@dataclass(frozen=True)
class Meant:
    """A row and the answers that have to be trained on, in order; none where the row has to be left out."""

    values: Any
    answers: tuple[str, ...]
    references: tuple[str, ...] = ()
    """Other accepted answers: a test item may be scored against them."""


@dataclass(frozen=True)
class Rows:
    """Rows of one format."""

    format: str
    rows: list[Meant]
    options: Json = field(default_factory=dict)
    """The settings in the data section that the format needs."""
    refused: bool = False
    """Whether the data is not for supervised fine-tuning, so that it has to be refused."""


@dataclass(frozen=True)
class Case:
    """Files of a data set, the settings they are read with, and what has to come of them."""

    format: str
    container: str
    expect: str
    """valid: every row as meant. refused: a UserError. odd, broken: a UserError or an account that adds up."""
    files: dict[str, bytes]
    path: str
    """What data.id names, relative to the folder that holds the files."""
    options: Json
    splits: dict[str, list[Meant]]
    """Rows of the given splits (train, and validation and test where there are files for them)."""
    has_names: bool = True
    """Whether the file says what its columns are called."""
    max_length: int = 4096
    note: str = ""
    """What was done to the file, for those that are not valid."""

    @property
    def read(self) -> dict[str, list[Meant]]:
        """The splits that are read: a share in the settings takes the place of a file of that split."""
        return {name: rows for name, rows in self.splits.items() if name not in self.options}

    @property
    def rows(self) -> list[Meant]:
        return [row for rows in self.read.values() for row in rows]

    @property
    def columns(self) -> set[str]:
        """Names of the columns that have a value in some row that is read; none for rows that are no objects."""
        found = [row.values for row in self.rows if self.has_names and isinstance(row.values, dict)]
        return {key for row in found for key, value in row.items() if value is not None}
