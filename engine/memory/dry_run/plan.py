"""Plan several methods ("will it fit?"): formula and dry run of each method, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from engine.config import schema
from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.method_specs import QLORA
from engine.memory.dry_run.data_rows import DataWorkload, read_rows, with_packing
from engine.memory.dry_run.dry_run import NO_DRY_RUN, dry_run
from engine.memory.dry_run.fake_model import predict_account
from engine.memory.formula.automatic import resolve_automatic, settle_optimizer
from engine.memory.formula.estimate import MemoryEstimate, StepShape
from engine.memory.formula.fit import FitQuery, FormulaCorrection, classify_fit
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import (
    MemoryPlan,
    MethodPlan,
    PlanQuery,
    RowsFrom,
    family_notes,
    left_out_notes,
    packing_notes,
    plan_method,
    planned_rows,
    positions_of,
)
from engine.memory.formula.sharding import shard_count
from engine.methods.machine import Machine, this_machine
from engine.methods.model_source import ModelLocation, config_of, load_error

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PlannedModel:
    """The model and machine of a plan, common to all methods."""

    model_config: Any
    """transformers' configuration of the model."""
    config_json: Mapping[str, Any]
    """The same as `config.json` has it."""
    positions: int | None
    machine: Machine
    budget: MemoryBudget
    shape_only: bool = False
    """Whether the model is not on this machine and not downloadable: its shape comes from the catalog."""


@dataclass(frozen=True)
class PlannedRows:
    """The rows to plan for and their origin."""

    rows: StepShape
    origin: RowsFrom
    why: str = ""
    data: DataWorkload | None = None


def plan(question: PlanQuery, progress: Progress) -> MemoryPlan:
    """Plan each method by formula and dry run, for the rows of the dataset if they can be read.

    Raises UserError if the model's configuration is unreadable or not a decoder's, and for invalid data.
    """
    machine, notes = machine_for(question.budget)
    model = question.configs[0].model
    progress(f"reading the configuration of {model.id}")
    model_config, note = model_config_of(model)
    config_json = model_config.to_dict()
    subject = PlannedModel(
        model_config, config_json, positions_of(config_json), machine, question.budget, shape_only=bool(note)
    )
    chosen = _choose_rows(question, subject, progress)
    methods: list[MethodPlan] = []
    scale = FormulaCorrection()
    for config in question.configs:
        progress(f"dry run of {config.method}")
        qlora = (
            (_with_chosen_packing(question.qlora, chosen), scale)
            if question.qlora and config.method != QLORA.name
            else None
        )
        found = _method_plan(_with_chosen_packing(config, chosen), chosen, subject, qlora)
        scale = FormulaCorrection.of(found.formula, found.dry_run) if config.method == QLORA.name else scale
        methods.append(found)
    return MemoryPlan(
        budget=question.budget,
        rows=chosen.rows,
        rows_from=chosen.origin,
        why=chosen.why,
        work=chosen.data.whole if chosen.data else None,
        methods=methods,
        notes=[
            *notes,
            *filter(None, [note]),
            *family_notes(config_json),
            *packing_notes(question.configs[0], config_json, chosen.data.not_shared if chosen.data else ""),
            *left_out_notes(methods),
        ],
    )


def machine_for(budget: MemoryBudget) -> tuple[Machine, list[str]]:
    """The machine to plan for, which need not be this one, and notes about it."""
    here = this_machine()
    if budget.source == "listed" or here.device != budget.device:
        there = Machine(budget.device, budget.name, bf16=budget.bf16, flash_attention=False)
        blind = budget.source in ("gpu", "shared") and here.device == "cpu"
        return there, [f"torch cannot use {budget.name}: a run on this machine would use the CPU"] if blind else []
    return here, []


def _choose_rows(question: PlanQuery, subject: PlannedModel, progress: Progress) -> PlannedRows:
    config = question.configs[0]
    planned = planned_rows(config, subject.positions, question.length)
    if question.length:
        return PlannedRows(planned, "asked")
    if subject.shape_only:
        return PlannedRows(planned, "max_length", why="the model's tokenizer is not on this machine")
    progress(f"reading {config.data.id}")
    read = read_rows(config, subject.model_config, subject.machine, question.data_given)
    if isinstance(read, str):
        return PlannedRows(planned, "max_length", why=read)
    return PlannedRows(read.worst_case(config, config.train.batch).rows(), "data", data=read)


def _with_chosen_packing(config: schema.Config, chosen: PlannedRows) -> schema.Config:
    """The configuration with the packing that the worker would choose for the data's rows, if they are known."""
    return config if chosen.data is None else with_packing(config, chosen.data.machine, chosen.data.packing)


def _method_plan(
    config: schema.Config,
    chosen: PlannedRows,
    subject: PlannedModel,
    qlora: tuple[schema.Config, FormulaCorrection] | None,
) -> MethodPlan:
    query = FitQuery(config, subject.config_json, chosen.rows, subject.budget)
    asked = resolve_automatic(query)
    exact, why = _dry_run(asked, chosen, subject)
    if exact and classify_fit(exact.peak, subject.budget, exact.tier) != "fits":
        # What `auto` chose by the formula does not fit by the dry run: choose again by the corrected formula.
        scale = FormulaCorrection.of(asked.formula_estimate(), exact)
        less = replace(resolve_automatic(replace(query, scale=scale)), scale=FormulaCorrection())
        if less.config != asked.config:
            asked = less
            exact, why = _dry_run(asked, chosen, subject)
    if exact and config.optimizer.name == "auto":
        asked, (exact,) = settle_optimizer(asked, [exact])  # as the run does
    found = plan_method(asked, config.train.micro_batch == "auto", exact, subject.positions, qlora, why)
    found.account = predict_account(config, subject.model_config, subject.machine)
    return found


def _dry_run(asked: FitQuery, chosen: PlannedRows, subject: PlannedModel) -> tuple[MemoryEstimate | None, str]:
    """(the dry run, or None and the reason); with the data's own batches if they are known."""
    if shard_count(asked.config) > 1:
        return None, "a dry run has the whole model, and its weights are sharded across devices"
    micro_batch = asked.config.train.micro_batch
    work = chosen.data.work(asked.config, micro_batch) if chosen.data and isinstance(micro_batch, int) else None
    try:
        return dry_run(asked.config, subject.model_config, subject.machine, asked.rows, work), ""
    except UserError as error:
        if error.code != NO_DRY_RUN:
            raise
        return None, error.line


def model_config_of(model: schema.Model) -> tuple[Any, str]:
    """transformers' configuration of a model, and a note if it is the shape in the catalog.

    A folder needs only its config.json, neither weights nor tokenizer; a model of the catalog that cannot be downloaded
    needs no file. Raises UserError for an architecture that transformers does not support or that needs remote code.
    """
    folder = Path(model.id)
    if not (folder / "config.json").is_file():
        try:
            return config_of(model), ""
        except UserError:
            if model.id not in CATALOG or (pulled_folder(model.id) / "config.json").exists():
                raise
        note = f"{model.id} is not on this machine and the Hub is unreachable: using its shape in the catalog"
        return AutoConfig.for_model(**CATALOG[model.id].shape), note
    try:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False), ""
    except (OSError, ValueError, KeyError) as error:
        raise load_error(ModelLocation(str(folder), True), "configuration", error) from error
