"""The plan of one method: predicted memory, whether it fits, sizes and changes that fit, and the least training time.

The least training time on a listed GPU, before anything has run on it, is that of the roofline model: no step can be
faster than its matrix products at the GPU's peak FLOP/s, nor than reading the weights for each forward and backward
pass at the peak bandwidth of its memory (Williams, Waterman and Patterson 2009, "Roofline", CACM 52(4)). The optimizer
step is limited by bandwidth. Attention, norms, dequantization and launches are not counted: real runs take longer, and
finished runs of the model on the device replace the bound (`history`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config import gpu_prices
from engine.config.device_defaults import resolve_checkpointing
from engine.config.errors import UserError
from engine.config.method_specs import QLORA, method_spec, method_title
from engine.config.model_config import (
    check_method,
    mixing_reason,
    row_separation,
    stored_weights_note,
    text_config,
    text_type,
    untested_family,
)
from engine.config.schema import Config
from engine.memory.formula.architecture import Architecture, read_architecture
from engine.memory.formula.automatic import memory_levels, resolve_automatic, sized_to_fit, smallest
from engine.memory.formula.estimate import MemoryEstimate, StepShape, rows_per_device
from engine.memory.formula.fit import (
    Fit,
    FitQuery,
    FormulaCorrection,
    LargestFit,
    Remedy,
    classify_fit,
    find_remedies,
    largest_evaluation_batch,
    largest_micro_batch,
    longest_rows,
    required_headroom,
)
from engine.memory.formula.history import TimeEstimate
from engine.memory.formula.memory_budget import MemoryBudget
from engine.memory.formula.weights_and_state import (
    BF16,
    PredictedRun,
    count_adapter_parameters,
    decoder_bytes,
    gradient_bytes,
    optimizer_state_bytes,
)
from engine.runs.run.usage import ModelAccount

RowsFrom = Literal["data", "max_length", "asked"]


class PlannedLevel(Struct, frozen=True, kw_only=True):
    """A choice of the settings that are `auto`, with less memory than the one before (`memory_levels`)."""

    change: str
    """What saves memory in addition; '' for the first."""
    settings: dict[str, Any]
    """Keys of the preset and their values."""
    peak: int
    """Bytes by the formula, corrected by the dry run if there is one, with the largest micro-batch that fits."""
    on_host: int
    """Bytes of optimizer state in host memory."""
    fit: Fit
    """With these settings."""
    seconds: float | None
    """The least time of a step of the planned rows; None if the GPU's peaks are unknown."""
    chosen: bool
    """Whether `auto` means it."""


class MethodPlan(Struct, kw_only=True):
    """Plan of one method on one device."""

    method: str
    """Its name."""
    automatic: bool
    """Whether the micro-batch size is `auto`: the largest that fits with the required headroom, else without it."""
    optimizer: str
    """With `auto` resolved."""
    formula: MemoryEstimate
    """In closed form."""
    dry_run: MemoryEstimate | None = None
    """Of the real training step on fake tensors; None with `--quick` or if it is not possible."""
    no_dry_run: str = ""
    """Why a requested dry run is missing."""
    fit: Fit
    """By the dry run, else by the formula: for training, and on a CPU also for evaluation."""
    margin: int
    """Bytes that should stay free in addition to the peak; with less, `fit` is `tight`."""
    micro_batch: LargestFit
    """The largest micro-batch size that fits."""
    evaluation_batch: LargestFit
    """The largest evaluation batch size that fits; on a GPU evaluation reduces it automatically."""
    longest: LargestFit
    """Tokens of the longest rows that fit with the planned micro-batch size."""
    longest_alone: LargestFit
    """Tokens of the longest rows that fit with micro-batch size 1."""
    levels: list[PlannedLevel] = field(default_factory=list)
    """What `auto` chooses from for a method that trains all weights on a GPU, the smallest change first."""
    changes: list[Remedy] = field(default_factory=list)
    """Settings that make it fit, smallest change first; empty if it fits or nothing helps."""
    account: ModelAccount | None = None
    """Use of every weight; None for a plan by the formula, which does not have the model."""
    time: TimeEstimate | None = None
    """Of training, from finished runs; set by `ftbench plan`."""

    @property
    def best(self) -> MemoryEstimate:
        """The dry run, else the formula."""
        return self.dry_run or self.formula


class RefusedMethod(Struct, frozen=True, kw_only=True):
    """A method that cannot train the model."""

    method: str
    """Its name."""
    code: str
    """Stable dotted name of the reason, as in errors."""
    problem: str
    """Why."""
    hint: str
    """What to do instead."""


