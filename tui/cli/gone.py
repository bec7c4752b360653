"""Commands and options that earlier versions had: each answers with what to do instead."""

from __future__ import annotations

from collections.abc import Iterable

from engine.config.errors import UserError

GONE = {
    "ftbench completion": "`ftbench --install-completion` installs it, `ftbench --show-completion` prints it",
    "ftbench doctor --bundle": "send the output of `ftbench doctor --json` and the engine.log of the run",
}
"""Command, or command and option -> what to do instead."""


def refuse_gone(command: str, words: Iterable[str]) -> None:
    """Raise UserError if one of the words of an invalid command line is a former subcommand or option of `command`."""
    for word in words:
        if instead := GONE.get(name := f"{command} {word.partition('=')[0]}"):
            raise UserError(f"`{name}` no longer exists", hint=instead, code="cli.gone")
