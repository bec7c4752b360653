"""`pull`: download a model of the catalog or of the Hub."""

from __future__ import annotations

import difflib
from typing import Any

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.files import is_hub_id
from engine.config.quantities import count
from engine.runs.rpc_client import ask
from engine.runs.run.exports import GGUF_TOOLS
from tui.output.console import console, print_json, say, table

WIDE = 140
"""Columns of a terminal from which on everything is listed."""


def pull(name: str | None, json: bool) -> None:
    """Download the model, or list the catalog where no name is given. Raises UserError for an unknown name.

    A model of the catalog is stored in the cache of ftbench, a Hub id (`owner/name`) in that of Hugging Face.
    """
    report = _silent if json else say
    if name is None and json:
        print_json([_entry(key) for key in CATALOG])
        return
    if name is None:
        _list()
        return
    if name == GGUF_TOOLS:
        _say_done(name, ask("pull", {"name": name}, report), "`ftbench export RUN --to gguf`", json)
        return
    if name not in CATALOG and not is_hub_id(name):
        close = difflib.get_close_matches(name, CATALOG, n=1)
        suggestion = f"did you mean {close[0]}? " if close else ""
        hint = f"{suggestion}`ftbench pull` lists the catalog; a Hub id is owner/name"
        raise UserError(f"unknown model {name!r}: catalog", hint=hint, code="model.not_in_catalog")
    _say_done(name, ask("pull", {"name": name}, report), f"--model {name}", json)


def _list() -> None:
    """Print the catalog; a narrow terminal omits parameters and source."""
    columns = ["name", "parameters", "license", "downloaded", "about", "source"]
    if console.is_terminal and console.width < WIDE:
        columns = [name for name in columns if name not in ("parameters", "source")]
    table("", columns, [[_cells(key)[name] for name in columns] for key in CATALOG])


def _say_done(name: str, answer: dict[str, Any], use: str, json: bool) -> None:
    if json:
        print_json({"name": name, **answer})
        return
    source = f" ({answer['source']})" if "source" in answer else ""
    say(f"downloaded to {answer['folder']}{source}; use {use}")


def _silent(text: str) -> None:
    """With --json, stdout has the result alone."""


def _entry(name: str) -> dict[str, Any]:
    """A model of the catalog for --json; `parameters` is their number."""
    entry = CATALOG[name]
    return {
        "name": name,
        "hub": entry.hub,
        "parameters": round(entry.parameters * 1e6),
        "license": entry.license,
        "gated": entry.gated,
        "about": entry.about,
        "folder": str(pulled_folder(name)) if _is_downloaded(name) else None,
    }


def _cells(name: str) -> dict[str, str]:
    entry = CATALOG[name]
    return {
        "name": name,
        "parameters": count(entry.parameters * 1e6),
        "license": entry.terms,
        "downloaded": "yes" if _is_downloaded(name) else "no",
        "about": entry.about,
        "source": entry.hub,
    }


def _is_downloaded(name: str) -> bool:
    return (pulled_folder(name) / "config.json").exists()
