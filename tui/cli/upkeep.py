"""The subcommands that look after models, machine and disk; their modules are imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.config.errors import UserError
from tui.cli import options
from tui.cli.arguments import App
from tui.cli.lookup import home, run_or_ladder, show_origin

upkeep_app = App()


@upkeep_app.command()
def pull(
    name: Annotated[str | None, typer.Argument(help="Catalog model or Hub id (default: list the catalog).")] = None,
    json: options.Json = False,
) -> None:
    """Download a model of the catalog or of the Hub."""
    from tui.cli import pull as verb

    verb.pull(name, json)


@upkeep_app.command()
def track(
    name: options.Run = "last",
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="TRACKER", help="trackio, tensorboard or wandb; repeatable (default: track.to)."),
    ] = None,
    project: Annotated[str | None, typer.Option("--project", help="Project (default: track.project).")] = None,
    online: Annotated[
        bool | None, typer.Option("--online/--offline", help="Let the tracker use the network (default: track.online).")
    ] = None,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Log a run, or a ladder's runs, to experiment trackers."""
    from tui.cli import track as verb

    folder = run_or_ladder(runs, name, json)
    show_origin(folder, quiet=json)
    raise typer.Exit(verb.track(folder, to or [], project, online, json))


@upkeep_app.command()
def completion(
    context: typer.Context,
    shell: Annotated[str, typer.Argument(metavar="SHELL", help="bash or zsh.")],
    line: Annotated[str | None, typer.Option("--line", hidden=True)] = None,  # for the script: the typed line
    json: options.Json = False,
) -> None:
    """Print the completion script of bash or zsh."""
    from tui.cli import completion as verb

    verb.completion(shell, line, context.find_root().command)


@upkeep_app.command()
def schema(
    name: Annotated[str, typer.Argument(metavar="FILE", help="events, result, ladder or plan.")],
    json: options.Json = False,
) -> None:
    """Print the JSON Schema of events, results, ladders or plans."""
    from tui.cli import schema as verb

    verb.show(name)


@upkeep_app.command()
def doctor(
    runs: options.Runs = None,
    repair: Annotated[bool, typer.Option("--repair", help="Remove files left by killed processes.")] = False,
    bundle: Annotated[
        bool, typer.Option("--bundle", help="Write an archive for a bug report, without secrets.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FILE", help="With --bundle: the archive (default: in this directory)."),
    ] = None,
    train: Annotated[
        bool,
        typer.Option("--train", help="Train each method for a few steps; check speed, memory, loss and decoding."),
    ] = False,
    device: options.Device = None,
    json: options.Json = False,
) -> None:
    """Check machine, libraries, disk, and a step of each method."""
    wanted = {"--repair": repair, "--bundle": bundle, "--train": train}
    if len(given := [name for name, is_given in wanted.items() if is_given]) > 1:
        problem = " with ".join(given)
        raise UserError(problem, "ftbench doctor", "use one of them at a time", "cli.conflicting_values")
    if out is not None and not bundle:
        raise UserError("--out without --bundle", "ftbench doctor", "add --bundle", "cli.conflicting_values")
    if device is not None and not train:
        raise UserError("--device without --train", "ftbench doctor", "add --train", "cli.conflicting_values")
    if train:
        from tui.cli.training_check import training_check

        raise typer.Exit(training_check(device, json))
    folder = home(runs, json=json)
    if bundle:
        from tui.cli.bundle import bundle as write_bundle

        raise typer.Exit(write_bundle(folder, out, json))
    from tui.cli import doctor as verb

    raise typer.Exit(verb.repair(folder, json) if repair else verb.doctor(folder, json))


@upkeep_app.command()
def clean(
    what: Annotated[
        list[str] | None,
        typer.Argument(metavar="WHAT...", help="checkpoints, exports, runs, ladders, prepared, models or tools."),
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--run", metavar="NAME", help="Only this run, ladder or cache entry; repeatable."),
    ] = None,
    older_than: Annotated[
        float | None, typer.Option("--older-than", metavar="DAYS", min=0, help="Only what has not changed for DAYS.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Remove without confirmation.")] = False,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Show what takes disk space, and remove what is named."""
    from tui.cli import clean as verb

    raise typer.Exit(verb.clean(home(runs, json=json), what or [], names or [], older_than, yes, json))


@upkeep_app.command()
def queue(json: options.Json = False) -> None:
    """Show who uses each device and who waits, since when."""
    from tui.cli import monitor as verb

    verb.show_queue(json)


@upkeep_app.command()
def monitor(ascii_only: options.Ascii = False, json: options.Json = False) -> None:
    """Show GPUs, memory and the queue, as they change."""
    from tui.cli import monitor as verb

    raise typer.Exit(verb.monitor(json))


@upkeep_app.command("home")
def show_or_move_home(
    directory: Annotated[
        Path | None, typer.Argument(metavar="[DIR]", help="Move runs, models and caches there (default: show them).")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show where runs and caches are, or move them to another disk."""
    from tui.cli import home as verb

    if directory is None:
        verb.show(json)
    else:
        verb.move(directory, json)
