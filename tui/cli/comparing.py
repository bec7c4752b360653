"""The subcommands that compare methods; their modules are imported when they are called."""

from __future__ import annotations

import shlex
import sys
from functools import partial
from typing import Annotated

import typer

from engine.config.errors import UserError
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.runs.ladder.sweep_dir import SweepDir
from tui.cli.arguments import App
from tui.cli.home_notes import home, show_origin
from tui.cli.lookup import ladder_or_sweep
from tui.cli.options import (
    BudgetOption,
    DataOption,
    DemoSeedsOption,
    DetachOption,
    DevicesOption,
    ExecutorOption,
    FreshOption,
    GresOption,
    JsonOption,
    MarginOption,
    ModelOption,
    PartitionOption,
    RetimeOption,
    RunsOption,
    SeedsOption,
    SetOption,
    ShareOption,
    ShotsOption,
    TimeOption,
    VaryOption,
    overrides,
    shared_device,
)

comparing_app = App()


@comparing_app.command()
def demo(
    runs: RunsOption = None,
    seeds: DemoSeedsOption = None,
    quick: Annotated[bool, typer.Option("--quick", help="One seed, half the training steps and test rows.")] = False,
    fresh: FreshOption = False,
    device: DevicesOption = None,
    share: ShareOption = None,
    executor: ExecutorOption = None,
    partition: PartitionOption = None,
    time: TimeOption = None,
    gres: GresOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Run the default ladder on the embedded model and data."""
    from tui.cli import demo as verb

    job = overrides(
        None, device=shared_device(device, share), executor=executor, partition=partition, time=time, gres=gres
    )
    raise typer.Exit(verb.demo(home(runs, launch=True, json=json), seeds, quick, fresh, detach, json, job))


@comparing_app.command()
def ladder(
    preset: Annotated[str, typer.Argument(metavar="PRESET", help="Preset name or TOML file.")],
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            "--rung", metavar="RUNG", help="Method, or NAME=METHOD,KEY=VALUE; repeatable (default: all methods)."
        ),
    ] = None,
    seeds: SeedsOption = 1,
    learning_rates: Annotated[
        int,
        typer.Option("--learning-rates", min=1, max=9, help="Learning rates to try per rung on validation rows."),
    ] = 1,
    margin: MarginOption = DEFAULT_MARGIN / POINT,
    ship: Annotated[
        list[str] | None,
        typer.Option("--ship", metavar="ARTIFACT", help="Export, score and compare: merged, q8_0, q4_k_m, adapter …"),
    ] = None,
    model: ModelOption = None,
    data: DataOption = None,
    settings: SetOption = None,
    probe: Annotated[bool, typer.Option("--probe/--no-probe", help="Run a timing probe of every rung first.")] = True,
    base_shots: ShotsOption = None,
    vary: VaryOption = None,
    budget: BudgetOption = None,
    fresh: FreshOption = False,
    retime: RetimeOption = False,
    device: DevicesOption = None,
    share: ShareOption = None,
    executor: ExecutorOption = None,
    partition: PartitionOption = None,
    time: TimeOption = None,
    gres: GresOption = None,
    runs: RunsOption = None,
    detach: DetachOption = False,
    json: JsonOption = False,
) -> None:
    """Compare methods on the same model and data: quality and cost."""
    from engine.runs.ladder.ladder_plan import make_plan
    from tui.cli import ladder as verb

    job = overrides(
        None, device=shared_device(device, share), executor=executor, partition=partition, time=time, gres=gres
    )
    given = overrides(settings, model=model, data=data) | job
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
        retime=retime,
        base_shots=verb.shot_numbers(base_shots),
    )
    if not vary:
        if budget is not None:
            raise UserError("--budget without --vary", hint="add --vary KEY=V1,V2", code="sweep.budget_without_axes")
        raise typer.Exit(verb.start(make(given), home(runs, launch=True, json=json), detach, json))
    from engine.runs.ladder.sweep import make_cells, parse_axes, parse_budget
    from tui.cli import sweep

    axes, limit = parse_axes(vary, given), parse_budget(budget)
    cells = make_cells(axes, given, make)
    raise typer.Exit(sweep.start(axes, cells, limit, home(runs, launch=True, json=json), detach, json))


@comparing_app.command()
def report(
    name: Annotated[str, typer.Argument(metavar="LADDER", help="Ladder or sweep name, part of it, path, or 'last'.")],
    runs: RunsOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the report as Markdown.")] = False,
    json: JsonOption = False,
) -> None:
    """Write the report of a ladder or sweep; print its path."""
    from tui.cli import ladder as verb
    from tui.cli import sweep

    found = ladder_or_sweep(runs, name, json)
    show_origin(found, quiet=json or markdown)
    if isinstance(found, SweepDir):
        raise typer.Exit(sweep.report(found, json, markdown))
    raise typer.Exit(verb.report(found, json, markdown))
