"""Options that several subcommands share, and the settings that they stand for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from engine import __version__
from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.preset import Flat, parse_overrides
from tui.output import streams


def _version(wanted: bool) -> None:
    if wanted:
        streams.write(f"ftbench {__version__}\n")
        raise typer.Exit()


def _ascii_output(wanted: bool) -> bool:
    """Print nothing but ASCII, whatever the terminal can show."""
    if wanted:
        streams.use_ascii()
    return wanted


RunsOption = Annotated[
    Path | None, typer.Option("--runs", metavar="DIR", help="Directory of runs for this command; else the runs home.")
]
AdoptOption = Annotated[
    Path | None, typer.Option("--adopt", metavar="DIR", help="Move the runs and ladders of DIR into the runs home.")
]
AsciiOption = Annotated[bool, typer.Option("--ascii", callback=_ascii_output, help="Print ASCII characters only.")]
MouseOption = Annotated[bool, typer.Option("--mouse/--no-mouse", help="Use the mouse in the workbench.")]
VersionOption = Annotated[
    bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
]
PresetOption = Annotated[str, typer.Option("--preset", help="Preset whose model, data and length settings apply.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Set any key of the preset.")]
MethodOption = Annotated[str | None, typer.Option("--method", metavar="METHOD", help="qlora, lora or full.")]
ModelOption = Annotated[str | None, typer.Option("--model", help="Name, folder, .gguf file or Hub id.")]
DataOption = Annotated[str | None, typer.Option("--data", help="Name, file, folder or Hub id.")]
DataArgument = Annotated[str, typer.Argument(metavar="DATA", help="Name, file, folder or Hub id.")]
NowOption = Annotated[bool, typer.Option("--now", help="Start immediately, even if the GPU is busy.")]
DetachOption = Annotated[bool, typer.Option("--detach", help="Start it and return at once.")]
SeedsOption = Annotated[int, typer.Option("--seeds", min=1, max=20, help="Seeds, and so runs, of every rung.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Run everything again; reuse no earlier run.")]
RunArgument = Annotated[
    str, typer.Argument(metavar="RUN", help="A name of a run or ladder, part of it, its path, or 'last'.")
]


def chosen_method(name: str | None) -> str | None:
    """The value of --method. Raises UserError for an unknown method."""
    return None if name is None else method_spec(name).name


STANDS_FOR = {"--model": "model.id", "--data": "data.id", "--method": "method", "--micro-batch": "train.micro_batch"}
"""Option -> the key that it sets."""


def overrides(settings: list[str] | None, **options: Any) -> Flat:
    """The command line as keys of the preset; `options` are those of STANDS_FOR, None where not given.

    Raises UserError where an option and --set give one key different values.
    """
    values = parse_overrides(settings or [])
    for option, key in STANDS_FOR.items():
        value = options.get(option.removeprefix("--").replace("-", "_"))
        if value is None:
            continue
        if key in values and values[key] != value:
            what = f"different values for {key}: {option} {value} and --set {key}={values[key]}"
            raise UserError(what, do="keep one of them", code="cli.conflicting_values")
        if key != "method":  # the method is an argument of its own, because it decides which settings are read
            values[key] = value
    return values
