"""A row on its way through preparation: as it was read (RawRow), as a conversation (Example), as tokens (Row), or as
the reason why it cannot be used (Problem); and the limits of what is read.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec

from engine.config.errors import UserError

SPLITS = ("train", "validation", "test")
SHOWN = 5
"""Number of places that are given with a count."""
IGNORE_INDEX = -100
"""The label of a token that is not in the loss: ignore_index of cross entropy."""
MAX_ROW_BYTES = 16 << 20
"""Maximum bytes of a row: a longer line is a broken file, not a training example."""
DEPTH_LIMIT = 64
"""Maximum nesting of a row: chat rows with tool schemas need about 12 levels."""
MAX_ROWS = 5_000_000
"""Maximum rows of a file or split."""


class RawRow(msgspec.Struct, frozen=True):
    """A row as it was read: its columns and its place (`train.jsonl line 7`)."""

    values: dict[str, Any]
    where: str


class UnusableRow(Exception):
    """Raised while converting a row that has nothing to train on; becomes a Problem with the row's place."""

    def __init__(self, kind: str, what: str) -> None:
        self.kind, self.what = kind, what


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that cannot be trained on: kind (a code of `engine.data.problems`), description and place."""

    kind: str
    what: str
    where: str
    length: int = 0
    """Its number of tokens; 0 if it was not tokenized."""


@dataclass(frozen=True)
class Example:
    """A conversation whose assistant messages are trained on, or a prompt and its completion as plain text."""

    messages: list[dict[str, Any]] | None
    prompt: str | None
    completion: str | None
    """Strings for prompt-completion and text, from which plain text is built without a chat template."""
    where: str
    tools: list[Any] | None = None
    weights: dict[int, float] = field(default_factory=dict)
    """Loss weight of assistant messages by index; 1 for messages that are absent. Messages with weight 0 are not in the
    loss: those of a prompt, and where the row says so. Without messages, index 0 is the completion."""
    references: tuple[str, ...] = ()
    """Further accepted answers besides the completion or the last message; test rows are scored against all of them."""
    notes: tuple[str, ...] = ()
    """Codes of changes to the row's content, for the report."""
    group: str = ""
    """Value of the column data.group; '' for none."""

    @property
    def conversation(self) -> list[dict[str, Any]]:
        """The messages; [] for plain text."""
        return self.messages or []

    @property
    def trained(self) -> list[int]:
        """Indices of the assistant messages in the loss."""
        return [n for n, turn in enumerate(self.conversation) if turn["role"] == "assistant" and self.weight(n) > 0]

    def weight(self, number: int) -> float:
        """Loss weight of the tokens of message `number`."""
        return self.weights.get(number, 1.0)


@dataclass(frozen=True, slots=True)
class Row:
    """A tokenized row: `input_ids` and `labels` of equal length, at most max_length."""

    input_ids: list[int]
    labels: list[int]
    """The token id if it is in the loss, else -100. Not shifted."""
    prompt: list[int]
    """The prompt of the last answer, for generation; ends with the generation prompt and is never truncated."""
    target: str
    """The last answer's text."""
    where: str
    cut: bool
    """Whether it was truncated to max_length on the right."""
    notes: tuple[str, ...] = ()
    length: int = 0
    """Tokens before truncation."""
    answer: int = 0
    """Tokens in the loss before truncation."""
    weights: list[float] | None = None
    """Loss weight of each token of `input_ids`; None if every token in the loss has weight 1."""
    references: tuple[str, ...] = ()
    """Further accepted answers; a test row is scored against `target` and all of these."""
    calls: bool = False
    """Whether an answer in the loss makes tool calls."""
    item: int = -1
    """Number of the evaluation item of a held-out row, equal for rows of one prompt; -1: a separate item."""
    group: str = ""
    """Key of rows that depend on each other, such as questions on one document; '' for a row alone."""


class ReadingNotes(list[str]):
    """Distinct sentences on how data was read; files are read several times.

    Those in `decisions` are also part of the reason for a format.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decisions: list[str] = []

    def add(self, text: str, decision: bool = False) -> None:
        if text not in self:
            self.append(text)
            if decision:
                self.decisions.append(text)


def raw_row(values: Any, where: str) -> RawRow:
    """Check that a row is an object within DEPTH_LIMIT, with no text of more than MAX_ROW_BYTES characters."""
    if not isinstance(values, dict):
        problem = f"expected an object as row, found {described(values)}"
        hint = 'write rows as {"column": value, …}, as a list of messages, or as [prompt, answer]'
        raise UserError(problem, where, hint, code="data.invalid_row")
    if is_deeper(values, DEPTH_LIMIT):
        raise too_deep(where)
    for key, value in values.items():
        if isinstance(value, str) and len(value) > MAX_ROW_BYTES:
            problem = f"text longer than {MAX_ROW_BYTES >> 20} MiB"
            raise UserError(problem, f"{where} ({key})", "shorten or drop the row", code="data.row_too_long")
    return RawRow(values, where)


def parsed(text: str, where: str, is_file: bool = False) -> Any:
    """Parse JSON: a value of limited depth in a row, or a whole file. Raises UserError with the place of the error."""
    unit, complete = ("file", "write the file again") if is_file else ("row", "complete or delete the row")
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise too_deep(where) from error
    except json.JSONDecodeError as error:
        place = f"{where} column {error.colno}" if error.lineno == 1 else f"{where}, line {error.lineno} of the value"
        place = f"{where} line {error.lineno} column {error.colno}" if is_file else place
        truncated = error.pos >= len(text.rstrip()) or error.msg.startswith("Unterminated")
        hint = f"{complete}: it is truncated" if truncated else f"correct the {unit}"
        raise UserError(f"invalid JSON ({error.msg})", place, hint, code="data.invalid_json") from error
    except ValueError as error:  # a number with thousands of digits
        raise UserError(f"invalid JSON ({error})", where, f"correct the {unit}", code="data.invalid_json") from error
    if not is_file and is_deeper(value, DEPTH_LIMIT):
        raise too_deep(where)
    return value


def from_json(value: Any, where: str) -> Any:
    """A value that may be JSON text, as in CSV files; None for blank text."""
    if not isinstance(value, str):
        return value
    return parsed(value, where) if value.strip() else None


def is_deeper(value: Any, limit: int) -> bool:
    """Whether containers are nested deeper than `limit`; iterative, because deep values would overflow the stack."""
    level = [value] if isinstance(value, dict | list) else []
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def too_deep(where: str) -> UserError:
    return UserError(f"nested deeper than {DEPTH_LIMIT} levels", where, "flatten or drop the row", code="data.too_deep")


def too_many_rows(where: str, hint: str = "split the file or use a part of it") -> UserError:
    return UserError(f"more than {MAX_ROWS:,} rows", where, hint, code="data.too_many_rows")


def described(value: Any) -> str:
    """The kind of a value, for errors."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    names: dict[type, str] = {str: "text", list: "a list", tuple: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), f"a {type(value).__name__}")