class TrainingWork(Struct, frozen=True, kw_only=True):
    """Size of the complete training."""

    rows: int
    """Training rows."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens of the rows in all steps."""
    answer_tokens: int = 0
    """Tokens in the loss in one epoch."""
    shared_prefix: int = 0
    """Tokens of the prefix common to `shared_rows`, if prefixes are shared; 0 if it differs between groups of rows."""
    shared_rows: int = 0
    """Rows that were compared: all, or a sample of a large dataset."""
    token_ratio: float = 1.0
    """Tokens of the rows divided by tokens computed, because of shared prefixes."""


class PlanQuery(Struct, frozen=True, kw_only=True):
    """A request for a plan: one preset with several methods, and the memory in which it should fit."""

    configs: list[Config]
    qlora: Config | None = None
    """The preset with QLoRA, proposed if another method does not fit."""
    budget: MemoryBudget
    length: int | None = None
    """Tokens per row; None: those of the data, else the maximum of the preset."""
    data_given: bool = True
    """Whether the user named the data: then invalid data is an error."""


class MemoryPlan(Struct, kw_only=True):
    """The plan of all requested methods."""

    budget: MemoryBudget
    """The memory in which it should fit."""
    rows: StepShape
    """The planned rows."""
    rows_from: RowsFrom
    """`data`: longest row and answer of a step; `max_length`: of the preset or the model; `asked`: `--length`."""
    why: str = ""
    """Why the rows of the data are not used."""
    work: TrainingWork | None = None
    """None if the data was not read."""
    methods: list[MethodPlan]
    """One per method that can train the model."""
    refused: list[RefusedMethod] = field(default_factory=list)
    """The other methods."""
    notes: list[str] = field(default_factory=list)
    """Remarks."""


class PlanReport(MemoryPlan, kw_only=True):
    """What `ftbench plan --json` prints. Bytes, seconds; errors are predicted / measured - 1."""

    v: int
    """Rises when a field is renamed or changes its meaning."""
    preset: str
    """Its name."""
    model: str
    """As configured."""
    data: str
    """As configured."""
    batch: int
    """Rows per optimizer step."""
    measured_errors: list[TierError]
    """Of the planner, by tier and device."""


class TierError(Struct, kw_only=True):
    """How accurate a tier was."""

    tier: str
    """formula or dry run."""
    device: str
    """cpu or cuda."""
    median: float | None
    """Of absolute errors; None with too few measurements."""
    worst: float
    """Largest absolute error."""
    under: float
    """Largest underestimate."""
    against: str
    """What predictions were compared with."""


def planned_rows(config: Config, positions: int | None, length: int | None = None) -> StepShape:
    """A step of rows of `length` tokens, else of the maximum of preset and model; all tokens in the loss.

    Raises UserError for rows longer than the model supports.
    """
    if length and positions and length > positions:
        problem = f"the model supports {positions:,} positions"
        raise UserError(problem, f"--length {length}", f"use at most {positions}", code="plan.longer_than_model")
    length = length or min(config.train.max_length, positions or config.train.max_length)
    return StepShape(count=rows_per_device(config.train), length=length, answer=max(1, length - 1))


def device_notes(plan: MemoryPlan) -> list[str]:
    """What the figures mean for runs that several devices train."""
    estimates = [method.best for method in plan.methods if method.best.devices > 1]
    if not estimates:
        return []
    number = estimates[0].devices
    notes = [f"memory of one of {number} devices, each with about {plan.rows.count} rows of a step"]
    sharded = [method_title(estimate.method) for estimate in estimates if estimate.sharded]
    if sharded:
        notes.append(f"{', '.join(sharded)}: weights sharded across {number} devices (FSDP); not measured on a GPU yet")
    return notes


def packing_notes(config: Config, model_config: Mapping[str, Any], not_shared: str = "") -> list[str]:
    """Whether rows of this model can be packed, and why common prefixes are not computed once (`not_shared`), in a line
    each; none if they can, or are padded anyway.
    """
    if config.train.packing == "padded":
        return []
    kind = text_type(model_config)
    separation, reason = row_separation(model_config), mixing_reason(model_config)
    if separation == "segments" and config.model.attention not in ("auto", "sdpa"):
        reason = f"with {config.model.attention} attention {reason}"
    elif separation == "segments":
        reason = ""
    if reason:
        return [f"rows are padded, not packed: {kind} would let them influence each other, because {reason}"]
    notes = [f"common prefixes are computed with every row, not once: {not_shared}"] if not_shared else []
    if separation == "unknown":
        notes += [
            f"packing of {kind or 'this architecture'} is checked on the run's rows; if they mix, rows are padded"
        ]
    return notes


