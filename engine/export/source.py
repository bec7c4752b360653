"""The finished run behind an export, and what is refused before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch

from engine.config.errors import UserError
from engine.config.method_specs import MethodSpec, method_spec
from engine.config.schema import Model
from engine.export.gguf_tools import require_tools
from engine.export.merged import ADAPTER_WEIGHTS, DTYPES
from engine.methods.model_config import config_of
from engine.methods.provenance import fingerprint
from engine.runs.exports import FIDELITY, TYPES, ExportKind, WeightType
from engine.runs.frozen_config import FrozenRun
from engine.runs.result import Result
from engine.runs.run_dir import RunDir, read_frozen

ADAPTER_FILES = (ADAPTER_WEIGHTS, "adapter_config.json")


@dataclass(frozen=True)
class ExportRequest:
    """What to export, and where to."""

    run: RunDir
    kind: ExportKind
    type: WeightType | None
    out: Path | None
    margin: float
    overwrite: bool = False


@dataclass(frozen=True)
class Source:
    """A finished run, with what its export needs."""

    run: RunDir
    frozen: FrozenRun
    result: Result
    spec: MethodSpec

    @property
    def base(self) -> Model:
        return self.frozen.config.model


def finished_run(request: ExportRequest) -> Source:
    """The run to export. Raises UserError for an unfinished run, and a kind that its method cannot give."""
    run, result = request.run, request.run.result()
    if result is None or result.status != "finished":
        state = result.status if result else run.state()
        what, do = f"only a finished run can be exported; this one is {state}", f"run `ftbench resume {run.name}` first"
        raise UserError(what, run.name, do, "export.not_finished")
    frozen = read_frozen(run)
    spec = method_spec(frozen.config.method)
    if request.kind == "adapter" and spec.trains_weights:
        what = f"{spec.in_text} fine-tuning trains all weights: there is no adapter"
        raise UserError(what, run.name, "use --to merged", "export.no_adapter")
    if request.type is not None and request.type not in (types := TYPES[request.kind]):
        do = f"use {', '.join(types)}" if types else "omit --type"
        raise UserError(f"invalid type {request.type} for --to {request.kind}", run.name, do, "export.type")
    if request.kind == "gguf":
        require_tools()
    weights = "model.safetensors" if spec.trains_weights else ADAPTER_FILES[0]
    if not any(run.model.glob("*.safetensors")):
        raise UserError(f"the run has no model ({weights} is missing)", str(run.model), code="export.no_model")
    _refuse_other_base(frozen, result, spec)
    return Source(run, frozen, result, spec)


def _refuse_other_base(frozen: FrozenRun, result: Result, spec: MethodSpec) -> None:
    """An adapter on another base is another model."""
    expected = result.fingerprints.get("model", "")
    if spec.trains_weights or not expected:
        return
    found = fingerprint(frozen.config.model, config_of(frozen.config.model))
    if found != expected:
        what = "the base model has changed since the run"
        do = "restore the weights that the run was trained on"
        raise UserError(what, frozen.config.model.id, do, "export.base_changed")


def refuse_existing(final: Path, overwrite: bool) -> None:
    if final.exists() and not overwrite:
        do = "use --overwrite to replace it, or --out DIR"
        raise UserError("already exported", str(final), do, "export.exists")
    if final.exists() and not (final / FIDELITY).exists() and any(final.iterdir()):
        do = "use --out with a new folder"
        raise UserError("not an exported artifact: it is not replaced", str(final), do, "export.not_an_export")


def refuse_small_disk(final: Path, source: Source, kind: ExportKind, dtype: WeightType) -> None:
    size = source.result.artifact_bytes
    if kind != "adapter":
        size = source.result.parameters * DTYPES.get(dtype, torch.bfloat16).itemsize
        size *= 2 if source.spec.quantizes_base else 1  # both candidates exist until one is chosen
        size *= 2 if kind == "gguf" else 1  # the merged model, and the file before it is quantized
    parent = next(folder for folder in (final.parent, *final.parents) if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < size * 1.05:
        what = f"{size / 2**30:.1f} GiB are needed, {free / 2**30:.1f} GiB are free"
        raise UserError(what, str(parent), "free some space, or use --out on another disk", "export.disk_full")
