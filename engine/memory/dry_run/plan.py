"""Plan several methods ("will it fit?") or one run: rows, formula, dry run, and what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from engine.config import schema
from engine.config.catalog import CATALOG, pulled_folder
from engine.config.errors import UserError
from engine.config.files import expanded
from engine.config.method_specs import QLORA, method_spec
from engine.config.model_config import mixing_reason, unshared_reason
from engine.config.settings import with_settings
from engine.data.items import FINAL_VALIDATION_ROWS, all_rows, sampled, sampled_by_rows
from engine.data.prepare import prepare
from engine.data.prepared import Preparation
from engine.data.source import EMBEDDED
from engine.memory.dry_run.dry_run import NO_DRY_RUN, dry_run
from engine.memory.dry_run.fake_model import predict_account, segments_unsupported, uses_flash_attention
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.automatic import memory_levels, resolve_automatic, resolve_optimizer, settle_optimizer
from engine.memory.formula.estimate import CONTEXT, MemoryEstimate, PeakMemory, StepShape
from engine.memory.formula.fit import FitQuery, FormulaCorrection, classify_fit
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.method_plan import (
    MemoryPlan,
    MethodPlan,
    PlanQuery,
    RowsFrom,
    TrainingWork,
    family_notes,
    packing_notes,
    plan_method,
    planned_rows,
    positions_of,
    trainable_with,
)
from engine.memory.formula.weights_and_state import shard_count
from engine.methods.machine import Machine, this_machine
from engine.methods.model_source import (
    TOKENIZER_FILES,
    ModelLocation,
    config_at,
    config_of,
    load_tokenizer,
    vocabulary_size,
)
from engine.runs.run.result import Predicted
from engine.runs.run.usage import left_out_warning
from engine.training.batches import (
    BatchSampler,
    Packing,
    Sharing,
    choose_packing,
    decide_sharing,
    sharing_of,
    step_packing,
)

Progress = Callable[[str], None]


@dataclass(frozen=True)
class PlannedSubject:
    """The model, machine and rows of a plan, common to all methods."""

    model_config: Any
    """transformers' configuration of the model."""
    config_json: Mapping[str, Any]
    """The same as `config.json` has it."""
    positions: int | None
    machine: Machine
    budget: MemoryBudget
    rows: StepShape
    data: DataWorkload | None
    """The dataset that the rows were taken from; None if it was not read."""

    def query(self, config: schema.Config) -> FitQuery:
        """A query for a configuration, with the packing that the worker would choose for the data's rows."""
        if self.data is not None:
            config = with_packing(config, self.machine, self.data.packing)
        return FitQuery(config, self.config_json, self.rows, self.budget)