def family_notes(model_config: Mapping[str, Any], budget: MemoryBudget) -> list[str]:
    """What training does with weights that are stored quantized, how linear attention is planned on a GPU, and whether
    the model's family was tested.
    """
    layers = text_config(model_config).get("layer_types")
    linear = budget.device == "cuda" and isinstance(layers, (list, tuple)) and "linear_attention" in layers
    planned = (
        "linear attention is planned as transformers computes it in PyTorch; with the package flash-linear-attention "
        "it is faster and takes less memory"
    )
    notes = [stored_weights_note(model_config), planned if linear else "", untested_family(model_config)]
    return [note for note in notes if note]


def plan_method(
    query: FitQuery,
    asked: FitQuery,
    dry_run: MemoryEstimate | None,
    positions: int | None,
    qlora: tuple[Config, FormulaCorrection] | None = None,
    no_dry_run: str = "",
) -> MethodPlan:
    """Plan one method. `query` is what was `asked`, without `auto`; `dry_run`: its dry run, if it has one; `qlora`: as
    in `find_remedies`.
    """
    estimate = query.formula_estimate()
    scaled = replace(query, scale=FormulaCorrection.of(estimate, dry_run))
    best = dry_run or estimate
    fit = classify_fit(best.peak, query.budget, best.tier)
    micro_batch = largest_micro_batch(scaled)
    if micro_batch.limited_by == "token_limit":  # more of the data's rows may fit than of its longest rows
        micro_batch = msgspec.structs.replace(micro_batch, value=max(micro_batch.value, best.micro_batch))
    return MethodPlan(
        method=query.config.method,
        automatic=asked.config.train.micro_batch == "auto",
        optimizer=query.config.optimizer.name,
        formula=estimate,
        dry_run=dry_run,
        no_dry_run=no_dry_run,
        fit=fit,
        margin=required_headroom(best.peak, query.budget, best.tier),
        micro_batch=micro_batch,
        evaluation_batch=largest_evaluation_batch(scaled),
        longest=longest_rows(scaled, positions),
        longest_alone=longest_rows(scaled.with_micro_batch(1), positions),
        levels=planned_levels(replace(asked, scale=scaled.scale), query.config),
        changes=find_remedies(scaled, qlora, positions),
    )


def planned_levels(query: FitQuery, chosen: Config) -> list[PlannedLevel]:
    """The levels of full fine-tuning on a GPU with bytes and seconds; [] for others, whose levels only recompute.

    `chosen`: the configuration that `auto` means.
    """
    if query.budget.device != "cuda" or not method_spec(query.config.method).trains_weights:
        return []
    levels = memory_levels(query)
    used = max((number for number, level in enumerate(levels) if level.is_in(chosen)), default=-1)
    planned = []
    for number, level in enumerate(levels):
        asked = query.with_settings(level.settings)
        sized = sized_to_fit(asked, 1, True) or sized_to_fit(asked, 1, False) or smallest(asked)
        estimate, peak, rows = sized.formula_estimate(), sized.peak(), query.rows
        answers = rows.count * rows.answer
        work = TrainingWork(rows=rows.count, steps=1, tokens=rows.count * rows.length, answer_tokens=answers)
        planned.append(
            PlannedLevel(
                change=level.change,
                settings=level.settings,
                peak=peak,
                on_host=estimate.on_host,
                fit=classify_fit(peak, query.budget, "formula"),
                seconds=least_seconds(sized.config, query.model_config, estimate, work, query.budget),
                chosen=number == used,
            )
        )
    return planned


def trainable_with(question: PlanQuery, model_config: Mapping[str, Any]) -> tuple[PlanQuery, list[RefusedMethod]]:
    """The question with the methods that can train the model, and those that cannot.

    Raises the refusal as UserError if no method can, or only one is asked for.
    """
    errors: dict[str, UserError] = {}
    for config in [*question.configs, *filter(None, [question.qlora])]:
        try:
            check_method(model_config, config.model.id, config.method)
        except UserError as error:
            errors[config.method] = error
    configs = [config for config in question.configs if config.method not in errors]
    if not configs:
        raise errors[question.configs[0].method]
    refused = [
        RefusedMethod(method=config.method, code=error.code, problem=error.problem, hint=error.hint)
        for config in question.configs
        if (error := errors.get(config.method))
    ]
    return msgspec.structs.replace(
        question, configs=configs, qlora=None if QLORA.name in errors else question.qlora
    ), refused


