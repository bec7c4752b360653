"""Commands and options that earlier versions had: each answers with what to do instead."""

from __future__ import annotations

from collections.abc import Sequence

from engine.config.errors import UserError

GONE = {
    ("doctor", "--bundle"): "send the output of `ftbench doctor --json` and the engine.log of the run",
}
"""(subcommand, option, or '' for the subcommand itself) -> what to do instead."""


def refuse_gone(words: Sequence[str]) -> None:
    """Raise UserError if a command line, without the program's name, uses one."""
    options = {word.partition("=")[0] for word in words}
    for (command, option), instead in GONE.items():
        if command in words[:2] and (not option or option in options):
            name = " ".join(filter(None, (command, option)))
            raise UserError(f"`ftbench {name}` no longer exists", hint=instead, code="cli.gone")
