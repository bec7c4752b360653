"""`export`: write a finished run's model as an artifact and check that nothing was lost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, TypeAlias

import msgspec
import typer

from engine.config.errors import RunFailed, UserError
from engine.config.files import check_utf8, expanded, working_directory
from engine.config.metric_specs import DEFAULT_MARGIN, POINT
from engine.config.text import visible
from engine.runs.rpc_client import ask
from engine.runs.run.export_formats import export_formats, weight_types
from engine.runs.run.exports import (
    FIDELITY,
    Fidelity,
    export_arguments,
    export_folder,
    read_fidelity,
    remove_unfinished_to,
)
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import fidelity_facts
from tui.cli import options
from tui.cli.lookup import RUN_OR_LADDER, find_named, show_origin
from tui.cli.progress import shown_progress
from tui.output.console import print_json, say

if TYPE_CHECKING:
    Kind: TypeAlias = str
    WeightType: TypeAlias = str
else:  # the values that `--help` lists
    Kind, WeightType = Literal[tuple(export_formats())], Literal[tuple(weight_types())]
DEFAULTS = ", ".join(f"{known.default} for {known.noun}" for known in export_formats().values() if known.types)
STYLES = {"pass": "green", "worse": "red", "undecided": "yellow"}


class AfterExport(Protocol):
    """What the options of an extension do with the artifact."""

    def prepare(self, progress: Callable[[str], None]) -> None:
        """Raise UserError for what cannot be done, before hours of export."""

    def finish(self, answer: dict[str, Any], accepted: bool, json: bool) -> None:
        """Called with the folder and the check, as JSON prints them: what it adds is printed as well, where `json`.

        `accepted`: the artifact is not worse than the run, or that is accepted.
        """


def export(
    name: options.Run = "last",
    to: Annotated[Kind, typer.Option("--to", help="What to write.")] = "merged",
    weights: Annotated[
        WeightType | None,
        typer.Option("--type", help=f"Type of the weights (default: {DEFAULTS})."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Folder to create (default: exports/NAME in the run).")
    ] = None,
    margin: options.Margin = DEFAULT_MARGIN / POINT,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier export.")] = False,
    accept_loss: Annotated[
        bool, typer.Option("--accept-loss", help="Exit with 0 even if the artifact is worse.")
    ] = False,
    added: Sequence[AfterExport] = (),
    now: options.Now = False,
    runs: options.Runs = None,
    json: options.Json = False,
) -> int:
    """Export a run, or the one that a ladder's verdict recommends; print the check.

    Returns 1 if the artifact is worse than the run, unless that is accepted. With something to do after the export, an
    existing artifact is not exported again. Raises UserError for a ladder without a recommendation.
    """
    source = find_named(runs, name, RUN_OR_LADDER)
    run = source if isinstance(source, RunDir) else source.recommended_run()
    if run is not source and not json:
        say(f"recommended by the verdict of {source.name}: {run.name}")
    show_origin(run, quiet=json)
    if not math.isfinite(margin):
        raise UserError(f"invalid --margin {margin}", hint="give a number", code="export.invalid_margin")
    folder = export_folder(run, to, weights)
    if out is not None:
        check_utf8(str(out))
        folder = working_directory() / expanded(out)
    arguments = export_arguments(
        run,
        to,
        weights,
        out=None if out is None else str(folder),
        margin=margin * POINT,
        overwrite=overwrite,
        wait=not now,
    )
    answer: dict[str, Any] | None = None
    with shown_progress(json) as (progress, counted):
        for step in added:
            step.prepare(progress)
        if added and not overwrite:
            answer = existing_artifact(run, to, weights, folder)
        try:
            answer = answer or ask("export", arguments, progress, counted=counted)
        except (KeyboardInterrupt, RunFailed):  # the process was killed
            remove_unfinished_to(folder)
            raise
    check = msgspec.convert(answer["fidelity"], Fidelity)
    refused = check.outcome == "worse" and not accept_loss
    if not json:
        show(Path(answer["folder"]), check)
    for step in added:
        step.finish(answer, not refused, json)
    if json:
        print_json(answer)
    return int(refused)


def existing_artifact(run: RunDir, kind: str, weights: str | None, folder: Path) -> dict[str, Any] | None:
    """The artifact if it has been exported already. Raises UserError for another artifact in the folder."""
    if not (folder / FIDELITY).exists():
        return None
    check = read_fidelity(folder)
    if (check.run, check.kind, check.type) != (run.name, kind, weights or check.type):
        problem = f"the folder contains another artifact: {check.run}, {check.kind}, {check.type}"
        raise UserError(problem, str(folder), "use another --out", "export.exists")
    return {"folder": str(folder), "fidelity": msgspec.to_builtins(check)}


def show(folder: Path, check: Fidelity) -> None:
    say(f"artifact: {visible(str(folder))}")
    for name, value in fidelity_facts(check):
        say(f"{name}: {value}", STYLES[check.outcome] if name == "outcome" else "")
