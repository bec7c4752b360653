"""A whole run: data, model, score of the base, training, score of the trained model, saving.

`run_phases` is the run from top to bottom, `train` its training phase, and `TrainingRecord` what happens between the
steps of `engine/training/fit.py`.
What each call needs is passed to it; events go through the `RunLog`, which also says what an error means for the run.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import torch
from transformers import set_seed

from engine.config.device_defaults import ActivationCheckpointing, resolve_checkpointing
from engine.config.errors import UserError
from engine.config.files import folder_bytes
from engine.config.method_specs import method_spec, steps_in_backward
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.config.text import amount
from engine.data.items import EvaluationItem, all_rows, items_fingerprint, sampled_by_rows
from engine.data.prepare import prepare
from engine.data.prepared import Preparation
from engine.evaluation.preflight import MetricChoice, decide_metric, refuse_rows
from engine.export.merged import merge_obstacle
from engine.hardware.nvml import NvmlGpu
from engine.memory.dry_run.plan import RunEstimates
from engine.memory.formula.automatic import chosen_savings
from engine.memory.formula.weights_and_state import copies_checkpoints
from engine.memory.probe import available_for_copy, available_memory
from engine.methods import method
from engine.methods.adapters import changes_base_weights, save, save_initial_adapter, unwrap_peft
from engine.methods.machine import (
    Machine,
    compute_deterministically,
    machine_facts,
    refuse_unused_gpu,
    this_machine,
    versions,
)
from engine.methods.model_source import config_of, fingerprint, load_tokenizer
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.methods.weights import account_of
from engine.runs.run import events
from engine.runs.run.event_log import EventLog
from engine.runs.run.result import Predicted
from engine.runs.run.run_dir import FrozenRun, RunDir, continued_run_name
from engine.runs.run.usage import LEFT_OUT, left_out_warning
from engine.runs.stopping import StopRequest, StopRequested
from engine.training import checkpoints
from engine.training.batches import BatchSampler, Sharing, StepDataset
from engine.training.checkpoints import (
    LAST_WEIGHTS,
    SavedCheckpoint,
    WeightSelection,
    losses_of_checkpoint,
    problem_with,
    unloadable,
)
from engine.training.compilation import refuse_compilation, remove_compiled, uncompiled
from engine.training.fit import Record, StepFacts, TrainingSetup, fit, learning_rate_schedule
from engine.training.gradients import StepGradients
from engine.training.guards import free_memory
from engine.training.meters import Meters, training_gpu
from engine.training.ranks import SINGLE_RANK, LocalShards, Ranks, class_name, whole_weights
from engine.training.training_state import CheckpointWriter, HostCopy, TrainingState
from engine.worker.checks import (
    check_moved_model,
    check_rows_unchanged_since_check,
    check_rows_unchanged_since_start,
    refuse_model,
    refuse_small_disk,
)
from engine.worker.evaluator import Evaluator, sample_event
from engine.worker.model_loading import (
    add_continued_adapter,
    copy_initial_weights,
    decide_sharding,
    limit_memory,
    load_model,
    refuse_small_slot,
)
from engine.worker.planning import compile_by_training, decide_packing, estimate_training, probe, with_answer_batch
from engine.worker.run_log import DiskWatch, EarlierWorkers, RunLog, RunOutcome, earlier_workers, outcome_of_error

ROWS_DURING_TRAINING = 128
"""Maximum number of validation rows for the loss during training: enough for a curve without slowing training down."""


def execute(
    run_dir: RunDir,
    frozen: FrozenRun,
    event_log: EventLog,
    stopping: StopRequest,
    ranks: Ranks = SINGLE_RANK,
    others: Sequence[NvmlGpu] = (),
) -> RunOutcome:
    """Execute the run as a single rank or as one of several. The end of the run is not written.

    `others`: the other ranks' GPUs.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    config, machine = frozen.config, this_machine()
    gpu = training_gpu() if machine.device == "cuda" else None
    meters = Meters(event_log.write, gpu, others, slots=limit_memory(config, machine))
    log = RunLog(event_log, stopping, ranks, meters)
    try:
        meters.start()
        run_phases(run_dir, frozen, machine, log)
        outcome = RunOutcome("finished")
    except Exception as error:  # noqa: BLE001 - top level of the worker: every error becomes an outcome
        outcome = outcome_of_error(error, log.settled or config, run_dir, machine.device, log.last_checkpoint)
    finally:
        meters.stop()
    with contextlib.suppress(OSError):  # a full disk, which `write_outcome` handles
        # With several ranks, the failure of another rank may have caused an unexpected error: that rank reports why.
        if (
            outcome.status not in ("finished", "stopped")
            and (outcome.is_expected or ranks.size == 1)
            and not outcome.needs_restart
        ):
            log.write(events.Error(text=outcome.reason, user=outcome.user, code=outcome.code))
        if ranks.size == 1:
            meters.sample()
    return outcome


