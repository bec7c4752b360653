"""`pull`: a catalogued model to this machine."""

from __future__ import annotations

import difflib

from engine.config.catalog import CATALOGUE, pulled_folder
from engine.config.errors import UserError
from engine.runs.rpc_client import ask
from tui.output.console import say, table


def pull(name: str | None) -> None:
    """List the catalogue, or fetch one of it."""
    if name is None:
        table("", ("name", "parameters", "licence", "source", "here", "about"), [_cells(key) for key in CATALOGUE])
        return
    if name not in CATALOGUE:
        close = difflib.get_close_matches(name, CATALOGUE, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise UserError(f"no model {name!r} in the catalogue", do=f"{hint}`ftbench pull` lists it")
    answer = ask("pull", {"name": name}, say)
    say(f"{answer['folder']} ({answer['source']}); use it as --model {name}")


def _cells(name: str) -> list[str]:
    entry = CATALOGUE[name]
    here = "yes" if (pulled_folder(name) / "config.json").exists() else "no"
    return [name, f"{entry.parameters} M", entry.licence, entry.hub, here, entry.about]
