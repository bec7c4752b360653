"""The verbs below `ftbench data` and `ftbench presets`: look before training."""

from __future__ import annotations

from typing import Annotated

import typer

from engine.contract.preset import parse_overrides
from tui.options import JsonOption, MethodOption, ModelOption, SetOption, chosen_method, overrides

data_app = typer.Typer(help="Look at data before training on it.", no_args_is_help=True)
presets_app = typer.Typer(help="List, show and make presets.", no_args_is_help=True)


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
    """The whole effective configuration, each value with its origin."""
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
