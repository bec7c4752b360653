"""The subcommands that ship a finished run; their modules are imported when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.runs.home import runs_home
from engine.runs.run.exports import ExportKind, WeightType
from tui.cli import options
from tui.cli.arguments import App
from tui.cli.lookup import run_or_ladder, show_origin

shipping_app = App()


@shipping_app.command()
def export(
    name: options.Run = "last",
    to: Annotated[ExportKind, typer.Option("--to", help="What to write.")] = "merged",
    weights: Annotated[
        WeightType | None,
        typer.Option(
            "--type",
            help="Type of the weights (default: bf16 for merged weights, q4_k_m for GGUF).",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to create (default: exports/NAME in the run).")
    ] = None,
    margin: options.Margin = DEFAULT_MARGIN / POINT,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Exit with 0 even if the artifact is worse.")
    ] = False,
    push: Annotated[
        str | None,
        typer.Option("--push", metavar="REPO", help="Hub repository (OWNER/NAME) to upload it to, private if created."),
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push, allow a public repository.")] = False,
    now: options.Now = False,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Export a run, or a ladder's recommended one, and check it."""
    from tui.cli import export as verb

    folder = verb.run_to_export(run_or_ladder(runs, name, json), quiet=json)
    show_origin(folder, quiet=json)
    given = verb.ExportOptions(to, weights, out, margin, overwrite, accept_loss, now, json, push, public)
    raise typer.Exit(verb.export(folder, given))


@shipping_app.command()
def gate(
    name: options.Run = "last",
    against: Annotated[
        str, typer.Option("--against", metavar="NAME", help="base, start (of --from), another run, or another rung.")
    ] = "base",
    min_gain: Annotated[
        float, typer.Option("--min-gain", help="Required lower bound of the gain, in points or the metric's unit.")
    ] = 0.0,
    rung: Annotated[str | None, typer.Option("--rung", metavar="RUNG", help="Rung of the ladder.")] = None,
    metric: Annotated[str | None, typer.Option("--metric", help="Metric (default: the run's).")] = None,
    runs: options.Runs = None,
    json: options.Json = False,
) -> None:
    """Exit with 0 only if a gain's lower bound reaches --min-gain."""
    from tui.cli import gate as verb

    raise typer.Exit(verb.gate(run_or_ladder(runs, name, json), against, rung, metric, min_gain, json))


@shipping_app.command("try")
def try_runs(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs or ladders: name, part of it, path, or 'last'.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this and print it (default: stdin).")] = None,
    items: Annotated[
        int,
        typer.Option("--items", min=0, metavar="N", help="Replay N test items, those with different answers first."),
    ] = 0,
    system: Annotated[
        str | None, typer.Option("--system", help="System prompt (default: that of the training rows).")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=10, help="Sampling temperature; 0 is greedy.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1, help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Tokens per answer (default: as evaluated).")
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Let the base model answer too.")] = True,
    device: options.Device = None,
    now: options.Now = False,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> None:
    """Answer prompts with base and tuned models, side by side."""
    from engine.runs.chat_client import Sampling
    from tui.cli import chat as verb

    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, max_new_tokens=max_new_tokens or 0)
    given = verb.TryOptions(prompt, items, system, sampling, base, device or "auto", now, json)
    chat_runs = verb.runs_of([run_or_ladder(runs, name, json) for name in names])
    if given.interactive:
        from tui.cli.bench import open_bench

        raise typer.Exit(open_bench(runs_home(runs), ascii_only, True, opened=lambda: verb.screen(chat_runs, given)))
    raise typer.Exit(verb.answer_once(chat_runs, given))
