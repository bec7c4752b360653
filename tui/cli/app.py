"""The `ftbench` command and its subcommands."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.exceptions import TyperException
from typer.main import get_command

from engine.config.errors import UserError
from engine.runs import ladder_dir, run_dir
from engine.runs.folder import has_file
from engine.runs.home import runs_home
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir
from tui.cli.arguments import App
from tui.cli.home_notes import home, show_origin
from tui.cli.options import (
    AdoptOption,
    AsciiOption,
    DataOption,
    DetachOption,
    FreshOption,
    JsonOption,
    MethodOption,
    ModelOption,
    MouseOption,
    NowOption,
    RunArgument,
    RunsOption,
    SeedsOption,
    SetOption,
    VersionOption,
    chosen_method,
    overrides,
)
from tui.cli.subcommands import data_app, presets_app
from tui.output import streams

app = App(
    name="ftbench",
    help="Measure what QLoRA, LoRA and full fine-tuning keep and cost, on your model, your data and your GPU.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(data_app, name="data")
app.add_typer(presets_app, name="presets")


@app.command()
def demo(
    runs: RunsOption = None,
    seeds: SeedsOption = 3,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, half the training and test rows.")] = False,
    fresh: FreshOption = False,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """The main job on the embedded model and data, with the verdict."""
    from tui.cli import demo as verb

    raise typer.Exit(verb.demo(home(runs, launch=True), seeds, quick, fresh, detach, json))


@app.command()
def ladder(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="A preset's name or file.")],
    rungs: Annotated[
        list[str] | None,
        typer.Option("--rung", metavar="RUNG", help="lora, or wide=lora,adapter.rank=64; else all three methods."),
    ] = None,
    seeds: SeedsOption = 1,
    learning_rates: Annotated[
        int, typer.Option("--learning-rates", min=1, max=9, help="Rates tried for each rung on the validation rows.")
    ] = 1,
    model: ModelOption = None,
    data: DataOption = None,
    settings: SetOption = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Measure a few steps of every rung first.")] = True,
    fresh: FreshOption = False,
    runs: RunsOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Base, QLoRA, LoRA, full on the same work: what each keeps, costs."""
    from engine.runs.ladder_plan import make_plan
    from tui.cli import ladder as verb

    given = overrides(settings, model=model, data=data)
    words = verb.rung_words(rungs)
    plan = make_plan(preset, words, given, seeds, learning_rates, probe, fresh, shlex.join(["ftbench", *sys.argv[1:]]))
    raise typer.Exit(verb.start(plan, home(runs, launch=True), detach, json))


@app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="LADDER", help="A ladder's name, part of it, its path, or 'last'.")],
    runs: RunsOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the Markdown.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a ladder's page and its Markdown, and say where they are."""
    from tui.cli import ladder as verb

    found = ladder_dir.find(home(runs), name)
    show_origin(found, quiet=json or markdown)
    raise typer.Exit(verb.report(found, json, markdown))


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
    """Train once, scored before and after; Ctrl+C asks: leave or stop."""
    from tui.cli import run as verb

    given = overrides(settings, model=model, data=data, method=method)
    raise typer.Exit(verb.run(preset, chosen_method(method), given, home(runs, launch=True), now, detach, json))


@app.command()
def attach(name: RunArgument = "last", runs: RunsOption = None, json: JsonOption = False) -> None:
    """Show a run or ladder from its start; follow it while it lives."""
    from tui.cli import ladder, run

    found = run_or_ladder(runs, name)
    show_origin(found, quiet=json)
    raise typer.Exit(ladder.watch(found, json) if isinstance(found, LadderDir) else run.attach(found, json))


@app.command()
def stop(name: RunArgument = "last", runs: RunsOption = None) -> None:
    """Finish the step, write a checkpoint, end; a ladder with its run."""
    from tui.cli import run as verb

    found = run_or_ladder(runs, name)
    show_origin(found)
    raise typer.Exit(verb.stop(found))


