"""`export`: write a finished run's model as an artifact and check that nothing was lost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.files import check_utf8, expanded, working_directory
from engine.config.metric_specs import POINT
from engine.config.text import amount, visible
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.rpc_client import ask
from engine.runs.run.exports import (
    FIDELITY,
    ExportKind,
    Fidelity,
    WeightType,
    export_arguments,
    export_folder,
    read_fidelity,
)
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import fidelity_facts
from tui.cli.data import shown_progress
from tui.output.console import print_json, say

STYLES = {"pass": "green", "worse": "red", "undecided": "yellow"}


@dataclass(frozen=True)
class ExportOptions:
    """The options of `ftbench export`."""

    kind: ExportKind
    type: WeightType | None
    out: Path | None
    margin: float
    """In points of a share, or hundredths of nats/token of a loss."""
    overwrite: bool
    accept_loss: bool
    now: bool
    json: bool
    push: str | None = None
    """Hub repository to push the artifact to."""
    public: bool = False


def run_to_export(source: RunDir | LadderDir, quiet: bool) -> RunDir:
    """The run itself; of a ladder the run that its verdict recommends, which is printed unless `quiet`.

    Raises UserError for a ladder without a recommendation.
    """
    if isinstance(source, RunDir):
        return source
    run = source.recommended_run()
    if not quiet:
        say(f"recommended by the verdict of {source.name}: {run.name}")
    return run


def export(run: RunDir, options: ExportOptions) -> int:
    """Export, print the check, and push. Returns 1 if the artifact is worse than the run, unless that is accepted.

    An artifact that is worse is pushed only if that is accepted. With `push`, an existing one is not exported again.
    """
    if not math.isfinite(options.margin):
        raise UserError(f"invalid --margin {options.margin}", hint="give a number", code="export.invalid_margin")
    arguments = export_arguments(
        run,
        options.kind,
        options.type,
        out=_absolute(options.out),
        margin=options.margin * POINT,
        overwrite=options.overwrite,
        wait=not options.now,
    )
    with shown_progress(options.json) as (progress, counted):
        destination = {"repository": options.push, "public": options.public}
        if options.push is not None:  # refused before hours of export
            progress(f"checking {options.push} on the Hub")
            destination["repository"] = ask("push.check", destination, progress)
        answer = _existing(run, options) or ask("export", arguments, progress, counted=counted)
    check = msgspec.convert(answer["fidelity"], Fidelity)
    refused = check.outcome == "worse" and not options.accept_loss
    if not options.json:
        show(Path(answer["folder"]), check)
    if options.push is not None and not refused:
        with shown_progress(options.json) as (progress, _):
            answer["pushed"] = ask("push", {"folder": answer["folder"], **destination}, progress)
    if options.json:
        print_json(answer)
    elif options.push is not None:
        _show_pushed(answer.get("pushed"))
    return 1 if refused else 0


def _existing(run: RunDir, options: ExportOptions) -> dict[str, Any] | None:
    """The artifact to push if it has been exported already."""
    out = _absolute(options.out)
    folder = Path(out) if out else export_folder(run, options.kind, options.type)
    if options.push is None or options.overwrite or not (folder / FIDELITY).exists():
        return None
    check = read_fidelity(folder)
    wanted = (run.name, options.kind, options.type or check.type)
    if (check.run, check.kind, check.type) != wanted:
        problem, hint = (
            f"the folder contains another artifact: {check.run}, {check.kind}, {check.type}",
            "use another --out",
        )
        raise UserError(problem, str(folder), hint, "export.exists")
    return {"folder": str(folder), "fidelity": msgspec.to_builtins(check)}


def _show_pushed(pushed: dict[str, Any] | None) -> None:
    if pushed is None:
        say("not pushed: the artifact is worse than the run; --accept-loss pushes it", "red")
        return
    visibility = "private" if pushed["private"] else "public"
    say(f"pushed: {amount(pushed['files'], 'file')} to {visible(pushed['url'])} ({visibility})")
    for note in pushed["notes"]:
        say(f"note: {visible(note)}", "yellow")


def show(folder: Path, check: Fidelity) -> None:
    """Print the folder and the figures of the check."""
    say(f"artifact: {visible(str(folder))}")
    for name, value in fidelity_facts(check):
        say(f"{name}: {value}", STYLES[check.outcome] if name == "outcome" else "")


def _absolute(out: Path | None) -> str | None:
    if out is None:
        return None
    check_utf8(str(out))
    return str(working_directory() / expanded(out))
