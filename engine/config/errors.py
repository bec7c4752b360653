"""Errors and warnings for the user, with stable codes, and the exit codes of errors."""

from __future__ import annotations

import errno
import json
import re
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


_SYSTEM_HINTS = {
    **dict.fromkeys((errno.EIO, errno.EUCLEAN, errno.ENODEV), "check the disk: `dmesg` may say what is wrong with it"),
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "free some space"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "check its owner and permissions"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP), "check the name"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "raise the limit of open files (`ulimit -n`), or end other programs"),
    **dict.fromkeys((errno.ENOMEM, errno.EAGAIN), "end other programs, or raise the limits of this one"),
    **dict.fromkeys((errno.ESTALE, errno.ETIMEDOUT, errno.EHOSTDOWN), "check the network file system"),
    errno.EROFS: "use a folder that can be written",
}
_INVALID_FIELD = re.compile(r"[Vv]alidation error for field '(\w+)'")


def system_hint(error: OSError) -> str:
    """What to do about an error of the system; "" for one that only a program can cause."""
    return _SYSTEM_HINTS.get(error.errno or 0, "")


def system_refusal(error: OSError, place: str = "the system") -> UserError:
    """What the system refused, with the file that the error names, else `place`."""
    hint = system_hint(error) or "check the path"
    return UserError(str(error.strerror or error), str(error.filename or place), hint, "system.refused")


def system_cause(error: BaseException | None) -> OSError | None:
    """What the system refused, where a library has wrapped it; None for other errors."""
    while error is not None and not (isinstance(error, OSError) and error.errno):
        error = error.__cause__
    return error


def reason_of(error: BaseException) -> str:
    """What an exception of Python or of a library means: one line, without its type, its file and what to do."""
    text = " ".join(without_credentials(str(error)).split())[:300]
    if (cause := system_cause(error)) and cause.strerror:
        return cause.strerror
    if match := _INVALID_FIELD.search(text):  # huggingface_hub's dataclasses
        return f"invalid value of {match.group(1)}"
    match error:
        case json.JSONDecodeError():
            return f"not JSON (line {error.lineno}, column {error.colno})"
        case UnicodeError():
            return "not UTF-8"
        case RecursionError():
            return "nested too deeply"
        case MemoryError():
            return "not enough memory"
        case KeyError():
            return f"missing or unknown: {text}"
        case ValueError() if "integer string conversion" in text:
            return "a number with too many digits"
        case TypeError() | AttributeError() | IndexError() | AssertionError():
            return "a value of the wrong type or size"
    return text or type(error).__name__


def import_failure(error: Exception) -> str:
    """Why the libraries cannot be imported, and what to do."""
    return f"cannot import the libraries: {reason_of(error)}; install ftbench again: a package is missing or damaged"


def error_text(error: BaseException, limit: int = 300) -> str:
    """`Type: text` of an unexpected error, on one line and without credentials."""
    text = " ".join(without_credentials(str(error)).split())[:limit]
    return f"{type(error).__name__}: {text}"


class Notice(msgspec.Struct, frozen=True):
    """A warning for the user."""

    code: str
    """Stable and dotted: `data.ignored_column`."""
    text: str
    """One sentence."""


class RunFailed(Exception):
    """The input was valid, but the work failed (exit code 1)."""

    exit_code = 1

    def __init__(self, text: str, code: str = "run.failed") -> None:
        self.code = code
        """Stable dotted name of the failure (`run.start_timeout`), as in UserError."""
        super().__init__(without_credentials(text))