def run_phases(run_dir: RunDir, frozen: FrozenRun, machine: Machine, log: RunLog) -> None:
    """The run from top to bottom. Raises the error that ends it; StopRequested between and within phases."""
    config, ranks, meters = frozen.config, log.ranks, log.meters
    if machine.device == "cuda" and config.train.precision != "fp32":
        torch.set_float32_matmul_precision("high")  # TF32 for the products that are not in bf16
    if config.train.deterministic:
        compute_deterministically(machine)
    earlier = ranks.broadcast(lambda: earlier_workers(run_dir))
    log.last_checkpoint = earlier.checkpoint  # for a stop before training resumes from it
    _log_start(frozen, earlier, machine, log)
    refuse_unused_gpu(config, machine)
    if config.train.compile:
        refuse_compilation(machine.device)

    log.phase("data")
    tokenizer = load_tokenizer(config.model)
    rows = ranks.first_before_others(lambda: prepare(config.data, config.train.max_length, tokenizer, log.progress))
    check_rows_unchanged_since_check(rows, frozen.data_fingerprint)
    check_rows_unchanged_since_start(rows, earlier.data)

    metric, notices = decide_metric(config.evaluation, rows.train)
    for notice in notices:
        log.warn(notice.code, notice.text)
    if earlier.data is not None and earlier.data.metric:  # a resumed run keeps the metric of its first start
        metric = MetricChoice(earlier.data.metric, earlier.data.metric_reason)
    config = with_settings(config, {"evaluation.metric": metric.metric})

    refuse_rows(config, rows)
    model_config = config_of(config.model)
    check_moved_model(config, model_config, earlier)
    refuse_model(config, model_config, machine)
    config = with_answer_batch(config, model_config, machine, rows, ranks, meters)
    if ranks.is_first:
        refuse_small_disk(run_dir, config, model_config, machine)

    ranks.broadcast(lambda: copy_initial_weights(config, run_dir, model_config, rows, log))
    evaluator = Evaluator(config, tokenizer, rows, run_dir, machine.device, ranks, log)
    _log_data(rows, evaluator.test, metric, log)

    log.phase("model")
    set_seed(config.train.seed)
    decide_sharding(config, model_config, machine, ranks, meters)
    meters.model_begins()
    base = load_model(config, run_dir, machine, ranks)
    pad, loss_rows = tokenizer.pad_token_id, evaluator.loss_rows
    packing, sharing = decide_packing(config, base, rows.train, loss_rows, pad, machine, ranks, log.warn)
    evaluator.create_scorer(base, packing)
    continued = add_continued_adapter(config, run_dir, base)

    if config.evaluation.when == "both":
        log.phase("baseline")
        evaluator.score_before_training(continued or base, earlier.before)

    log.phase("training")
    set_seed(config.train.seed)  # adapter initialization must not depend on what ran before it
    model = continued or method(config.method).make_trainable(base, config)
    if ranks.is_first and (obstacle := merge_obstacle(config.model, model)):
        log.warn("export.cannot_merge", f"{obstacle}: this run can be exported as an adapter only")
    initial = run_dir.initial_adapter if changes_base_weights(config) else None
    if initial is not None:
        ranks.broadcast(lambda: save_initial_adapter(model, initial))
    train(model, evaluator, sharing, earlier, machine, meters)
    free_memory()  # of the optimizer

    log.phase("evaluation")
    evaluator.score_after_training(model)

    log.phase("saving")
    whole = whole_weights(model) if ranks.shards_model and method_spec(config.method).trains_weights else None
    if ranks.is_first:
        with checkpoints.folder_atomically(run_dir.path / ".model.tmp", run_dir.model) as folder:
            save(model, folder, initial, whole)
            tokenizer.save_pretrained(folder)
        log.write(events.ModelSaved(path=run_dir.model.name, bytes=folder_bytes(run_dir.model, "*.safetensors")))


