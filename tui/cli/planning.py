"""The subcommand `plan`; its module is imported when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.config.errors import UserError
from tui.cli.arguments import App
from tui.cli.home_notes import home
from tui.cli.options import (
    AsciiOption,
    DataOption,
    DeviceOption,
    JsonOption,
    ModelOption,
    RunsOption,
    SetOption,
    chosen_method,
    overrides,
)

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
    options = verb.PlanOptions(preset, chosen_method(method), given, gpu, length, quick, folder, ascii_only, json)
    raise typer.Exit(verb.plan(options))
