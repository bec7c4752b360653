"""The errors a person can act on, and the exit codes they become."""

from __future__ import annotations

import msgspec

from engine.config.text import visible


class UserError(Exception):
    """Something the user gave us is wrong: one line that says what, where and what to do (exit code 2)."""

    exit_code = 2

    def __init__(self, what: str, where: str = "", do: str = "", code: str = "") -> None:
        self.what, self.where, self.do = what, where, do
        self.code = code
        """Stable dotted name of the problem (`data.duplicate_column`), for programs and tests."""
        super().__init__(self.line)

    @property
    def line(self) -> str:
        """`where: what; do`, on one line with control characters made visible."""
        head = f"{self.where}: {self.what}" if self.where else self.what
        return visible(f"{head}; {self.do}" if self.do else head, limit=600)


class Notice(msgspec.Struct, frozen=True):
    """A warning for the user: `code` is stable and dotted (`data.ignored_column`), `text` one sentence."""

    code: str
    text: str


class RunFailed(Exception):
    """The input was fine and the work failed (exit code 1)."""

    exit_code = 1