def train(
    model: torch.nn.Module,
    evaluator: Evaluator,
    sharing: Sharing,
    earlier: EarlierWorkers,
    machine: Machine,
    meters: Meters,
) -> None:
    """Train from step 0 or from the latest complete checkpoint. Raises StopRequested after a stop request.

    `sharing`: what sharing prefixes saves. Configuration, rows and packing are the evaluator's, so that both losses are
    computed alike. Settings that are `auto` in this configuration have their values in that of the estimates.
    """
    config, run_dir, ranks, log = evaluator.config, evaluator.run_dir, evaluator.ranks, evaluator.log
    settings = config.train
    sampler = BatchSampler.of(len(evaluator.rows.train), settings.batch, settings.epochs, settings.steps, settings.seed)
    selection = WeightSelection.of(settings)
    resume = ranks.broadcast(lambda: _resume_point(run_dir, selection, log))
    losses = losses_of_checkpoint(resume.folder) if resume else []
    log.step = resume.step if resume else 0

    estimates, batches = estimate_training(model, evaluator, sampler, resume, earlier, machine, meters)
    settled = log.settled = estimates.config
    if machine.device == "cuda" and meters.slots > 1:
        refuse_small_slot(estimates, available_memory(meters), config.hardware.device)
    shards = LocalShards(model)
    optimizer, optimizer_name = make_optimizer(shards, settled, machine, log.warn)
    shards.attach(optimizer)
    _log_model(model, config, optimizer_name, earlier.model, machine, log)
    checkpointing = resolve_checkpointing(settled.train.gradient_checkpointing, machine.device)
    plan = log.write(_plan(evaluator, sampler, estimates, checkpointing, sharing))

    # The rank that writes checkpoints copies them to host memory, to write them while training continues.
    host_copy = None
    if ranks.is_first and copies_checkpoints(config, machine.device):
        host_copy = HostCopy(available_for_copy, log.warn)
    record = TrainingRecord(model, evaluator, sampler, selection)
    gradients = StepGradients(
        model,
        StepDataset(evaluator.rows.train, sampler),
        batches.packing,
        estimates.micro_batch,
        evaluator.tokenizer.pad_token_id,
        machine.device,
        ranks,
        record.halved,
        steps_in_backward(settled),
    )
    schedule = learning_rate_schedule(optimizer, settings, sampler.steps)
    writer = CheckpointWriter(run_dir.checkpoints, settings.keep_checkpoints, record.saved, host_copy)
    state = TrainingState(model, optimizer, schedule, writer, ranks, shards, selection)

    def compile_and_probe() -> None:
        if settings.compile:
            log.write(compile_by_training(gradients, batches.step))
        if settings.probe:
            probed = probe(gradients, optimizer, batches, evaluator, estimates, meters)
            enabled = probed.checkpointing.setting if probed.checkpointing else plan.gradient_checkpointing
            peaks = Predicted(tier="probe", training=probed.training, evaluation=probed.evaluation)
            measured = msgspec.structs.replace(
                plan,
                micro_batch=gradients.micro_batch,
                gradient_checkpointing=enabled,
                predictions=[*plan.predictions, peaks],
                probe_seconds=round(probed.seconds, 3),
            )
            log.write(measured)
        meters.training_begins()

    record.prepare = compile_and_probe
    stopped = False
    if resume and (resume.step >= sampler.steps or selection.ends(losses)):
        state.load_weights(resume.folder)  # killed after the last step: evaluation and saving remain
        state.losses = list(losses)
    else:
        training = TrainingSetup.of(settled, state, gradients, checkpointing)
        stopped = fit(training, record, resume.folder if resume else None)
    meters.training_ends(paged_bytes(optimizer) or None)
    if settings.compile:
        remove_compiled(model)
    if stopped:
        raise StopRequested

    if selection != LAST_WEIGHTS:
        _select_weights(state, sampler.steps, log)


def _resume_point(run_dir: RunDir, selection: WeightSelection, log: RunLog) -> SavedCheckpoint | None:
    """The latest complete checkpoint, None for a new run; warns of each incomplete one, which is skipped.

    One without the checkpoint of the best weights so far is incomplete.
    """

    def unusable(folder: Path) -> str | None:
        if problem := unloadable(folder):
            return problem
        step = selection.best_step(losses_of_checkpoint(folder))
        best = folder if step is None else folder.with_name(f"{checkpoints.PREFIX}{step}")
        problem = None if best == folder else problem_with(best) or unloadable(best)
        return f"{best.name}, which has the best weights until then: {problem}" if problem else None

    if not run_dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run_dir.checkpoints)
    latest, problems = checkpoints.latest_complete(run_dir.checkpoints, unusable)
    for problem in problems:
        start = f"training resumes from {latest.folder.name}" if latest else "training starts from step 0"
        log.warn("checkpoint.incomplete", f"{problem}; {start}")
    log.last_checkpoint = f"checkpoints/{latest.folder.name}" if latest else ""
    return latest


