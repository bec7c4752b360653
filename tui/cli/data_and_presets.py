"""The subcommands before a run: `plan`, `data` and `presets`; their modules are imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.config.errors import UserError
from tui.cli import options
from tui.cli.arguments import App
from tui.cli.lookup import home

data_app = App(help="Check and preview data before training.", no_args_is_help=True)
presets_app = App(help="List, show and create presets.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    data: options.DataName,
    model: options.Model = None,
    preset: options.Preset = "demo-lora",
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Check a dataset: how each column and row is used, and warnings."""
    from tui.cli import data as verb

    raise typer.Exit(verb.check(preset, options.overrides(settings, model=model, data=data), json))


@data_app.command("show")
def data_show(
    data: options.DataName,
    model: options.Model = None,
    preset: options.Preset = "demo-lora",
    settings: options.Set = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Number of rows.")] = 3,
    split: Annotated[str, typer.Option("--split", help="Split: train, validation or test.")] = "train",
    json: options.Json = False,
) -> None:
    """Show rows token by token, with the tokens in the loss marked."""
    from tui.cli import data as verb

    raise typer.Exit(verb.show(preset, options.overrides(settings, model=model, data=data), rows, split, json))


@presets_app.command("list")
def presets_list(json: options.Json = False) -> None:
    """List presets; invalid ones with their error."""
    from tui.cli import presets as verb

    verb.show_list(json)


@presets_app.command("show")
def presets_show(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    method: options.Method = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Show the effective configuration and each value's origin."""
    from tui.cli import presets as verb

    verb.show(name, options.chosen_method(method), options.overrides(settings, method=method), json)


@presets_app.command("new")
def presets_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new preset.")],
    base: Annotated[str, typer.Option("--from", help="Preset to copy.")] = "demo-lora",
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Create your own preset from an existing one."""
    from tui.cli import presets as verb

    verb.new(name, base, options.overrides(settings), json)


@presets_app.command("import")
def presets_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of axolotl, LLaMA-Factory, TRL or PEFT.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the preset; unset: that of the file.")] = None,
    settings: options.Set = None,
    json: options.Json = False,
) -> None:
    """Create a preset from another tool's configuration; says what was taken, changed and left out."""
    from tui.cli import presets as verb

    verb.import_file(file, name, options.overrides(settings), json)


plan_app = App()


@plan_app.command()
def plan(
    preset: Annotated[str | None, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="Plan this method only.")] = None,
    gpu: Annotated[
        str | None, typer.Option("--gpu", metavar="NAME", help='Plan for a listed GPU: "A100 80GB".')
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=2, help="Tokens per row (default: the longest row of the data).")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", min=1, help="Micro-batch size.")] = None,
    model: options.Model = None,
    data: options.Data = None,
    device: options.Device = None,
    settings: options.Set = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use the formula only; takes milliseconds.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Compare predicted with measured peak memory of earlier runs.")
    ] = False,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> None:
    """Predict memory, time and cost of each method."""
    from tui.cli import plan as verb

    folder = home(runs, json=json)
    if history:
        raise typer.Exit(verb.show_history(folder, json))
    if preset is None:
        hint = "name a preset (`ftbench presets list`), or use --history"
        raise UserError("missing preset", "ftbench plan", hint, "cli.missing_preset")
    given = options.overrides(settings, model=model, data=data, method=method, micro_batch=micro_batch, device=device)
    only = options.chosen_method(method)
    raise typer.Exit(verb.plan(verb.PlanOptions(preset, only, given, gpu, length, quick, folder, json)))
