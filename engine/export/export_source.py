"""The finished run behind an export, its test rows, and what is refused before anything is written."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from engine.config import quantities
from engine.config.errors import Notice, UserError
from engine.config.method_specs import MethodSpec, method_spec
from engine.config.schema import Model
from engine.data.detection import system_prompt, training_examples
from engine.data.items import EvaluationItem, items_fingerprint, sampled
from engine.data.prepare import prepare
from engine.data.prepared import Preparation
from engine.export.merged import ADAPTER_WEIGHTS, DTYPES
from engine.export.request import ExportRequest, exportable
from engine.methods.model_source import config_of, fingerprint, load_tokenizer
from engine.runs.run.export_formats import export_formats
from engine.runs.run.result import Result
from engine.runs.run.run_dir import FrozenRun, RunDir


@dataclass(frozen=True)
class ScoredRows:
    """Prepared rows and the test items on which the run was scored."""

    rows: Preparation
    items: list[EvaluationItem]


def scored_rows(frozen: FrozenRun, tokenizer: Any, fingerprint: str) -> ScoredRows:
    """Prepare the run's data as training did.

    fingerprint: of the run's test items (`Result.fingerprints["test"]`). Raises UserError if they have changed.
    """
    config = frozen.config
    rows = prepare(config.data, config.train.max_length, tokenizer)
    items = [] if config.evaluation.when == "never" else sampled(rows.test_items, config.evaluation.rows)
    if fingerprint and items_fingerprint(items) != fingerprint:
        problem = "the test rows differ from those of the run"
        hint = "restore the data, tokenizer and ftbench version of the run: an artifact is checked on the same rows"
        raise UserError(problem, config.data.id, hint, "export.data_changed")
    return ScoredRows(rows, items)


def rendered_by(
    tokenizer: Any, frozen: FrozenRun, items: list[EvaluationItem]
) -> tuple[list[EvaluationItem], list[Notice]]:
    """The items as an artifact's tokenizer and template render them, and a defect if any prompt differs."""
    config = frozen.config
    rows = prepare(config.data, config.train.max_length, tokenizer)
    by_place = {item.row.where: item for item in rows.test_items}
    others = [by_place.get(item.row.where) for item in items]
    different = [
        place
        for place, (item, other) in enumerate(zip(items, others, strict=True))
        if other is None or other.row.prompt != item.row.prompt
    ]
    rendered = [
        item if other is None else replace(other, references=item.references)
        for item, other in zip(items, others, strict=True)
    ]
    if not different:
        return rendered, []
    first = items[different[0]].row.where
    text = f"tokenizer or chat template give other prompt tokens in {len(different)} of {len(items)} test items"
    return rendered, [Notice("export.other_prompts", f"{text} (first: {first})")]


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
    actual = fingerprint(model, config_of(model))
    if actual != expected:
        problem = "the base model has changed since the run"
        hint = "restore the weights that the run was trained on"
        raise UserError(problem, model.id, hint, "export.base_changed")


def refuse_small_export_disk(final: Path, source: ExportSource, kind: str, dtype: str) -> None:
    size = source.result.artifact_bytes
    if kind != "adapter":
        size = source.result.parameters * DTYPES.get(dtype, torch.bfloat16).itemsize
        size *= 2 if source.spec.quantizes_base else 1  # both candidates exist until one is chosen
        size *= 2 if export_formats()[kind].module else 1  # also the merged model that it is made from
    parent = next(folder for folder in final.parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < size * 1.05:
        problem = f"{quantities.size(size)} needed, {quantities.size(free)} of disk space free"
        raise UserError(problem, str(parent), "free some space, or use --out on another disk", "export.disk_full")