def _select_weights(state: TrainingState, steps: int, log: RunLog) -> None:
    """Load the weights of the step that `train.select` selects, and log it.

    `steps`: number of steps of the training if it does not stop early.
    """
    step = state.load_best()
    if state.selection.best and step is None:
        text = "no validation loss is finite: the weights of the last step are kept"
        log.warn("train.no_finite_validation", text)
    kept, early = log.step if step is None else step, log.step < steps
    log.write(events.Selected(step=kept, loss=dict(state.losses).get(kept), steps=log.step, early=early))


class TrainingRecord(Record):
    """Logs steps and checkpoints, measures the validation loss, and says when to save and when to stop."""

    prepare: Callable[[], None]
    """Compiles the model and probes its memory."""
    saves_end = True

    def __init__(
        self, model: torch.nn.Module, evaluator: Evaluator, sampler: BatchSampler, selection: WeightSelection
    ) -> None:
        """Raises UserError if the weights are selected by validation rows, and there are none."""
        self.model, self.evaluator, self.sampler, self.selection = model, evaluator, sampler, selection
        self.log = evaluator.log
        self.disk = DiskWatch(evaluator.run_dir.path, self.log.warn)
        settings = evaluator.config.train
        self.validation = sampled_by_rows(evaluator.validation, ROWS_DURING_TRAINING)
        if not self.validation and selection != LAST_WEIGHTS:
            key = "train.select" if selection.best else "train.patience"
            problem, hint = "no validation rows", f"give some with data.validation, or remove {key}"
            raise UserError(problem, evaluator.config.data.id, hint, code="run.no_validation_rows")
        self.evaluate_every = (settings.evaluate_every or max(1, sampler.steps // 4)) if self.validation else 0
        self.save_timer = checkpoints.SaveTimer(settings.checkpoint_every, sampler.steps)

    def begin(self) -> None:
        self.prepare()

    def halved(self, micro_batch: int) -> None:
        unchanged = f"the effective batch size stays {self.sampler.batch}"
        text = f"out of memory: continuing with micro-batch {micro_batch}; {unchanged}"
        self.log.warn("memory.micro_batch_reduced", text)
        self.log.write(events.MicroBatchReduced(micro_batch=micro_batch))

    def saved(self, checkpoint: SavedCheckpoint) -> None:
        self.log.last_checkpoint = path = f"checkpoints/{checkpoint.folder.name}"
        size, seconds, blocked = checkpoint.bytes, checkpoint.seconds, checkpoint.blocked
        self.log.write(events.Checkpoint(step=checkpoint.step, path=path, bytes=size, seconds=seconds, blocked=blocked))
        self.disk.saved(size)

    def step(self, facts: StepFacts) -> None:
        self.log.step, self.log.has_trained = facts.step, True
        self.disk.step()
        self.log.write(
            events.Step(
                step=facts.step,
                steps=self.sampler.steps,
                epoch=facts.step / self.sampler.per_epoch,
                loss=facts.loss,
                learning_rate=facts.learning_rate,
                grad_norm=facts.grad_norm,
                tokens=facts.tokens,
                computed_tokens=facts.computed_tokens,
                answer_tokens=facts.answer_tokens,
                tokens_per_second=facts.tokens / max(facts.seconds, 1e-9),
                seconds=facts.seconds,
            )
        )

    def validates(self, step: int, last: bool) -> bool:
        due = self.evaluate_every and step % self.evaluate_every == 0
        return bool(due or (last and self.selection.best and self.evaluate_every))

    def validation_loss(self, step: int) -> float:
        """Measure and log the validation loss, in nats/token, and some answers."""
        model = self.model
        with uncompiled(model):
            started, rows = time.monotonic(), len(self.validation)
            loss = self.evaluator.loss(model, self.validation)
            seconds = time.monotonic() - started
            self.log.write(
                events.Eval(when="during", split="validation", step=step, rows=rows, loss=loss, seconds=seconds)
            )
            for item, prompt, answer in self.evaluator.learning_answers(model):
                self.log.write(sample_event("during", item, prompt, answer, step=step))
        return loss

    def stop_requested(self) -> bool:
        return self.log.stopping.requested

    def save_due(self, step: int) -> bool:
        return self.save_timer.take_if_due(step)


def _log_start(frozen: FrozenRun, earlier: EarlierWorkers, machine: Machine, log: RunLog) -> None:
    """Log where the run executes, what is missing of its earlier workers, and who else uses the GPU."""
    for problem in earlier.problems:
        log.warn("run.events_incomplete", problem)
    before, now = earlier.devices, frozen.config.train.devices
    if before not in (None, now):
        text = f"resumed on {amount(now, 'device')} after {amount(before or 1, 'device')}: its timings combine both"
        log.warn("run.devices_changed", text)
    log.write(events.Environment(versions=versions(), machine=machine_facts(machine)))
    for note in frozen.notes:
        log.warn("run.configuration", note)
    gpu = log.meters.gpu
    processes = gpu.others(log.meters.gpu_pid) if gpu else []
    for rank, others in enumerate(log.ranks.all_gather(processes)):
        which = "this GPU" if log.ranks.size == 1 else f"the GPU of rank {rank}"
        for pid, name, used in others:
            size = f" ({used / 2**30:.1f} GiB)" if used else ""
            text = f"process {pid} {name}{size} also uses {which}: timings and memory include its load"
            log.warn("gpu.shared", text)


def _log_data(rows: Preparation, test: Sequence[EvaluationItem], metric: MetricChoice, log: RunLog) -> None:
    for warning in rows.warnings():
        log.warn(warning.code, warning.text)
    log.write(
        events.DataPrepared(
            train=len(rows.train),
            validation=len(rows.validation),
            test=len(all_rows(test)),
            format=rows.facts.format,
            format_reason=rows.facts.why,
            fingerprint=rows.facts.fingerprint,
            test_fingerprint=items_fingerprint(test),
            tokens=int(rows.train.lengths.sum()),
            answer_tokens=int(rows.train.answer_tokens.sum()),
            columns=msgspec.to_builtins(rows.facts.columns),
            data_usage=msgspec.to_builtins(rows.usage),
            test_items=len(test),
            overlap=rows.facts.overlap,
            metric=metric.metric,
            metric_reason=metric.reason,
        )
    )


def _log_model(
    model: torch.nn.Module, config: Config, optimizer: str, earlier_weights: str, machine: Machine, log: RunLog
) -> None:
    """Log the model and the use of its weights.

    `earlier_weights`: the fingerprint of the weights before the run was resumed, or "".
    """
    base, from_run = unwrap_peft(model), continued_run_name(config)
    account = account_of(model, config, machine.device)
    if warning := left_out_warning(account, method_spec(config.method)):
        log.warn(LEFT_OUT, warning)
    weights = fingerprint(config.model, config_of(config.model) if from_run else base.config)
    if earlier_weights and earlier_weights != weights:
        text = "the model changed since this run started: earlier steps used different model weights"
        log.warn("run.model_changed", text)
    log.write(
        events.ModelLoaded(
            id=config.model.id,
            architecture=class_name(base),
            parameters=account.parameters,
            trainable=account.trained,
            account=account,
            dtype=str(base.dtype).removeprefix("torch."),
            device=machine.name,
            attention=str(base.config._attn_implementation),
            optimizer=optimizer,
            fingerprint=weights,
            from_run=from_run,
            resident_before=log.meters.before_model,
        )
    )


def _plan(
    evaluator: Evaluator,
    sampler: BatchSampler,
    estimates: RunEstimates,
    checkpointing: ActivationCheckpointing,
    sharing: Sharing,
) -> events.Plan:
    """What the training will do, from the current step of the log, and its predicted peak memory."""
    ranks = evaluator.ranks
    plan = events.Plan(
        steps=sampler.steps,
        start_step=evaluator.log.step,
        batch=sampler.batch,
        micro_batch=estimates.micro_batch,
        packing=evaluator.packing.mode,
        gradient_checkpointing=checkpointing.setting,
        automatic=chosen_savings(evaluator.config, estimates.config),
        devices=ranks.size,
        sharded=ranks.shards_model,
        predictions=estimates.predicted(),
    )
    if plan.packing == "shared_prefix":
        plan.shared_prefix, plan.shared_rows = sharing.prefix, sharing.rows
        plan.token_ratio = round(sharing.ratio, 3)
    return plan
