"""The subcommands before a run: `plan`, `data` and `presets`; their modules are imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.config.errors import UserError
from tui.cli.arguments import App
from tui.cli.lookup import home
from tui.cli.options import (
    AsciiOption,
    DataArgument,
    DataOption,
    DeviceOption,
    JsonOption,
    MethodOption,
    ModelOption,
    PresetOption,
    RunsOption,
    SetOption,
    chosen_method,
    overrides,
)

data_app = App(help="Check and preview data before training.", no_args_is_help=True)
presets_app = App(help="List, show and create presets.", no_args_is_help=True)


@data_app.command("check")
def data_check(
    data: DataArgument,
    model: ModelOption = None,
    preset: PresetOption = "demo-lora",
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Check a dataset: how each column and row is used, and warnings."""
    from tui.cli import data as verb

    raise typer.Exit(verb.check(preset, overrides(settings, model=model, data=data), json))


@data_app.command("show")
def data_show(
    data: DataArgument,
    model: ModelOption = None,
    preset: PresetOption = "demo-lora",
    settings: SetOption = None,
    rows: Annotated[int, typer.Option("--rows", min=1, max=1000, help="Number of rows.")] = 3,
    split: Annotated[str, typer.Option("--split", help="Split: train, validation or test.")] = "train",
    json: JsonOption = False,
) -> None:
    """Show rows token by token, with the tokens in the loss marked."""
    from tui.cli import data as verb

    raise typer.Exit(verb.show(preset, overrides(settings, model=model, data=data), rows, split, json))


@presets_app.command("list")
def presets_list(json: JsonOption = False) -> None:
    """List presets; invalid ones with their error."""
    from tui.cli import presets as verb

    verb.show_list(json)


@presets_app.command("show")
def presets_show(
    name: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    method: MethodOption = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Show the effective configuration and each value's origin."""
    from tui.cli import presets as verb

    verb.show(name, chosen_method(method), overrides(settings, method=method), json)


@presets_app.command("new")
def presets_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name of the new preset.")],
    base: Annotated[str, typer.Option("--from", help="Preset to copy.")] = "demo-lora",
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Create your own preset from an existing one."""
    from tui.cli import presets as verb

    verb.new(name, base, overrides(settings), json)


@presets_app.command("import")
def presets_import(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Configuration of axolotl, LLaMA-Factory, TRL or PEFT.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the preset; unset: that of the file.")] = None,
    settings: SetOption = None,
    json: JsonOption = False,
) -> None:
    """Create a preset from another tool's configuration; says what was taken, changed and left out."""
    from tui.cli import presets as verb

    verb.import_file(file, name, overrides(settings), json)


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
    model: ModelOption = None,
    data: DataOption = None,
    device: DeviceOption = None,
    settings: SetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="Use the formula only; takes milliseconds.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Compare predicted with measured peak memory of earlier runs.")
    ] = False,
    runs: RunsOption = None,
    ascii_only: AsciiOption = False,
    json: JsonOption = False,
) -> None:
    """Predict memory, time and cost of each method."""
    from tui.cli import plan as verb

    folder = home(runs, json=json)
    if history:
        raise typer.Exit(verb.show_history(folder, json))
    if preset is None:
        hint = "name a preset (`ftbench presets list`), or use --history"
        raise UserError("missing preset", "ftbench plan", hint, "cli.missing_preset")
    given = overrides(settings, model=model, data=data, method=method, micro_batch=micro_batch, device=device)
    options = verb.PlanOptions(preset, chosen_method(method), given, gpu, length, quick, folder, json)
    raise typer.Exit(verb.plan(options))
