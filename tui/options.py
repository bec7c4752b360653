"""Options that several verbs share, and what becomes of them."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine.contract.preset import Flat, parse_overrides
from engine.contract.schema import METHODS, Method


class MethodName(StrEnum):
    """The three methods."""

    qlora = "qlora"
    lora = "lora"
    full = "full"


RunsOption = Annotated[Path | None, typer.Option("--runs", help="Folder of runs (else $FTBENCH_RUNS, else ./runs).")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the preset.")]
MethodOption = Annotated[MethodName | None, typer.Option("--method", help="Train by this method.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Name, folder, .gguf file or Hub id.")]
DataOption = Annotated[str | None, typer.Option("--data", help="Name, file, folder or Hub id.")]
NowOption = Annotated[bool, typer.Option("--now", help="Begin although another run has the card.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Start it and leave.")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=20, help="Runs of every rung, a seed each.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run everything again, whatever has been run already.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A name of a run or ladder, part of it, its path, or 'last'.")
]


def chosen_method(name: MethodName | None) -> Method | None:
    """The option as the schema's method."""
    return next((method for method in METHODS if name and method == name.value), None)


def overrides(settings: list[str] | None, model: str | None, data: str | None) -> Flat:
    """The command line as keys of the preset."""
    values = parse_overrides(settings or [])
    if model is not None:
        values["model.id"] = model
    if data is not None:
        values["data.id"] = data
    return values