@app.command()
def resume(
    name: RunArgument = "last",
    runs: RunsOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Go on from the newest whole checkpoint, or with a ladder's rest."""
    from tui.cli import ladder, run

    found = run_or_ladder(runs, name)
    show_origin(found, quiet=json)
    if isinstance(found, LadderDir):
        raise typer.Exit(ladder.resume(found, detach, json))
    raise typer.Exit(run.resume(found, detach, json))


@app.command("runs")
def list_runs(runs: RunsOption = None, adopt: AdoptOption = None, json: JsonOption = False) -> None:
    """List past and live runs and ladders, or adopt those of a directory."""
    from tui.cli import runs as verb

    if adopt is not None:
        raise typer.Exit(verb.adopt_runs(adopt, runs_home(runs), json))
    verb.show(home(runs), json)


@app.command()
def plan(
    preset: Annotated[str | None, typer.Argument(metavar="PRESET", help="A preset's name or file.")] = None,
    method: Annotated[str | None, typer.Option("--method", help="This method alone.")] = None,
    card: Annotated[str | None, typer.Option("--card", metavar="NAME", help='A listed card: "A100 80GB".')] = None,
    length: Annotated[
        int | None, typer.Option("--length", min=2, help="Tokens of a row; else the data's longest.")
    ] = None,
    micro_batch: Annotated[int | None, typer.Option("--micro-batch", min=1, help="Rows of a forward pass.")] = None,
    model: ModelOption = None,
    data: DataOption = None,
    settings: SetOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="The formula alone, in milliseconds.")] = False,
    history: Annotated[
        bool, typer.Option("--history", help="Predicted against measured peaks of earlier runs.")
    ] = False,
    runs: RunsOption = None,
    ascii_only: AsciiOption = False,
    json: JsonOption = False,
) -> None:
    """Memory, time and cost of the three methods, before a run starts."""
    from tui.cli import plan as verb

    folder = home(runs)
    if history:
        raise typer.Exit(verb.show_history(folder, json))
    if preset is None:
        raise UserError("which preset?", "plan", "`ftbench presets list` shows them; --history needs none")
    given = overrides(settings, model=model, data=data, method=method, micro_batch=micro_batch)
    wish = verb.Wish(preset, chosen_method(method), given, card, length, quick, folder, ascii_only, json)
    raise typer.Exit(verb.plan(wish))


@app.command()
def pull(
    name: Annotated[str | None, typer.Argument(help="A model of the catalogue; none lists it.")] = None,
) -> None:
    """Bring a catalogued model to this machine."""
    from tui.cli import pull as verb

    verb.pull(name)


@app.command()
def doctor(
    runs: RunsOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what processes that died left behind, and list it.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """GPU, driver, libraries, disk: what will and won't work here."""
    from tui.cli import doctor as verb

    folder = home(runs)
    raise typer.Exit(verb.repair(folder, json) if repair else verb.doctor(folder, json))


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: VersionOption = False,
    runs: RunsOption = None,
    ascii_only: AsciiOption = False,
    mouse: MouseOption = True,
) -> None:
    if context.invoked_subcommand is not None:
        return
    if not streams.is_terminal():
        streams.write(f"{context.get_help()}\n")
        raise typer.Exit()
    from tui.cli import bench

    raise typer.Exit(bench.open_bench(runs_home(runs), ascii_only, mouse, hints=runs is None))


def run_or_ladder(runs: Path | None, name: str) -> RunDir | LadderDir:
    """Find a run by name, else a ladder by name or path; `last` is the latest run, else the latest ladder."""
    folder = home(runs)
    if has_file(Path(name), "ladder.toml"):
        return ladder_dir.find(folder, name)
    matches_run = any(name in run.name or name == "last" for run in run_dir.iterate(folder))
    matches_ladder = any(name in ladder.name or name == "last" for ladder in ladder_dir.iterate(folder))
    find = ladder_dir.find if matches_ladder and not matches_run else run_dir.find
    return find(folder, name)


def verbs() -> None:
    """The verb that the command line names.

    Raises UserError for a command line that typer refuses; its own edge is gone around, because it tells an error in
    four lines and takes a reader that has gone (`| head`) for a failure.
    """
    command = get_command(app)
    try:
        with command.make_context("ftbench", sys.argv[1:]) as context:
            command.invoke(context)
    except typer.Exit as done:
        sys.exit(done.exit_code)
    except TyperException as error:
        at = getattr(error, "ctx", None)
        said = " ".join(error.format_message().split())
        if at and said == " ".join(at.get_help().split()):  # a group of verbs without one: its help is the answer
            streams.write_help(at.get_help())
            sys.exit(2)
        path = at.command_path if at else " ".join(["ftbench", *sys.argv[1:2]])
        raise UserError(said.rstrip("."), do=f"`{path} --help` tells more") from error
