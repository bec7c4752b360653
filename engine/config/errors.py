"""Errors and warnings for the user, with stable codes, and the exit codes of errors."""

from __future__ import annotations

from typing import Any, Self

import msgspec

from engine.config.text import visible, without_credentials

MAX_LINE_CHARACTERS = 600


class UserError(Exception):
    """Invalid input: one line that says what is wrong, where, and what to do (exit code 2)."""

    exit_code = 2

    def __init__(self, problem: str, location: str = "", hint: str = "", code: str = "") -> None:
        self.problem, self.location, self.hint = map(without_credentials, (problem, location, hint))
        self.code = code
        """Stable dotted name of the problem (`data.duplicate_column`), for programs and tests."""
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """`problem: location; hint` on one line, with control characters made visible."""
        head = f"{self.problem}: {self.location}" if self.location else self.problem
        return visible(f"{head}; {self.hint}" if self.hint else head, limit=MAX_LINE_CHARACTERS)


class ErrorParts(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of a UserError, as processes send them to each other and as `--json` prints them."""

    code: str = ""
    problem: str
    location: str = ""
    hint: str = ""

    @classmethod
    def of(cls, error: UserError, **others: Any) -> Self:
        """`others`: fields that a subclass adds."""
        return cls(code=error.code, problem=error.problem, location=error.location, hint=error.hint, **others)

    def error(self) -> UserError:
        return UserError(self.problem, self.location, self.hint, self.code)


def error_text(error: BaseException, limit: int = 300) -> str:
    """`Type: text` of an unexpected error, on one line and without credentials."""
    text = " ".join(without_credentials(str(error)).split())[:limit]
    return f"{type(error).__name__}: {text}"


class Notice(msgspec.Struct, frozen=True):
    """A warning for the user: `code` is stable and dotted (`data.ignored_column`), `text` is one sentence."""

    code: str
    text: str


class RunFailed(Exception):
    """The input was valid, but the work failed (exit code 1)."""

    exit_code = 1

    def __init__(self, text: str, code: str = "run.failed") -> None:
        self.code = code
        """Stable dotted name of the failure (`run.start_timeout`), as in UserError."""
        super().__init__(without_credentials(text))
