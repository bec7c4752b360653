"""The `ftbench` command: its verbs, and the one place where errors become lines and exit codes."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from engine import __version__
from engine.contract import rundir
from engine.contract.errors import RunFailed, UserError
from engine.contract.preset import Flat, parse_overrides
from engine.contract.schema import METHODS, Method
from engine.contract.text import visible

app = typer.Typer(
    name="ftbench",
    help="Measure what QLoRA, LoRA and full fine-tuning keep and cost, on your model, your data and your card.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
presets_app = typer.Typer(help="List, show and make presets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")


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
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, part of it, its path, or 'last'.")]


@app.command()
def demo(runs: RunsOption = None, json: JsonOption = False) -> None:
    """The main job on the embedded model and data: QLoRA, LoRA and full, and what each achieved."""
    from tui.verbs import demo as verb

    raise typer.Exit(verb.demo(rundir.runs_folder(runs), json))


@app.command()
def run(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name or file.")],
    method: MethodOption = None,
    model: ModelOption = None,
    data: DataOption = None,
    settings: SetOption = None,
    runs: RunsOption = None,
    detach: DetachOption = False,
    now: NowOption = False,
    json: JsonOption = False,
) -> None:
    """Train once, scored before and after; Ctrl+C asks whether to detach or stop."""
    from tui.verbs import run as verb

    chosen = chosen_method(method)
    raise typer.Exit(
        verb.run(preset, chosen, overrides(settings, model, data), rundir.runs_folder(runs), now, detach, json)
    )


@app.command()
def attach(name: RunArgument = "last", runs: RunsOption = None, json: JsonOption = False) -> None:
    """Show a run from its start, and follow it while it lives."""
    from tui.verbs import run as verb

    raise typer.Exit(verb.attach(rundir.find(rundir.runs_folder(runs), name), json))


@app.command()
def stop(name: RunArgument = "last", runs: RunsOption = None) -> None:
    """Finish the step, write a checkpoint, end."""
    from tui.verbs import run as verb

    raise typer.Exit(verb.stop(rundir.find(rundir.runs_folder(runs), name)))


@app.command()
def resume(
    name: RunArgument = "last",
    runs: RunsOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Go on from the newest whole checkpoint."""
    from tui.verbs import run as verb

    raise typer.Exit(verb.resume(rundir.find(rundir.runs_folder(runs), name), detach, json))


@app.command("runs")
def list_runs(runs: RunsOption = None, json: JsonOption = False) -> None:
    """Past and live runs."""
    from tui.verbs import runs as verb

    verb.show(rundir.runs_folder(runs), json)


@data_app.command("check")
def data_check(
    data: Annotated[str, typer.Argument(help="Name, file, folder or Hub id.")],
    model: ModelOption = None,
    preset: Annotated[str, typer.Option("--preset", help="Whose data and length settings to use.")] = "demo-lora",
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Format, rows, lengths, truncation and problems, with line numbers."""
    from tui.verbs import data as verb

    raise typer.Exit(verb.check(preset, overrides(settings, model, data), json))


@data_app.command("show")
def data_show(
    data: Annotated[str, typer.Argument(help="Name, file, folder or Hub id.")],
    model: ModelOption = None,
    preset: Annotated[str, typer.Option("--preset", help="Whose data and length settings to use.")] = "demo-lora",
    settings: SetOption = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="How many samples.")] = 3,
    split: Annotated[str, typer.Option("--split", help="train, validation or test.")] = "train",
    json: JsonOption = False,
) -> None:
    """Samples token by token, with what is trained marked."""
    from tui.verbs import data as verb

    raise typer.Exit(verb.show(preset, overrides(settings, model, data), rows, split, json))


@presets_app.command("list")
def presets_list(json: JsonOption = False) -> None:
    """Every preset; a broken one with its error."""
    from tui.verbs import presets as verb

    verb.show_list(json)


@presets_app.command("show")
def presets_show(name: str, method: MethodOption = None, settings: SetOption = None, json: JsonOption = False) -> None:
    """The whole effective configuration, each value with where it comes from."""
    from tui.verbs import presets as verb

    verb.show(name, chosen_method(method), parse_overrides(settings or []), json)


@presets_app.command("new")
def presets_new(
    name: str,
    base: Annotated[str, typer.Option("--from", help="The preset to begin with.")] = "demo-lora",
    settings: SetOption = None,
) -> None:
    """A preset of your own, made from another."""
    from tui.verbs import presets as verb

    verb.new(name, base, parse_overrides(settings or []))


@app.command()
def pull(
    name: Annotated[str | None, typer.Argument(help="A model of the catalogue; none lists it.")] = None,
) -> None:
    """Bring a catalogued model to this machine."""
    from tui.verbs import pull as verb

    verb.pull(name)


@app.command()
def doctor(runs: RunsOption = None, json: JsonOption = False) -> None:
    """GPU, driver, libraries, disk: what will and what won't work here."""
    from tui.verbs import doctor as verb

    raise typer.Exit(verb.doctor(rundir.runs_folder(runs), json))


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    if version:
        print(f"ftbench {__version__}")
        raise typer.Exit()


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


def main() -> None:
    """Run the command; every error of ours is one line on stderr and an exit code."""
    try:
        app()
    except (UserError, RunFailed) as error:
        line = error.line if isinstance(error, UserError) else visible(str(error))
        print(f"ftbench: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error. Nothing more may be flushed into the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
