"""The export dialog: choose a run and an artifact, follow the export, see the outcome of its check."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import msgspec
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import OptionList, Static
from textual.widgets.option_list import Option

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.text import visible
from engine.runs.run.exports import (
    Fidelity,
    artifact_words,
    export_arguments,
    parse_artifact,
    read_fidelity,
    remove_unfinished,
)
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import fidelity_facts
from tui.background import BackgroundRequest, RequestProgress
from tui.screens.base import Dialog
from tui.widgets.data_list import SelectList

STYLES = {"pass": "$text-success", "worse": "$text-error", "undecided": "$text-warning"}
CANCEL_SECONDS = 2.0


class ExportableRun(NamedTuple):
    """A finished run that the dialog offers."""

    title: str
    run: RunDir
    method: str


class ExportScreen(Dialog[None]):
    """Escape returns; while an export is running, it cancels it and leaves nothing behind."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q", "back", "back")]
    CSS = """
    ExportScreen > Vertical { width: 76; max-width: 100%; max-height: 100%; }
    ExportScreen OptionList { height: auto; max-height: 14; }
    ExportScreen VerticalScroll { height: auto; max-height: 18; scrollbar-size-vertical: 1; }
    ExportScreen #keys { margin-top: 1; color: $foreground-muted; }
    """

    def __init__(self, runs: Sequence[ExportableRun]) -> None:
        super().__init__()
        self.runs = runs
        self.chosen: ExportableRun | None = runs[0] if len(runs) == 1 else None

    def compose(self) -> ComposeResult:
        with Vertical() as box:
            box.border_title = "export"
            yield Static(id="about")
            yield SelectList("choices")
            with VerticalScroll(can_focus=False):
                yield Static(id="outcome")
            yield Static(id="keys")

    def on_mount(self) -> None:
        self._offer()

    def _offer(self) -> None:
        """List the runs, or the artifacts of the chosen run."""
        choices, chosen = self.query_one(OptionList), self.chosen
        choices.clear_options()
        self.set_text("about", f"{chosen.title}: what to write" if chosen else "Which run?")
        if chosen is None:
            choices.add_options(Option(Content(visible(run.title)), str(n)) for n, run in enumerate(self.runs))
        else:
            for word in artifact_words():
                artifact = parse_artifact(word)
                if not artifact.format.is_complete and method_spec(chosen.method).trains_weights:
                    continue
                check = _existing(chosen.run.exports / artifact.folder)
                known = (f"exported: {check.outcome}", STYLES[check.outcome]) if check else ""
                line = f"{word:<11} {artifact.format.contents:<22} {artifact.type:<8} "
                choices.add_option(Option(Content.assemble(line, known), word))
        choices.highlighted = 0
        choices.focus()
        self.set_text("keys", "enter select   escape back")

    @on(OptionList.OptionSelected)
    def _selected(self, event: OptionList.OptionSelected) -> None:
        event.stop()
        if self.chosen is None:
            self.chosen = self.runs[event.option_index]
            self._offer()
            return
        artifact = parse_artifact(event.option_id or "")
        folder = self.chosen.run.exports / artifact.folder
        self.query_one(OptionList).display = False
        if check := _existing(folder):
            self._show_check(folder, check)
            return
        self.set_text("about", f"{self.chosen.title}: {artifact.word}")
        self.set_text("outcome", "starting")
        self.set_text("keys", "escape cancel")
        arguments = export_arguments(self.chosen.run, artifact.kind, artifact.requested_type)
        self.request = BackgroundRequest(self, "export", arguments, self._answered, self._progressed)

    def _progressed(self, progress: RequestProgress) -> None:
        self.set_text("outcome", progress.text)

    def _answered(self, answer: Any, error: str) -> None:
        self.request = None
        if error:
            self.set_text("outcome", Content.styled(visible(error), "$text-error"))
            self.set_text("keys", "escape back")
        else:
            self._show_check(Path(answer["folder"]), msgspec.convert(answer["fidelity"], Fidelity))

    def _show_check(self, folder: Path, check: Fidelity) -> None:
        lines = [
            Content.assemble((f"{visible(name)}: ", ""), (visible(value), STYLES[check.outcome] if not number else ""))
            for number, (name, value) in enumerate(fidelity_facts(check))
        ]
        self.set_text("about", str(folder))
        self.set_text("outcome", Content("\n").join(lines))
        self.set_text("keys", "escape back")

    def action_back(self) -> None:
        """Cancel a running export, else close."""
        self._cancel()
        self.dismiss()

    def on_unmount(self) -> None:
        self._cancel()

    def _cancel(self) -> None:
        if self.request is not None and self.chosen is not None:
            self.request.cancel()
            self.request.join(CANCEL_SECONDS)
            self.request = None
            remove_unfinished(self.chosen.run)


def _existing(folder: Path) -> Fidelity | None:
    try:
        return read_fidelity(folder)
    except UserError:
        return None


def exportable(title: str, run: RunDir) -> ExportableRun | None:
    """The run for the dialog; None unless it has finished."""
    try:
        result = run.result()
    except UserError:
        return None
    return ExportableRun(title, run, result.method) if result and result.status == "finished" else None
