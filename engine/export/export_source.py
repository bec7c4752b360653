"""The finished run behind an export, and what is refused before anything is written."""

from __future__ import annotations

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
from engine.export.merged import ADAPTER_WEIGHTS, DTYPES
from engine.export.request import ExportRequest, exportable
from engine.export.scored_rows import ScoredRows, scored_rows
from engine.methods.model_source import config_of, load_tokenizer
from engine.methods.provenance import fingerprint
from engine.runs.run.exports import ExportKind, WeightType
from engine.runs.run.frozen_config import FrozenRun
from engine.runs.run.result import Result
from engine.runs.run.run_dir import RunDir

ADAPTER_FILES = (ADAPTER_WEIGHTS, "adapter_config.json")


@dataclass(frozen=True)
class ExportSource:
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


def export_source(request: ExportRequest) -> ExportSource:
    """The run to export. Raises UserError as `exportable` does, and if its base or its test rows have changed."""
    frozen, result = exportable(request)
    run, spec = request.run, method_spec(frozen.config.method)
    refuse_other_base(frozen.config.model, result, spec)
    tokenizer = load_tokenizer(frozen.config.model)
    scored = scored_rows(frozen, tokenizer, result.fingerprints.get("test", ""))
    system = system_prompt(training_examples(frozen.config.data))
    return ExportSource(run, frozen, result, spec, tokenizer, scored, system)


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


def refuse_small_export_disk(final: Path, source: ExportSource, kind: ExportKind, dtype: WeightType) -> None:
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
