"""`check`: whether a server serves a run's model, its base, or something else."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from engine.config.metric_specs import POINT, metric_spec
from engine.config.text import visible
from engine.extensions.server_check.server_check import EXIT_STATUS, ServerCheck
from engine.runs.endpoint import parse_endpoint
from engine.runs.rpc_client import ask
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import difference_with_bounds, with_bounds
from tui.cli import completion, options
from tui.cli.errors import show_notices
from tui.cli.lookup import find_named
from tui.cli.progress import shown_progress
from tui.output.console import print_json, say

STYLES = {"tuned": "green", "undecided": "yellow"}


def check(
    endpoint: Annotated[str, typer.Argument(metavar="URL#NAME", help="Served model: http://localhost:8000/v1#NAME.")],
    run: Annotated[
        str,
        typer.Option(
            "--run", metavar="RUN", help="Run that is served: name, part of it, path.", autocompletion=completion.runs
        ),
    ] = "last",
    items: Annotated[
        int | None, typer.Option("--items", min=1, metavar="N", help="Ask at most N test rows (default: all).")
    ] = None,
    concurrency: Annotated[int, typer.Option("--concurrency", min=1, max=256, help="Requests at a time.")] = 8,
    margin: options.Margin = 2.0,
    runs: options.Runs = None,
    json: options.Json = False,
) -> int:
    """Print what is served. Returns 0 for the tuned model, 1 for the base or something else, 3 if undecided."""
    parse_endpoint(endpoint, "URL#NAME")
    folder = find_named(runs, run, (RunDir,))
    request = {
        "endpoint": endpoint,
        "run": str(folder.path),
        "items": items,
        "concurrency": concurrency,
        "margin": margin * POINT,
    }
    with shown_progress(json) as (progress, counted):
        answer = ask("server.check", request, progress, counted=counted)
    checked = msgspec.convert(answer, ServerCheck)
    if json:
        print_json(answer)
        return EXIT_STATUS[checked.outcome]
    say(f"{visible(checked.endpoint)} {checked.sentence}", STYLES.get(checked.outcome, "red"))
    if checked.hint:
        say(checked.hint)
    if checked.score and checked.run_score:
        metric = metric_spec(checked.metric)
        served, own = (with_bounds(score, metric.is_share) for score in (checked.score, checked.run_score))
        difference = difference_with_bounds(checked.difference, metric.is_share)
        say(f"{metric.title}: server {served}, run {own}; difference {difference}, paired by test item")
    show_notices(checked.warnings, json)
    return EXIT_STATUS[checked.outcome]
