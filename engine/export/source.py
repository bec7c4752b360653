"""The finished run behind an export, and what is refused before anything is written."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from engine.config import quantities
from engine.config.errors import UserError
from engine.config.method_specs import MethodSpec, method_spec
from engine.config.schema import Model
from engine.data.examples import system_prompt, training_examples
from engine.export.gguf_tools import require_tools
from engine.export.merged import ADAPTER_WEIGHTS, DTYPES
from engine.export.rows import ScoredRows, scored_rows
from engine.methods.model_config import config_of
from engine.methods.provenance import fingerprint
from engine.methods.tokenizer import load_tokenizer
from engine.runs.exports import FIDELITY, TYPES, ExportKind, WeightType
from engine.runs.frozen_config import FrozenRun
from engine.runs.result import Result
from engine.runs.run_dir import RunDir, finished_result, read_frozen

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
class FinishedRun:
    """A finished run, with what its export needs."""

    directory: RunDir
    frozen: FrozenRun
    result: Result
    spec: MethodSpec
    tokenizer: PreTrainedTokenizerBase
    """Of the base, as the training used it."""
    scored: ScoredRows
    system_prompt: str
    """The system prompt that all training rows have; '' if they have none or different ones."""

    @property
    def base(self) -> Model:
        return self.frozen.config.model


def finished_run(request: ExportRequest) -> FinishedRun:
    """The run to export. Raises UserError for an unfinished run, for a kind or type of artifact that its method cannot
    give, and if its base or its test rows have changed.
    """
    run, result = request.run, finished_result(request.run, "export.not_finished")
    frozen = read_frozen(run)
    spec = method_spec(frozen.config.method)
    _refuse_kind(request, spec)
    if not any(run.model.glob("*.safetensors")):
        raise UserError("the run has no model", str(run.model), "export another run", "export.no_model")
    refuse_other_base(frozen.config.model, result, spec)
    tokenizer = load_tokenizer(frozen.config.model)
    scored = scored_rows(frozen, tokenizer, result.fingerprints.get("test", ""))
    system = system_prompt(training_examples(frozen.config.data))
    return FinishedRun(run, frozen, result, spec, tokenizer, scored, system)


def _refuse_kind(request: ExportRequest, spec: MethodSpec) -> None:
    if request.kind == "adapter" and spec.trains_weights:
        what = f"{spec.in_text} fine-tuning trains all weights: there is no adapter"
        raise UserError(what, request.run.name, "use --to merged", "export.no_adapter")
    if request.type is not None and request.type not in (types := TYPES[request.kind]):
        do = f"use {', '.join(types)}" if types else "omit --type"
        raise UserError(f"invalid type {request.type} for --to {request.kind}", request.run.name, do, "export.type")
    if request.kind == "gguf":
        require_tools()


def refuse_other_base(model: Model, result: Result, spec: MethodSpec) -> None:
    """Raise UserError if the base of an adapter has changed since the run: it would be another model."""
    expected = result.fingerprints.get("model", "")
    if spec.trains_weights or not expected:
        return
    found = fingerprint(model, config_of(model))
    if found != expected:
        what = "the base model has changed since the run"
        do = "restore the weights that the run was trained on"
        raise UserError(what, model.id, do, "export.base_changed")


def refuse_folder(final: Path, overwrite: bool) -> None:
    """Raise UserError for a folder that exists, unless it is empty, or an earlier export to overwrite."""
    if final.is_dir() and not any(final.iterdir()):
        return
    if (final / FIDELITY).exists():
        if not overwrite:
            raise UserError("already exported", str(final), "use --overwrite or another --out", "export.exists")
    elif os.path.lexists(final):
        do = "use --out with a new folder"
        raise UserError("not an exported artifact: it is not replaced", str(final), do, "export.not_an_export")


def refuse_small_disk(final: Path, source: FinishedRun, kind: ExportKind, dtype: WeightType) -> None:
    size = source.result.artifact_bytes
    if kind != "adapter":
        size = source.result.parameters * DTYPES.get(dtype, torch.bfloat16).itemsize
        size *= 2 if source.spec.quantizes_base else 1  # both candidates exist until one is chosen
        size *= 2 if kind == "gguf" else 1  # the merged model, and the file before it is quantized
    parent = next(folder for folder in final.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < size * 1.05:
        what = f"{quantities.size(size)} needed, {quantities.size(free)} of disk space free"
        raise UserError(what, str(parent), "free some space, or use --out on another disk", "export.disk_full")