def quick_plan(question: PlanQuery, model_config: Mapping[str, Any]) -> MemoryPlan:
    """Plan by the formula only, in milliseconds and without reading data.

    Raises UserError if `model_config` is not that of a decoder, or as `trainable_with`.
    """
    positions = positions_of(model_config)
    rows = planned_rows(question.configs[0], positions, question.length)
    question, refused = trainable_with(question, model_config)

    proposed = None
    if question.qlora:
        by_qlora = FitQuery(question.qlora, model_config, rows, question.budget)
        proposed = resolve_automatic(by_qlora).config, FormulaCorrection()
    plans = []
    for config in question.configs:
        qlora = proposed if config.method != QLORA.name else None
        asked = FitQuery(config, model_config, rows, question.budget)
        plans.append(plan_method(resolve_automatic(asked), asked, None, positions, qlora))
    architecture = model_config.get("model_type") or "this architecture"
    return MemoryPlan(
        budget=question.budget,
        rows=rows,
        rows_from="asked" if question.length else "max_length",
        methods=plans,
        refused=refused,
        notes=[
            f"not checked: whether transformers supports {architecture}, and the data",
            *packing_notes(question.configs[0], model_config),
            *family_notes(model_config, question.budget),
        ],
    )


def positions_of(model_config: Mapping[str, Any]) -> int | None:
    """Maximum sequence length of a model, None if its configuration does not give it."""
    text = text_config(model_config)
    for name in ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"):
        value = text.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 1:
            return value
    return None


TERA, GIGA = 10**12, 10**9
BUS = 32 * GIGA
"""Bytes per second of PCIe 4.0 x16 in one direction, without its protocol's overhead."""


class TrainingCost(Struct, frozen=True, kw_only=True):
    """What all steps of a training must do at least."""

    flops: float
    """Of matrix products."""
    weight_bytes: float
    """Weights read by forward and backward passes."""
    update_bytes: float
    """State read and written, and gradients read, by the optimizer."""
    bus_bytes: float
    """Optimizer state and inputs of layers that are copied from host memory and back."""


def least_seconds(
    config: Config, model_config: Mapping[str, Any], estimate: MemoryEstimate, work: TrainingWork, budget: MemoryBudget
) -> float | None:
    """The bound in seconds; None if the GPU's peaks are unknown, and for fp32, whose peaks are not listed.

    `estimate`: of the planned micro-batch size and checkpointing.
    """
    if budget.device != "cuda" or "MIG" in budget.name.split():  # a part of a GPU (MIG) has only a part of its peaks
        return None
    gpus = gpu_prices.list_gpus()
    gpu = next((gpu for gpu in gpus if gpu.name == budget.name), None) or gpu_prices.find_gpu(budget.name, gpus)
    if gpu is None or not gpu.bf16_tflops or not gpu.memory_bandwidth:
        return None
    shape = read_architecture(model_config, config.model.id)
    run = PredictedRun(shape, config, budget.device, budget.bf16)
    if run.size != BF16 and not run.autocast:
        return None
    cost = training_cost(config, shape, estimate, work, budget)
    bandwidth = gpu.memory_bandwidth * GIGA
    computing = max(cost.flops / (gpu.bf16_tflops * TERA), cost.weight_bytes / bandwidth)
    return computing + cost.update_bytes / bandwidth + cost.bus_bytes / BUS


def training_cost(
    config: Config, shape: Architecture, estimate: MemoryEstimate, work: TrainingWork, budget: MemoryBudget
) -> TrainingCost:
    """FLOPs and bytes of all steps."""
    trains = method_spec(config.method).trains_weights
    checkpointing = resolve_checkpointing(estimate.gradient_checkpointing, budget.device)
    recomputed = checkpointing.layers(shape.layers) / shape.layers
    tokens = work.tokens / work.token_ratio
    seen = work.steps * config.train.batch / max(1, work.rows)  # epochs
    decoder = 0.0  # weights by which a token is multiplied: of experts only those it is routed to
    for kind in shape.groups():
        experts = kind.expert_weights * kind.experts_used / kind.experts if kind.experts else 0
        decoder += kind.layers * (sum(linear.weights for linear in kind.linears) + experts)
    per_token = round(decoder) * (2 + trains + recomputed)
    if not trains:
        per_token += count_adapter_parameters(shape, config) * (3 + recomputed)
    head = shape.vocabulary * shape.hidden * (2 + trains)
    micro_batches = work.steps * math.ceil(config.train.batch / estimate.micro_batch)
    run = PredictedRun(shape, config, budget.device, budget.bf16)
    inputs = tokens * shape.layers * shape.hidden * run.size if checkpointing.offload else 0
    return TrainingCost(
        flops=2 * tokens * per_token + 2 * work.answer_tokens * seen * head,
        weight_bytes=micro_batches * decoder_bytes(run) * (2 + recomputed),
        update_bytes=work.steps * (2 * optimizer_state_bytes(run) + gradient_bytes(run)),
        bus_bytes=2 * (work.steps * estimate.on_host + inputs),
    )