def plan_methods(question: PlanQuery, progress: Progress) -> MemoryPlan:
    """Plan each method by formula and dry run, for the rows of the dataset if they can be read.

    Raises UserError if the model's configuration is unreadable or not a decoder's, for invalid data, and as
    `trainable_with`.
    """
    machine, notes = machine_for(question.budget)
    model = question.configs[0].model
    progress(f"reading the configuration of {model.id}")
    model_config, shape_note = model_config_of(model)
    config_json = model_config.to_dict()
    positions = positions_of(config_json)
    question, refused = trainable_with(question, config_json)
    first = question.configs[0]
    rows, why = planned_rows(first, positions, question.length), ""
    data: DataWorkload | None = None
    origin: RowsFrom = "asked" if question.length else "max_length"
    if shape_note and not question.length:
        why = "the model's tokenizer is not on this machine"
    elif not question.length:
        progress(f"reading {first.data.id}")
        read = read_rows(first, model_config, machine, question.data_given)
        if isinstance(read, str):
            why = read
        else:
            rows, origin, data = read.worst_case(first, first.train.batch).rows(), "data", read
    subject = PlannedSubject(model_config, config_json, positions, machine, question.budget, rows, data)

    methods: list[MethodPlan] = []
    scale = FormulaCorrection()
    for config in question.configs:
        progress(f"dry run of {config.method}")
        qlora = None  # QLoRA as it would run on this machine, proposed if another method does not fit
        if question.qlora and config.method != QLORA.name:
            qlora = resolve_automatic(subject.query(question.qlora)).config, scale
        method_plan = _method_plan(subject.query(config), subject, qlora)
        if config.method == QLORA.name:
            scale = FormulaCorrection.of(method_plan.formula, method_plan.dry_run)
        methods.append(method_plan)
    accounts = ((plan.account, method_spec(plan.method)) for plan in methods if plan.account)
    return MemoryPlan(
        budget=question.budget,
        rows=rows,
        rows_from=origin,
        why=why,
        work=data.whole if data else None,
        methods=methods,
        refused=refused,
        notes=[
            *notes,
            *filter(None, [shape_note]),
            *family_notes(config_json, question.budget),
            *packing_notes(first, config_json, data.not_shared if data else ""),
            *filter(None, (left_out_warning(account, spec) for account, spec in accounts)),
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


def _method_plan(
    query: FitQuery, subject: PlannedSubject, qlora: tuple[schema.Config, FormulaCorrection] | None
) -> MethodPlan:
    config, asked = query.config, resolve_automatic(query)
    exact, why = _dry_run(asked, subject)
    if exact and classify_fit(exact.peak, subject.budget, exact.tier) != "fits":
        # What `auto` chose by the formula does not fit by the dry run: choose again by the corrected formula.
        scale = FormulaCorrection.of(asked.formula_estimate(), exact)
        less = replace(resolve_automatic(replace(query, scale=scale)), scale=FormulaCorrection())
        if less.config != asked.config:
            asked = less
            exact, why = _dry_run(asked, subject)
    if exact and config.optimizer.name == "auto":
        asked, (exact,) = settle_optimizer(asked, [exact])  # as the run does
    method_plan = plan_method(asked, query, exact, subject.positions, qlora, why)
    method_plan.account = predict_account(config, subject.model_config, subject.machine)
    return method_plan


def _dry_run(asked: FitQuery, subject: PlannedSubject) -> tuple[MemoryEstimate | None, str]:
    """(the dry run, or None and the reason); with the data's own batches if they are known."""
    if shard_count(asked.config) > 1:
        return None, "a dry run has the whole model, and its weights are sharded across devices"
    micro_batch, batches = asked.config.train.micro_batch, None
    assert isinstance(micro_batch, int)  # `auto` is resolved
    if subject.data and not uses_flash_attention(asked.config, subject.machine):  # whose packed rows it cannot use
        batches = subject.data.worst_case(asked.config, micro_batch)
    try:
        return dry_run(asked.config, subject.model_config, subject.machine, asked.rows, batches), ""
    except UserError as error:
        if error.code != NO_DRY_RUN:
            raise
        return None, error.problem


def model_config_of(model: schema.Model) -> tuple[Any, str]:
    """transformers' configuration of a model, and a note if it is the shape in the catalog.

    A folder needs only its config.json, neither weights nor tokenizer; a model of the catalog that cannot be downloaded
    needs no file. Raises UserError for an architecture that transformers does not support or that needs remote code.
    """
    try:
        folder = _model_folder(model)
        return config_at(folder) if folder else config_of(model), ""
    except UserError:
        if model.id not in CATALOG or (pulled_folder(model.id) / "config.json").exists():
            raise
    note = f"{model.id} is not on this machine and the Hub is unreachable: using its shape in the catalog"
    return AutoConfig.for_model(**CATALOG[model.id].shape), note


def _model_folder(model: schema.Model) -> ModelLocation | None:
    """The folder of a model that `model.id` names, with or without weights, which `locate` requires; None without."""
    folder = Path(model.id)
    return ModelLocation(str(folder), True) if (folder / "config.json").is_file() else None


MAX_BYTES = 16 << 20
"""Maximum bytes of files read for a plan: 1 MiB takes 1 s on one core (GSM8K with SmolLM2's tokenizer)."""


def with_packing(config: schema.Config, machine: Machine, packing: Packing) -> schema.Config:
    """The configuration with the packing that was chosen for the rows, which decides which tokens the formula counts.

    With FlashAttention it stays `auto`, which also means that packed rows need no mask.
    """
    return config if uses_flash_attention(config, machine) else with_settings(config, {"train.packing": packing.mode})


@dataclass(frozen=True)
class DataWorkload:
    """Prepared data with its sampler and packing."""

    prepared: Preparation
    sampler: BatchSampler
    packing: Packing
    sharing: Sharing
    vocabulary: int
    machine: Machine
    not_shared: str = ""
    """Why the architecture computes common prefixes with every row, if computing them once would save tokens."""

    @property
    def whole(self) -> TrainingWork:
        """Rows, steps and tokens of the complete training: rows in all steps times their mean length."""
        rows = self.prepared.train
        epochs, rest = divmod(self.sampler.steps, self.sampler.per_epoch)
        rows_in_steps = epochs * len(rows) + rest * self.sampler.batch
        tokens = rows_in_steps * int(rows.lengths.sum()) / len(rows)
        shares = self.packing.mode == "shared_prefix"
        return TrainingWork(
            rows=len(rows),
            steps=self.sampler.steps,
            tokens=round(tokens),
            answer_tokens=int(rows.answer_tokens.sum()),
            shared_prefix=self.sharing.prefix if shares else 0,
            shared_rows=self.sharing.rows if shares else 0,
            token_ratio=round(self.sharing.ratio, 3) if shares else 1.0,
        )

    def worst_case(self, config: schema.Config, micro_batch: int) -> WorstCaseBatches:
        """The largest batches of a run with this configuration and micro-batch size."""
        rows, packing = self.prepared, step_packing(self.packing, config)
        scored = [] if config.evaluation.when == "never" else sampled(rows.test_items, config.evaluation.rows)
        lost = all_rows([*sampled_by_rows(rows.validation_items, FINAL_VALIDATION_ROWS), *scored])
        return WorstCaseBatches(
            packing=packing,
            step=longest_step(rows.train, self.sampler, 0, micro_batch, packing, config.train.devices),
            held_out=longest_held_out(lost, packing, self.machine.device, self.vocabulary, answers_only=True),
            prompts=[item.row.prompt for item in scored],
            choice=int(rows.train.answer_tokens.max()),
            pad=0,
        )


def read_rows(config: schema.Config, model_config: Any, machine: Machine, given: bool) -> DataWorkload | str:
    """Read the data, or return the reason why it is not read. `given`: the user named the data.

    Raises UserError if the user named data that cannot be trained on.
    """
    if why := _costly(config.data):
        return why
    folder = _model_folder(config.model)
    if folder and not any((Path(folder.source) / name).exists() for name in TOKENIZER_FILES):
        return "the model folder has no tokenizer"
    try:
        tokenizer = load_tokenizer(config.model, folder)
        prepared = prepare(config.data, config.train.max_length, tokenizer)
    except UserError as error:
        if given:
            raise
        return error.line
    if not prepared.train:
        return "no training rows"
    train = config.train
    sampler = BatchSampler.of(len(prepared.train), train.batch, train.epochs, train.steps, train.seed)
    reason = segments_unsupported(config, model_config, machine, prepared.longest)
    segments = not reason
    flash = uses_flash_attention(config, machine)
    mixed = bool(mixing_reason(model_config.to_dict()))
    packing = choose_packing(prepared.train, train.packing, machine.device, segments or flash, segments, mixed)
    reason = reason or unshared_reason(model_config.to_dict(), prepared.longest)
    packing, sharing = decide_sharing(packing, prepared.train, sampler, config, reason)
    if reason and train.packing == "auto" and not sharing_of(prepared.train, sampler, train.batch, packing).worthwhile:
        reason = ""
    return DataWorkload(
        prepared=prepared,
        sampler=sampler,
        packing=packing,
        sharing=sharing,
        not_shared=reason if train.packing in ("auto", "shared_prefix") else "",
        vocabulary=vocabulary_size(model_config),
        machine=machine,
    )


def _costly(data: schema.Data) -> str:
    if data.id in EMBEDDED:
        return ""
    path = expanded(data.id)
    if not path.exists():
        return "" if path.suffix or data.id.count("/") != 1 else "datasets on the Hub are not downloaded for a plan"
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    size = sum(file.stat().st_size for file in files)
    return f"data of {size >> 20:,} MiB is too large to be read for a plan" if size > MAX_BYTES else ""


@dataclass(frozen=True)
class RunEstimates:
    """Memory estimates of one run, and the settings they lead to."""

    tiers: list[MemoryEstimate]
    """By formula and dry run, least accurate first; empty if there are none."""
    formula_with: Callable[[dict[str, Any]], MemoryEstimate] | None
    """The formula with other settings, such as {"train.micro_batch": 2}."""
    config: schema.Config
    """The configuration with micro-batch size and optimizer; activation checkpointing is chosen if it was for a GPU."""

    def training_fits(self, micro_batch: int, limit: int) -> bool:
        """Whether training with this micro-batch size is predicted to fit in `limit` bytes."""
        return self._fits("training", {"train.micro_batch": micro_batch}, limit)

    def answering_fits(self, batch: int, limit: int) -> bool:
        """Whether generation with this batch size is predicted to fit in `limit` bytes."""
        return self._fits("answering", {"evaluation.batch": batch}, limit)

    def _fits(self, what: str, settings: dict[str, Any], limit: int) -> bool:
        """By the formula, corrected by the dry run with the current settings; true without a prediction."""
        if self.best is None or self.formula_with is None:
            return True
        changed = self.formula_with(settings)
        new, old, right = (getattr(estimate, what) for estimate in (changed, self.tiers[0], self.best))
        if new is None or old is None or right is None:
            return True
        return as_measured(changed, new) * as_measured(self.best, right) / as_measured(self.tiers[0], old) <= limit

    @property
    def micro_batch(self) -> int:
        assert isinstance(self.config.train.micro_batch, int)
        return self.config.train.micro_batch

    @property
    def best(self) -> MemoryEstimate | None:
        return self.tiers[-1] if self.tiers else None

    def predicted(self) -> list[Predicted]:
        """The predictions for `result.json`."""
        return [
            Predicted(
                tier=estimate.tier,
                training=as_measured(estimate, estimate.training),
                evaluation=as_measured(estimate, estimate.evaluation),
            )
            for estimate in self.tiers
        ]


def as_measured(estimate: MemoryEstimate, peak: PeakMemory) -> int:
    """Bytes of a peak that torch's pool on a GPU will show: without CUDA context and paged state."""
    context = CONTEXT if "pool" in peak.parts else 0
    return peak.total - context - min(max(0, estimate.pageable - estimate.on_host), peak.parts.get("optimizer", 0))


def estimate_run(
    config: schema.Config,
    model_config: Any,
    machine: Machine,
    batches: WorstCaseBatches,
    micro_batch: int,
    warn: Callable[[str, str], None],
    limit: int | None = None,
) -> RunEstimates:
    """Formula and dry run for the run's largest batches; the dry run only with `train.probe`: it takes 1 s, and 5 s for
    8 billion parameters. A failed prediction is a warning and never ends the run.

    `limit`: bytes available to tensors on a GPU, for which `auto` settings are chosen. `micro_batch` is used if
    `limit` is None or nothing else is `auto`.
    """
    query = run_query(config, model_config.to_dict(), machine, batches.rows(), limit)
    chooses = False
    chosen = query.with_micro_batch(micro_batch)
    if machine.device == "cpu":
        chosen = resolve_optimizer(chosen)
    estimates: list[MemoryEstimate] = []

    def run_dry() -> MemoryEstimate:
        largest = replace(batches, packing=step_packing(batches.packing, chosen.config))
        return dry_run(chosen.config, model_config, machine, chosen.rows, largest)

    try:
        chooses = limit is not None and len(memory_levels(query)) > 1
        chosen = resolve_automatic(query) if chooses else chosen
        estimates.append(chosen.formula_estimate())
    except UserError as error:
        warn("plan.no_formula", f"no memory formula for this model: {error.problem}")
    light = bool(estimates)
    try:
        if config.train.probe and shard_count(chosen.config) == 1:  # a dry run has the whole model
            exact = run_dry()
            if light and chooses and exact.peak > query.budget.free:
                scale = FormulaCorrection.of(estimates[0], exact)
                chosen = replace(resolve_automatic(replace(query, scale=scale)), scale=FormulaCorrection())
                estimates = [chosen.formula_estimate()]
                exact = run_dry()
            estimates.append(exact)
    except Exception as error:  # noqa: BLE001 - unusual architectures fail in many ways, and the run does not need it
        warn("plan.no_dry_run", f"no dry run for this model: {' '.join(str(error).split())[:200]}")
    if config.optimizer.name == "auto":
        chosen, estimates = settle_optimizer(chosen, estimates)
    formula_with = (lambda settings: chosen.with_settings(settings).formula_estimate()) if light else None
    return RunEstimates(estimates, formula_with, chosen.config)


def run_query(
    config: schema.Config, model_config: dict[str, Any], machine: Machine, rows: StepShape, limit: int | None
) -> FitQuery:
    """The run as a question to the plan; estimates include the CUDA context, which `limit` does not."""
    budget = MemoryBudget(
        name=machine.name, device=machine.device, source="gpu", total=(limit or 0) + CONTEXT, bf16=machine.bf16
    )
    return FitQuery(config, model_config, rows, budget)
