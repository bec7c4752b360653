"""All subcommands of `ftbench`, read from the app, so that a table of test cases that lacks a new one fails."""

from __future__ import annotations

from typer.main import get_command

from tui.cli.main import app


def subcommands() -> list[str]:
    """`run`, `data check`, … in the order of the help."""
    return list(_below(get_command(app), ""))


def _below(command: object, prefix: str) -> list[str]:
    inner = getattr(command, "commands", None)
    if inner is None:
        return [prefix.strip()]
    return [name for key, subcommand in inner.items() for name in _below(subcommand, f"{prefix} {key}")]
