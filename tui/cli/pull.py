"""`pull`: download a model of the catalog or of the Hub."""

from __future__ import annotations

import difflib
from typing import Annotated, Any

import typer

from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.files import is_hub_id
from engine.config.quantities import count
from engine.runs.rpc_client import ask
from engine.runs.run.export_formats import kinds_with_tools
from tui.cli import completion, options
from tui.output.console import console, print_json, say, table

WIDE = 140
"""Columns of a terminal from which on everything is listed."""


def pull(
    name: Annotated[
        str | None,
        typer.Argument(
            help="Catalog model or Hub id (default: list the catalog).",
            autocompletion=completion.offers(lambda home: [*kinds_with_tools(), *CATALOG]),
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Download the model, or list the catalog where no name is given. Raises UserError for an unknown name.

    A model of the catalog is stored in the cache of ftbench, a Hub id (`owner/name`) in that of Hugging Face.
    """
    if name is None:
        _list_catalog(json)
        return
    if name not in (*kinds_with_tools(), *CATALOG) and not is_hub_id(name):
        close = difflib.get_close_matches(name, CATALOG, n=1)
        suggestion = f"did you mean {close[0]}? " if close else ""
        hint = f"{suggestion}`ftbench pull` lists the catalog; a Hub id is owner/name"
        raise UserError(f"unknown model {name!r}: catalog", hint=hint, code="model.not_in_catalog")
    answer: dict[str, Any] = ask("pull", {"name": name}, None if json else say)
    if json:
        print_json({"name": name, **answer})
        return
    source = f" ({answer['source']})" if "source" in answer else ""
    use = f"`ftbench export RUN --to {name}`" if name in kinds_with_tools() else f"--model {name}"
    say(f"downloaded to {answer['folder']}{source}; use {use}")


def _list_catalog(json: bool) -> None:
    """Print the catalog; a narrow terminal omits parameters and source."""
    downloaded = {name for name in CATALOG if (pulled_folder(name) / "config.json").exists()}
    if json:
        print_json(
            [
                {
                    "name": name,
                    "hub": entry.hub,
                    "parameters": round(entry.parameters * 1e6),
                    "license": entry.license,
                    "gated": entry.gated,
                    "about": entry.about,
                    "folder": str(pulled_folder(name)) if name in downloaded else None,
                }
                for name, entry in CATALOG.items()
            ]
        )
        return
    columns = ["name", "parameters", "license", "downloaded", "about", "source"]
    if console.is_terminal and console.width < WIDE:
        columns = [name for name in columns if name not in ("parameters", "source")]
    rows = [
        {
            "name": name,
            "parameters": count(entry.parameters * 1e6),
            "license": entry.terms,
            "downloaded": "yes" if name in downloaded else "no",
            "about": entry.about,
            "source": entry.hub,
        }
        for name, entry in CATALOG.items()
    ]
    table("", columns, [[row[name] for name in columns] for row in rows])
