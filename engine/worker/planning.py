"""What a run decides before it trains: its workload, how rows are packed, batch size and memory.

Packing is checked on the run's own model and rows: that they stay independent. Memory is predicted before the optimizer
is made, then measured with the longest batch. Layers are compiled in between (`compile_by_training`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import torch

from engine.config.device_defaults import (
    answers_together,
    automatic_on_resume,
    memory_saved_order,
    resolve_checkpointing,
    stronger_than,
)
from engine.config.errors import UserError
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.model_config import (
    length_classes,
    length_limit,
    mixing_reason,
    row_separation,
    unshared_reason,
)
from engine.config.schema import Config
from engine.config.settings import flatten, with_settings
from engine.data.items import items_fingerprint, sampled
from engine.data.prepare import prepare
from engine.data.prepared import Preparation, lengths_of
from engine.data.rows import Row
from engine.evaluation.forward import within_memory
from engine.evaluation.general_text import general_rows
from engine.evaluation.preflight import decide_metric, refuse_rows
from engine.memory.dry_run.plan import RunEstimates, estimate_run, run_query, with_packing
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.automatic import IN_BACKWARD, ROUNDING, resolve_answers
from engine.memory.formula.estimate import StepShape
from engine.memory.probe import Probe, ProbeResult, available_memory, preserved_random_state
from engine.methods.machine import Machine, compute_dtype, is_out_of_memory, machine_facts, this_machine, versions
from engine.methods.model_source import config_of, fingerprint, load_tokenizer, vocabulary_size
from engine.methods.weights import unwrap_peft
from engine.runs.run.events import Compiled
from engine.runs.run.result import task_fingerprint
from engine.runs.task_hooks import load_tasks
from engine.training import varlen_attention
from engine.training.backward_step import BackwardStep
from engine.training.batches import (
    BatchSampler,
    Packing,
    Sharing,
    answer_tokens,
    choose_packing,
    decide_sharing,
    has_adapter_dropout,
    loss_weight,
    step_packing,
)
from engine.training.checkpoints import SavedCheckpoint
from engine.training.compilation import compile_layers, uncompiled
from engine.training.fit import enable_checkpointing
from engine.training.gradients import StepGradients
from engine.training.guards import first_line
from engine.training.loss import supports_logits_to_keep
from engine.training.meters import Meters
from engine.training.ranks import Ranks, class_name
from engine.training.row_independence import (
    CHECKED_ROWS,
    ONE_ROW,
    lengths_are_independent,
    rows_are_independent,
)
from engine.worker.checks import refuse_model
from engine.worker.evaluator import Evaluator
from engine.worker.run_log import EarlierWorkers

Warn = Callable[[str, str], None]
"""Called with the code and the text of a warning."""


def describe_workload(config: Config) -> dict[str, Any]:
    """Rows and tokens per split, steps, fingerprints, library versions and machine, as JSON types.

    Raises UserError if a run with this configuration would refuse the data or the model.
    """
    tokenizer = load_tokenizer(config.model)
    rows = prepare(config.data, config.train.max_length, tokenizer)
    chosen, notices = decide_metric(config.evaluation, rows.train)
    config = with_settings(config, {"evaluation.metric": chosen.metric})
    refuse_rows(config, rows)
    refuse_model(config, config_of(config.model), this_machine())
    general, _ = general_rows(config, tokenizer)
    tasks = load_tasks(config)
    test = sampled(rows.test_items, config.evaluation.rows)
    train = config.train
    sampler = BatchSampler.of(len(rows.train), train.batch, train.epochs, train.steps, train.seed)
    return {
        "work": {
            "model": config.model.id,
            "data": config.data.id,
            "train": len(rows.train),
            "validation": len(rows.validation),
            "test": len(test),
            "tokens": int(rows.train.lengths.sum()),
            "answer_tokens": int(rows.train.answer_tokens.sum()),
            "steps": sampler.steps,
            "batch": train.batch,
            "metric": chosen.metric,
            "metric_reason": chosen.reason,
            "overlap": msgspec.to_builtins(rows.facts.overlap),
            "columns": msgspec.to_builtins(rows.facts.columns),
            "data_usage": msgspec.to_builtins(rows.usage),
            "fingerprints": {
                "data": rows.facts.fingerprint,
                "test": items_fingerprint(test),
                "model": fingerprint(config.model, config_of(config.model)),
                **({"general": general} if general else {}),
                **{task_fingerprint(task.name): task.fingerprint for task in tasks},
            },
        },
        "versions": versions(),
        "machine": machine_facts(this_machine()),
        "warnings": [{"code": notice.code, "text": notice.text} for notice in (*rows.warnings(), *notices)],
    }


def with_answer_batch(
    config: Config, model_config: Any, machine: Machine, rows: Preparation, ranks: Ranks, meters: Meters
) -> Config:
    """The configuration with the number of rows that `evaluation.batch = "auto"` generates at a time: on a GPU as many
    as are predicted to fit, before weights are loaded. The memory probe measures it, and reduces it if needed.
    """
    if config.evaluation.batch != "auto":
        return config
    if machine.device == "cpu":
        return with_settings(config, {"evaluation.batch": answers_together("auto", "cpu")})
    longest = rows.train[int(lengths_of(rows.train).argmax())]
    length, answer = len(longest.input_ids), answer_tokens(longest)
    prompt = int(lengths_of(rows.test).max()) if len(rows.test) else length
    step = StepShape(count=config.train.batch, length=length, answer=answer, prompt=prompt)
    limit = min(ranks.all_gather(available_memory(meters)))
    try:
        return resolve_answers(run_query(config, model_config.to_dict(), machine, step, limit)).config
    except UserError:  # no formula for this architecture: what any GPU with room for its weights has room for
        return with_settings(config, {"evaluation.batch": answers_together("auto", "cpu")})


def decide_packing(
    config: Config,
    model: torch.nn.Module,
    rows: Sequence[Row],
    loss_rows: Sequence[Row],
    pad: int,
    machine: Machine,
    ranks: Ranks,
    warn: Warn,
) -> tuple[Packing, Sharing]:
    """The configured or automatic packing, if rows are independent with it; otherwise, with a warning, the first of
    packing by position ids, padding and one row at a time with which they are.

    Also returns what sharing prefixes saves, and switches the model to attention over segments if the packing has them.
    `loss_rows`: other rows whose loss is measured with the packing. Raises UserError if not even a row alone is
    independent of the padding after its end.
    """
    if not supports_logits_to_keep(model):
        text = f"{class_name(model)} does not support logits_to_keep: the LM head runs at every position, slower"
        warn("model.no_logits_to_keep", text)
    train, device = config.train, machine.device
    sampler = BatchSampler.of(len(rows), train.batch, train.epochs, train.steps, train.seed)
    longest = max([int(lengths_of(rows).max()), *(len(row.input_ids) for row in loss_rows)])
    packing, flash, reason, mixed = preferred_packing(config, model, rows, longest, machine)
    model_config = model.config.to_dict()
    reason = reason or unshared_reason(model_config, longest)
    packing, sharing = decide_sharing(packing, rows, sampler, config, reason)
    _explain(config, class_name(model), packing, sharing, reason, mixed, warn)
    if packing.segments:
        varlen_attention.enable(model)
    checked = sorted((rows[index] for index in sampler.indices(0)), key=lambda row: len(row.input_ids))[:CHECKED_ROWS]
    uncut = rows_of_each_length(rows, loss_rows, length_classes(model_config))
    simpler = [] if mixed else [choose_packing(rows, "packed", device, flash)] * packing.segments
    if flash and packing.mode == "packed" and varlen_attention.accepts_keywords(model):
        simpler, packing = [packing, *simpler], replace(packing, lengths=True)
    padded = choose_packing(rows, "padded", device, varlen=False)
    known = row_separation(model_config) == "separate" and length_limit(model_config) is None
    candidates = [packing, *simpler, padded] if packing.one_sequence else [padded]
    for candidate in candidates:
        trusted = candidate == padded and known
        if trusted or not _obstacle(model, checked, uncut, candidate, pad, device, ranks, warn):
            return step_packing(candidate, config), sharing
    obstacle = _obstacle(model, checked[:1], [], ONE_ROW, pad, device, ranks, warn)
    if not obstacle and steps_in_backward(config) and train.batch > 1:
        problem = f"{class_name(model)} computes one row at a time; optimizer.step_in_backward needs whole steps"
        raise UserError(problem, "optimizer.step_in_backward", "leave it out", code="model.rows_influence_each_other")
    if not obstacle:
        return ONE_ROW, sharing
    problem = f"{class_name(model)} computes a row alone wrongly: {obstacle}"
    hint = "choose a causal language model of an architecture in docs/models.md"
    raise UserError(problem, config.model.id, hint, code="model.rows_influence_each_other")


def rows_of_each_length(rows: Sequence[Row], loss_rows: Sequence[Row], classes: Sequence[int]) -> list[Row]:
    """The longest and the shortest row, and the shortest of each class of lengths in between. `classes`: the longest
    length of each class but the last, ascending.
    """
    lengths = np.concatenate([lengths_of(rows), [len(row.input_ids) for row in loss_rows]]).astype(int)
    of_class = np.searchsorted(classes, lengths)
    shortest = [np.where(of_class == number, lengths, lengths.max() + 1).argmin() for number in np.unique(of_class)]
    chosen = dict.fromkeys(map(int, [lengths.argmax(), *shortest]))
    return [rows[index] if index < len(rows) else loss_rows[index - len(rows)] for index in chosen]


def preferred_packing(
    config: Config, model: torch.nn.Module, rows: Sequence[Row], longest: int, machine: Machine
) -> tuple[Packing, bool, str, str]:
    """(packing as configured, else the fastest; whether the model uses FlashAttention; why it has no attention over
    segments; why its rows may not be in one sequence), the last two '' for none. `longest`: tokens of a row.
    """
    flash = model.config.get_text_config()._attn_implementation == "flash_attention_2"
    no_segments = varlen_attention.unsupported_reason(model, longest, machine, compute_dtype(config, machine))
    mixed, segments = mixing_reason(model.config.to_dict()), not no_segments
    packing = choose_packing(rows, config.train.packing, machine.device, flash or segments, segments, bool(mixed))
    return packing, flash, no_segments, mixed


def _obstacle(
    model: torch.nn.Module,
    rows: list[Row],
    uncut: list[Row],
    packing: Packing,
    pad: int,
    device: str,
    ranks: Ranks,
    warn: Warn,
) -> str:
    """Why a packing cannot be used, on this or another rank: rows influence each other, or the model cannot compute it.
    '' if it can be used. Warns of the reason. `uncut`: rows to compare to their full length.
    """
    try:
        checked = within_memory(lambda: rows_are_independent(model, rows, packing, pad, device))
        why = (checked or rows_are_independent(model, rows[:2], packing, pad, device)).reason
        if not why:
            why = _length_obstacle(model, uncut, packing, pad, device, warn)
    except (RuntimeError, ValueError, IndexError) as error:  # such as a head size that a GPU's kernel does not support
        if is_out_of_memory(error):
            raise
        why = f"it cannot be computed ({first_line(error)})"
    if why:
        how = "one row at a time" if packing.tokens == 1 else packing.mode.replace("_", " ")
        warn("model.packing_unsupported", f"{class_name(model)}, {how}: {why}; using a simpler packing")
    return (why or "rows of another rank influence each other") if ranks.any(bool(why)) else ""


def _length_obstacle(
    model: torch.nn.Module, rows: list[Row], packing: Packing, pad: int, device: str, warn: Warn
) -> str:
    """How rows, the longest of which is first, differ from rows alone; '' if they do not. If they do not fit in memory
    together the longest is compared with the next one; warns if not even these fit.
    """
    for part in (rows, rows[:2]):
        checked = within_memory(lambda: lengths_are_independent(model, part, packing, pad, device))  # noqa: B023
        if checked is not None:
            return checked.reason
    length = len(rows[0].input_ids)
    warn("model.length_unchecked", f"packing is not checked with the longest row ({length:,} tokens): out of memory")
    return ""


def _explain(
    config: Config, architecture: str, packing: Packing, sharing: Sharing, no_segments: str, mixed: str, warn: Warn
) -> None:
    """Warn if rows are padded though packing is configured or faster, and if shared prefixes are configured but
    unsupported, or would be worthwhile but are off.
    """
    setting = config.train.packing
    if packing.mode == "shared_prefix" or setting == "padded":
        return
    if mixed and packing.mode == "padded":
        text = f"rows are padded, not packed: {architecture} would let them influence each other, because {mixed}"
        warn("model.packing_unsupported", text)
    elif setting == "shared_prefix":
        warn("train.no_shared_prefix", f"{no_segments}: rows are packed without sharing prefixes")
    elif setting == "auto" and sharing.worthwhile and has_adapter_dropout(config):
        text = (
            f"shared prefixes are off because of adapter.dropout, which would be the same for all rows of a prefix; "
            f'train.packing = "shared_prefix" turns them on, to compute {100 / sharing.ratio:.0f}% of the tokens'
        )
        warn("train.shared_prefix_off", text)


def estimate_training(
    model: torch.nn.Module,
    evaluator: Evaluator,
    sampler: BatchSampler,
    resume: SavedCheckpoint | None,
    earlier: EarlierWorkers,
    machine: Machine,
    meters: Meters,
) -> tuple[RunEstimates, WorstCaseBatches]:
    """Predicted memory of the run's largest batches, with the settings that `auto` means for it; and these batches: the
    longest training step, held-out batch and prompts.
    """
    config, ranks, warn = evaluator.config, evaluator.ranks, evaluator.log.warn
    # The initial micro-batch size: the setting, else the size that the resumed run ended with, else the batch size.
    setting, batch = config.train.micro_batch, config.train.batch
    if setting == "auto":
        micro_batch = (earlier.micro_batch if resume else earlier.reduced_to) or batch
    else:
        micro_batch = min(setting, earlier.reduced_to or setting)
    rows, packing, device = evaluator.rows.train, evaluator.packing, machine.device
    first = min(resume.step if resume else 0, sampler.steps - 1)
    vocabulary, answers_only = vocabulary_size(unwrap_peft(model).config), supports_logits_to_keep(model)
    batches = WorstCaseBatches(
        packing=packing,
        step=longest_step(rows, sampler, first, micro_batch, packing, ranks.size),
        held_out=longest_held_out(evaluator.loss_rows, packing, device, vocabulary, answers_only),
        prompts=[item.row.prompt for item in evaluator.test] if evaluator.scores_test else [],
        choice=int(rows.answer_tokens.max()),
        pad=evaluator.tokenizer.pad_token_id,
    )
    limit = min(ranks.all_gather(available_memory(meters))) if device == "cuda" else None

    if ranks.shards_model:  # with an optimizer whose state can be sharded across the ranks
        config, name = with_settings(config, {"train.parallelism": "fsdp"}), config.optimizer.name
        if method_spec(config.method).trains_weights and name != "adamw":
            if name != "auto":
                text = f"optimizer.name = {name}: 8-bit state cannot be sharded across devices: using adamw"
                warn("optimizer.not_sharded", text)
            config = with_settings(config, {"optimizer.name": "adamw"})
    if resume and config.optimizer.name == "auto":  # the one whose state the checkpoint has
        config = with_settings(config, {"optimizer.name": automatic_on_resume(device, earlier.optimizer)})
    config = with_settings(config, decided_steps(config, packing, earlier if resume else None))
    if micro_batch != batch:  # configured, or found by the process that is resumed
        config = with_settings(config, {"train.micro_batch": micro_batch})
    config = with_packing(config, machine, packing)
    estimates = estimate_run(config, config_of(config.model), machine, batches, micro_batch, warn, limit)
    if steps_in_backward(estimates.config) and not steps_in_backward(config):
        text = "weights are updated in the backward pass, to save memory: a step is one micro-batch"
        clipped = ", and gradients are clipped tensor by tensor" if config.train.max_grad_norm else ""
        warn("train.step_in_backward", f"{text}{clipped}; --set optimizer.step_in_backward=false prevents it")
    return estimates, replace(batches, packing=step_packing(packing, estimates.config))


def decided_steps(config: Config, packing: Packing, earlier: EarlierWorkers | None) -> dict[str, Any]:
    """Settings that memory no longer decides: a resumed run has the steps of the `earlier` workers, and rows that are
    computed one at a time are no single micro-batch.
    """
    decided: dict[str, Any] = {}
    if earlier:
        decided = {ROUNDING: "remainder", IN_BACKWARD: False} | earlier.automatic
    elif packing == ONE_ROW:
        decided = {IN_BACKWARD: False}
    given = flatten(config)
    return {key: value for key, value in decided.items() if key in (ROUNDING, IN_BACKWARD) and given[key] == "auto"}


def probe(
    gradients: StepGradients,
    optimizer: torch.optim.Optimizer,
    batches: WorstCaseBatches,
    evaluator: Evaluator,
    estimates: RunEstimates,
    meters: Meters,
) -> ProbeResult:
    """Measure the run on every rank; on a CPU the memory of the evaluation is only predicted."""
    config, ranks, warn = evaluator.config, evaluator.ranks, evaluator.log.warn
    if evaluator.device == "cpu" and evaluator.scores_test:
        limit = min(ranks.all_gather(available_memory(meters)))
        evaluator.scorer.shrink(lambda batch: estimates.answering_fits(batch, limit))

    def evaluate() -> None:
        with uncompiled(gradients.model):
            evaluator.run_worst_case(gradients.model, batches.held_out)

    measured = probe_rank(config, gradients, optimizer, batches, estimates, meters, warn, evaluate)
    # All ranks probe the same batches, but their GPUs may differ, or others may use one of them. What fits on every
    # rank: the smallest micro-batch size, the strongest checkpointing; the peaks are the highest.
    probes = ranks.all_gather((gradients.micro_batch, measured))
    gradients.micro_batch = min(micro_batch for micro_batch, _ in probes)
    results = [result for _, result in probes]
    enabled = [result.checkpointing for result in results if result.checkpointing]
    strongest = max(enabled, key=memory_saved_order, default=None)
    if strongest is not None and strongest != measured.checkpointing:
        enable_checkpointing(gradients.model, strongest)
    evaluation = max((result.evaluation for result in results if result.evaluation is not None), default=None)
    return ProbeResult(max(result.training for result in results), evaluation, measured.seconds, strongest)


def probe_rank(
    config: Config,
    gradients: StepGradients,
    optimizer: torch.optim.Optimizer,
    batches: WorstCaseBatches,
    estimates: RunEstimates,
    meters: Meters,
    warn: Warn,
    evaluate: Callable[[], None] | None = None,
) -> ProbeResult:
    """Run the longest training batch; on a GPU also `evaluate`, the largest evaluation batch."""
    on_gpu = gradients.device == "cuda"
    chosen = resolve_checkpointing(estimates.config.train.gradient_checkpointing, "cuda")  # what the plan chose
    return Probe(
        gradients=gradients,
        optimizer=optimizer,
        batches=batches,
        meters=meters,
        automatic=config.train.micro_batch == "auto" and not gradients.whole_steps,
        evaluate=evaluate if on_gpu else None,
        fits=None if on_gpu else estimates.training_fits,
        warn=warn,
        stronger=stronger_than(chosen) if on_gpu and config.train.gradient_checkpointing == "auto" else [],
    ).run()


def compile_by_training(gradients: StepGradients, rows: Sequence[Row]) -> Compiled:
    """Compile by computing the gradients of one or two rows, without a step. Raises UserError if the compiler fails."""
    started = time.monotonic()
    with preserved_random_state():
        layers = compile_layers(gradients.model)
        gradients.model.train()
        # Two rows if micro-batches have more than one: torch.compile makes another graph for a dimension of size 1.
        used = list(rows[: min(2, gradients.micro_batch)])
        with BackwardStep(gradients.model, lambda: None, 0.0):  # drops each gradient
            gradients.forward_backward(used, sum(map(loss_weight, used)))
    return Compiled(layers=layers, seconds=round(time.monotonic() - started, 3))
