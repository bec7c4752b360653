"""The subcommands that compare methods; their modules are imported when they are called."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from engine.config.errors import UserError
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.runs.home import runs_home
from tui.cli import options
from tui.cli.arguments import App
from tui.cli.lookup import home, ladder_or_sweep, show_origin
from tui.output import streams

comparing_app = App()


@comparing_app.command()
def demo(
    runs: options.Runs = None,
    seeds: options.DemoSeeds = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, half the training steps and test rows.")] = False,
    fresh: options.Fresh = False,
    device: options.Devices = None,
    share: options.Share = None,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> None:
    """Run the default ladder on the embedded model and data."""
    from tui.cli import demo as verb

    job = options.overrides(
        None, device=options.shared_device(device, share), executor=executor, partition=partition, time=time, gres=gres
    )
    raise typer.Exit(verb.demo(home(runs, launch=True, json=json), seeds, quick, fresh, detach, json, job))


@comparing_app.command()
def ladder(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            "--rung",
            metavar="RUNG",
            help="Method, NAME=METHOD,KEY=VALUE or http://HOST/v1#MODEL; repeatable (default: all methods).",
        ),
    ] = None,
    seeds: options.Seeds = 1,
    learning_rates: Annotated[
        int,
        typer.Option("--learning-rates", min=1, max=9, help="Learning rates to try per rung on validation rows."),
    ] = 1,
    until_decided: Annotated[
        bool,
        typer.Option("--until-decided", help="Run further seeds only for rungs with an open question; 2 seeds first."),
    ] = False,
    max_seeds: Annotated[
        int | None, typer.Option("--max-seeds", min=2, max=20, help="With --until-decided: seeds at most (default: 8).")
    ] = None,
    margin: options.Margin = DEFAULT_MARGIN / POINT,
    ship: Annotated[
        list[str] | None,
        typer.Option("--ship", metavar="ARTIFACT", help="Export, score and compare: merged, q8_0, q4_k_m, adapter …"),
    ] = None,
    model: options.Model = None,
    data: options.Data = None,
    settings: options.Set = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Run a timing probe of every rung first.")] = True,
    base_shots: options.Shots = None,
    price: Annotated[
        list[str] | None,
        typer.Option(
            "--price", metavar="[NAME=]IN,OUT", help="Price of served rungs per million tokens, of prompts and answers."
        ),
    ] = None,
    vary: options.Vary = None,
    budget: options.Budget = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the expected hours and power by number of seeds; start nothing.")
    ] = False,
    fresh: options.Fresh = False,
    retime: options.Retime = False,
    device: options.Devices = None,
    share: options.Share = None,
    executor: options.Executor = None,
    partition: options.Partition = None,
    time: options.Time = None,
    gres: options.Gres = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> None:
    """Compare methods on the same model and data: quality and cost."""
    from engine.runs.ladder.ladder_plan import make_plan
    from tui.cli import ladder as verb

    where = options.shared_device(device, share)
    job = {"executor": executor, "partition": partition, "time": time, "gres": gres}
    given = options.overrides(settings, model=model, data=data, device=where, **job)
    words = verb.rung_words(rungs)
    command, artifacts = shlex.join(["ftbench", *sys.argv[1:]]), ",".join(ship or [])
    artifact_words = artifacts.split(",") if artifacts else []
    verb.refuse_missing_tools(artifact_words)
    make = partial(
        make_plan,
        preset,
        words,
        seeds=seeds,
        learning_rates=learning_rates,
        probe=probe,
        fresh=fresh,
        command=command,
        ship=artifact_words,
        margin=margin * POINT,
        max_seeds=verb.seed_limit(until_decided, max_seeds, vary),
        retime=retime,
        base_shots=verb.shot_numbers(base_shots),
        prices=price or [],
    )
    if not vary:
        if budget is not None:
            raise UserError("--budget without --vary", hint="add --vary KEY=V1,V2", code="sweep.budget_without_axes")
        if dry_run:
            raise typer.Exit(verb.show_forecast(make(given), home(runs, json=json), json))
        raise typer.Exit(verb.start(make(given), home(runs, launch=True, json=json), detach, json))
    if dry_run:
        hint = "remove --vary to forecast one of its ladders"
        raise UserError("--dry-run forecasts one ladder", "--vary", hint, code="sweep.dry_run")
    from engine.runs.ladder.sweep import make_cells, parse_axes, parse_budget

    axes, limit = parse_axes(vary, given), parse_budget(budget)
    cells = make_cells(axes, given, make)
    raise typer.Exit(verb.start_cells(axes, cells, limit, home(runs, launch=True, json=json), detach, json))


@comparing_app.command()
def judge(
    names: options.Compared,
    model: Annotated[
        str,
        typer.Option(
            "--judge",
            metavar="MODEL",
            help="Model of a server, as http://localhost:8000/v1#NAME; or on this machine: name, folder or Hub id.",
        ),
    ],
    rubric: Annotated[
        Path | None, typer.Option("--rubric", metavar="FILE", help="What makes an answer better (default: built in).")
    ] = None,
    pairs: options.Pairs = None,
    items: Annotated[
        int | None, typer.Option("--items", min=1, metavar="N", help="Compare at most N test items (default: all).")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests at a time.")] = 8,
    answer_tokens: Annotated[
        int, typer.Option("--answer-tokens", min=8, help="Maximum tokens of a verdict with its reasons.")
    ] = 512,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, help="Stop at this number of tokens in total.")
    ] = None,
    price: options.Price = None,
    max_cost: Annotated[float | None, typer.Option("--max-cost", min=0, help="Stop at this cost, by --price.")] = None,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Seconds of one attempt of a request.")] = 120,
    device: options.Device = None,
    runs: options.Runs = None,
    detach: options.Detach = False,
    json: options.Json = False,
) -> None:
    """Let a model compare the answers of rungs, in both orders."""
    from tui.cli import judge as verb

    given = verb.JudgeOptions(
        model, rubric, pairs or [], items, concurrency, answer_tokens, max_tokens, price, max_cost, timeout, device
    )
    raise typer.Exit(verb.judge(verb.compared(runs, names, json), given, detach, json))


@comparing_app.command()
def rate(
    names: options.Compared,
    rater: Annotated[
        str | None, typer.Option("--rater", metavar="NAME", help="Who rates (default: your login).")
    ] = None,
    pairs: options.Pairs = None,
    page: Annotated[
        Path | None, typer.Option("--page", metavar="FILE", help="Write a page to rate in a browser elsewhere.")
    ] = None,
    imported: Annotated[
        list[Path] | None, typer.Option("--import", metavar="FILE", help="Add the ratings of a page; repeatable.")
    ] = None,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> None:
    """Compare the answers of two rungs without their names."""
    from engine.runs.preference.ratings import login, open_session
    from tui.cli import judge as verb

    compared = verb.compared(runs, names, json)
    session = open_session(compared.subject, compared.runs, rater or login(), pairs or [])
    if page is not None:
        verb.write_page(session, page, json)
    elif json or imported or not streams.is_terminal():
        verb.import_ratings(compared, session, imported or [], json)
    else:
        raise typer.Exit(verb.rate_on_screen(compared, session, runs_home(runs), ascii_only))


@comparing_app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="LADDER", help="Ladder or sweep name, part of it, path, or 'last'.")],
    runs: options.Runs = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    json: options.Json = False,
) -> None:
    """Write the report of a ladder or sweep; print its path."""
    from tui.cli import ladder as verb

    folder = ladder_or_sweep(runs, name, json)
    show_origin(folder, quiet=json or markdown)
    raise typer.Exit(verb.report(folder, json, markdown))
