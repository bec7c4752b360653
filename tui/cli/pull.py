"""`pull`: download a model of the catalog."""

from __future__ import annotations

import difflib

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.quantities import count
from engine.runs.exports import GGUF_TOOLS
from engine.runs.rpc_client import ask
from tui.output.console import say, table


def pull(name: str | None) -> None:
    """Download the model, or list the catalog where no name is given. Raises UserError for an unknown name."""
    if name is None:
        table("", ("name", "parameters", "license", "source", "downloaded", "about"), [_cells(key) for key in CATALOG])
        return
    if name == GGUF_TOOLS:
        say(f"downloaded to {ask('pull', {'name': name}, say)['folder']}; use `ftbench export RUN --to gguf`")
        return
    if name not in CATALOG:
        close = difflib.get_close_matches(name, CATALOG, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        do = f"{hint}`ftbench pull` lists the catalog"
        raise UserError(f"unknown model {name!r}: catalog", do=do, code="model.not_in_catalog")
    answer = ask("pull", {"name": name}, say)
    say(f"downloaded to {answer['folder']} ({answer['source']}); use --model {name}")


def _cells(name: str) -> list[str]:
    entry = CATALOG[name]
    downloaded = "yes" if (pulled_folder(name) / "config.json").exists() else "no"
    return [name, count(entry.parameters * 1e6), entry.license, entry.hub, downloaded, entry.about]
