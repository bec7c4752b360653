"""What to export, and what is refused before anything heavy is imported and before the device is waited for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from engine.config.errors import UserError
from engine.config.files import read_regular
from engine.config.method_specs import method_spec
from engine.export.format_modules import format_module
from engine.runs.run.export_formats import export_formats
from engine.runs.run.exports import FIDELITY, Fidelity, export_folder
from engine.runs.run.folder import real_path
from engine.runs.run.result import Result
from engine.runs.run.run_dir import FrozenRun, RunDir, finished_result, read_frozen

Progress = Callable[..., None]
"""Called with a description and, for countable work, the number done and the total."""


@dataclass(frozen=True)
class ExportRequest:
    run: RunDir
    kind: str
    type: str | None
    out: Path | None
    margin: float
    overwrite: bool = False

    @property
    def written_type(self) -> str:
        """The type of the weights: the requested one, else the default of the kind."""
        return self.type or export_formats()[self.kind].default

    @property
    def folder(self) -> Path:
        if self.out:
            return real_path(self.out)
        return export_folder(self.run, self.kind, self.written_type)


def refuse_request(request: ExportRequest) -> None:
    """Raise UserError for a folder that exists, for a run with symbolic links, and as `exportable` does."""
    request.run.check_files()
    refuse_folder(request.folder, request.overwrite)
    exportable(request)


def exportable(request: ExportRequest) -> tuple[FrozenRun, Result]:
    """The run's configuration and result. Raises UserError for an unfinished run, and for a kind or type of artifact
    that its method cannot give.
    """
    run, result = request.run, finished_result(request.run, "export.not_finished")
    frozen = read_frozen(run).with_metric(result.metric)
    spec, known = method_spec(frozen.config.method), export_formats()[request.kind]
    if request.kind == "adapter" and spec.trains_weights:
        problem = f"{spec.in_text} fine-tuning trains all weights: there is no adapter"
        raise UserError(problem, run.name, "use --to merged", "export.no_adapter")
    if request.type is not None and request.type not in (types := known.types):
        hint = f"use {', '.join(types)}" if types else "omit --type"
        raise UserError(f"invalid type {request.type} for --to {request.kind}", run.name, hint, "export.type")
    if known.needs_tools:
        format_module(request.kind).require_tools()
    if not any(run.model.glob("*.safetensors")):
        raise UserError("the run has no model", str(run.model), "export another run", "export.no_model")
    return frozen, result


def refuse_folder(final: Path, overwrite: bool) -> None:
    """Raise UserError for a folder that exists, unless it is empty, or an earlier export to overwrite."""
    if final.is_dir() and not any(final.iterdir()):
        return
    try:
        msgspec.json.decode(read_regular(final / FIDELITY), type=Fidelity)  # another file could have this name
    except (OSError, msgspec.DecodeError):
        if os.path.lexists(final):
            hint, code = "use --out with a new folder", "export.not_an_export"
            raise UserError("not an exported artifact: it is not replaced", str(final), hint, code) from None
        return
    if not overwrite:
        raise UserError("already exported", str(final), "use --overwrite or another --out", "export.exists")
