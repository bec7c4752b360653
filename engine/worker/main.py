"""One run from start to end, read top to bottom: data, model, baseline, training, evaluation, saving.

Whatever goes wrong, the run ends with an `end` event and a result; `outcome_of` says with which.
"""

from __future__ import annotations

import contextlib
import logging
import os
import warnings

import torch
from transformers import PreTrainedTokenizerBase, set_seed
from transformers.utils import logging as transformers_logging

from engine.data.changed_rows import refuse_other_than_first, refuse_unchecked
from engine.data.items import sampled_rows
from engine.data.prepare import Prepared, prepare
from engine.evaluation.preflight import refuse_rows
from engine.evaluation.score import vocabulary_of
from engine.hardware.nvml import Nvml
from engine.memory.dry_run.dry_run import wants_checkpointing
from engine.memory.dry_run.run_forecast import RunForecast, forecast_run
from engine.memory.dry_run.worst_case_batches import WorstCaseBatches, longest_held_out, longest_step
from engine.memory.formula.memory_budget import first_visible
from engine.memory.probe import Probe, Probed, most_here
from engine.methods import method
from engine.methods.machine import this_machine
from engine.methods.model_config import config_of
from engine.methods.optimizers import make_optimizer, paged_bytes
from engine.methods.tokenizer import load_tokenizer
from engine.runs import events
from engine.runs.run_dir import Frozen, RunDir
from engine.runs.stop_request import StopRequest, StopRequested
from engine.training import checkpoints
from engine.training.batches import Packing, Schedule, choose_packing
from engine.training.checkpoint_content import unloadable
from engine.training.loss import flattening_agreement, keeps_logits
from engine.training.meters import Meters, training_card
from engine.training.trainer import AnswerTrainer, Callback, Hooks, StepFacts, training_arguments
from engine.worker.earlier_lives import earlier_lives
from engine.worker.evaluator import Evaluator
from engine.worker.exit_status import RunOutcome, outcome_of
from engine.worker.provenance import folder_bytes
from engine.worker.run_context import RunContext

VALIDATION_ROWS = 128
"""Of the held-out rows, this many give the loss during training: enough to see a curve, not to slow it."""


def work(run_dir: RunDir, frozen: Frozen, log: events.EventLog, stopping: StopRequest) -> int:
    """Do the run; returns the process's exit status."""
    _quieten()
    machine = this_machine()
    meters = Meters(log.write, training_card() if machine.device == "cuda" else None)
    run = RunContext(run_dir, frozen, log, stopping, machine, meters)
    try:
        end = _attempt(run)
    finally:
        meters.stop()
    if end.status in ("failed", "out_of_memory", "diverged"):
        with contextlib.suppress(OSError):  # a full disk, which `finish` deals with
            log.write(events.Error(text=end.reason, user=end.user))
    run.finish(end.status, end.reason)
    return 0 if end.status in ("finished", "stopped") else 2 if end.user else 1


def _attempt(run: RunContext) -> RunOutcome:
    try:
        run.meters.start()
        _steps(run)
    except Exception as error:  # noqa: BLE001 - the edge: whatever it is, the run ends with a word about it
        return outcome_of(run, error)
    return RunOutcome("finished")


def _steps(run: RunContext) -> None:
    config, machine = run.config, run.machine
    run.earlier = earlier_lives(run.dir)
    for complaint in run.earlier.complaints:
        run.warn("resume.events", complaint)
    run.tell_environment()
    for note in run.frozen.notes:
        run.warn("configuration", note)
    _name_foreigners(run)
    _name_unused_card(run)

    run.phase("data")
    tokenizer = load_tokenizer(config.model)
    progress, version = run.progress, run.frozen.split_version
    rows = prepare(config.data, config.train.max_length, tokenizer, progress, version)
    refuse_unchecked(rows, run.frozen.data_fingerprint)
    refuse_other_than_first(rows, run.earlier.data)
    refuse_rows(config, rows)
    exam = Evaluator(run, tokenizer, rows)
    run.tell_data(rows, exam.test)

    run.phase("model")
    set_seed(config.train.seed)
    how = method(config.method)
    run.meters.model_begins()
    base = how.load(config, machine)
    layout = _layout(run, base, rows, tokenizer.pad_token_id)
    exam.prepare(base, layout)

    exam.before(base)

    run.phase("training")
    set_seed(config.train.seed)  # before the adapters are made, whatever came before
    model = how.make_trainable(base, config)
    _train(run, model, tokenizer, exam)

    exam.after(model)

    run.phase("saving")
    with checkpoints.folder_atomically(run.dir.path / ".model.tmp", run.dir.model) as folder:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    run.tell_model_saved(folder_bytes(run.dir.model, "*.safetensors"))


def _train(run: RunContext, model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, exam: Evaluator) -> None:
    """Train from the beginning, or from the newest whole checkpoint. Raises Stopped where a stop was asked for."""
    config, device = run.config, run.machine.device
    train, rows, layout = config.train, exam.rows, exam.layout
    schedule = Schedule.of(len(rows.train), train.batch, train.epochs, train.steps, train.seed)
    checkpointing = wants_checkpointing(config, run.machine)
    optimizer, optimizer_name = make_optimizer(model.parameters(), config, run.machine, run.warn)
    run.tell_model(model, optimizer_name)
    resume = _resume_point(run)
    start = resume.step if resume else 0
    micro_batch = _micro_batch(run, resume)
    own = _own(run, model, exam, schedule, start, micro_batch)
    forecast = forecast_run(config, config_of(config.model), run.machine, own, micro_batch, run.warn)
    hooks = Hooks(halved=run.tell_micro_batch, saved=run.tell_checkpoint)
    trainer = AnswerTrainer(
        rows=rows.train,
        schedule=schedule,
        layout=layout,
        micro_batch=micro_batch,
        checkpoint_folder=run.dir.checkpoints,
        keep_checkpoints=train.keep_checkpoints,
        tokenizer=tokenizer,
        hooks=hooks,
        model=model,
        args=training_arguments(config, schedule, run.dir.path, device, checkpointing),
        optimizers=(optimizer, None),
    )
    plan = run.tell_plan(
        events.Plan(
            steps=schedule.steps,
            start_step=start,
            batch=train.batch,
            micro_batch=micro_batch,
            packing=layout.packing,
            gradient_checkpointing=checkpointing,
        ),
        forecast,
    )

    def on_step(step: int, facts: StepFacts, rate: float) -> None:
        run.tell_step(step, facts, rate, schedule)

    validation = sampled_rows(exam.validation, VALIDATION_ROWS)

    def evaluate(step: int) -> None:
        run.tell_validation(step, len(validation), exam.loss(model, validation))

    callback = Callback(
        hooks,
        trainer,
        on_step,
        should_stop=lambda: run.stopping.asked,
        evaluate=evaluate,
        evaluate_every=(train.evaluate_every or max(1, schedule.steps // 4)) if validation else 0,
        due=checkpoints.Due(train.checkpoint_every, schedule.steps),
    )
    trainer.add_callback(callback)

    def prepared() -> None:
        if train.probe:
            probed = _probe(run, trainer, optimizer, own, exam, forecast)
            run.tell_probe(plan, probed, trainer.micro_batch)
        run.meters.training_begins()

    hooks.prepared = prepared
    if resume and resume.step >= schedule.steps:
        trainer._load_from_checkpoint(str(resume.folder))  # killed after its last step: only the rest is missing
    else:
        trainer.train(resume_from_checkpoint=str(resume.folder) if resume else None)
    run.meters.training_ends(paged_bytes(optimizer) or None)
    trainer.end_autocast()
    if callback.stopped:
        raise StopRequested


def _micro_batch(run: RunContext, resume: checkpoints.Saved | None) -> int:
    """Rows a pass to begin with: as many as a step has, unless told otherwise or known better."""
    wanted, batch = run.config.train.micro_batch, run.config.train.batch
    if wanted != "auto":
        return wanted
    return (run.earlier.micro_batch if resume else None) or batch


def _own(
    run: RunContext, model: torch.nn.Module, exam: Evaluator, schedule: Schedule, start: int, micro_batch: int
) -> WorstCaseBatches:
    """The run's longest step, held-out pass and prompts."""
    rows, layout, device = exam.rows.train, exam.layout, run.machine.device
    first = min(start, schedule.steps - 1)
    return WorstCaseBatches(
        layout=layout,
        step=longest_step(rows, schedule, first, micro_batch, layout),
        held_out=longest_held_out(exam.lost, layout, device, vocabulary_of(model), keeps_logits(model)),
        prompts=[item.row.prompt for item in exam.test] if exam.scores_test else [],
        choice=int(rows.answer_tokens.max()),
        pad=exam.tokenizer.pad_token_id,
    )


def _probe(
    run: RunContext,
    trainer: AnswerTrainer,
    optimizer: torch.optim.Optimizer,
    own: WorstCaseBatches,
    exam: Evaluator,
    forecast: RunForecast,
) -> Probed:
    """Try the longest batch; on a card the evaluation too, which without one is only foreseen."""
    card = run.machine.device == "cuda"
    if not card and exam.scores_test:
        limit = most_here(run.meters)
        exam.scorer.shrink(lambda batch: forecast.answering_fits(batch, limit))
    return Probe(
        trainer=trainer,
        optimizer=optimizer,
        own=own,
        meters=run.meters,
        automatic=run.config.train.micro_batch == "auto",
        evaluate=(lambda: exam.hold_largest(trainer.model, own.held_out)) if card else None,
        fits=None if card else forecast.training_fits,
        warn=run.warn,
    ).run()


def _resume_point(run: RunContext) -> checkpoints.Saved | None:
    if not run.dir.checkpoints.exists():
        return None
    checkpoints.clear_unfinished(run.dir.checkpoints)
    found, complaints = checkpoints.newest_complete(run.dir.checkpoints, unloadable)
    for complaint in complaints:
        start = f"training resumes from {found.folder.name}" if found else "training starts from the beginning"
        run.warn("checkpoint.incomplete", f"{complaint}; {start}")
    run.last_checkpoint = f"checkpoints/{found.folder.name}" if found else ""
    return found


def _layout(run: RunContext, model: torch.nn.Module, rows: Prepared, pad: int) -> Packing:
    """The preset's or the automatic layout; padded where this architecture was seen to mix flattened rows."""
    train, device, kind = run.config.train, run.machine.device, type(model).__name__
    keep = keeps_logits(model)
    if not keep:
        run.warn("loss", f"{kind} takes no logits_to_keep: its head runs at every position, slower")
    varlen = model.config.get_text_config()._attn_implementation == "flash_attention_2"
    layout = choose_packing(rows.train, train.packing, device, varlen)
    if layout.packing == "padded":
        return layout
    shortest = list(rows.train.take(rows.train.lengths.argsort(kind="stable")[:2]))
    agreement = flattening_agreement(model, shortest, pad, device, keep)
    if agreement.same:
        return layout
    seen = f"loss {agreement.flat:.4f}, apart {agreement.single:.4f}"
    run.warn("packing", f"{kind} mixes rows laid end to end ({seen}): padded batches are used")
    return choose_packing(rows.train, "padded", device, varlen)


def _name_foreigners(run: RunContext) -> None:
    card = run.meters.card
    for pid, name, used in card.others(run.meters.gpu_pid) if card else []:
        size = f" ({used / 2**30:.1f} GiB)" if used else ""
        run.warn("foreign", f"process {pid} {name}{size} is on the card: time and memory will not be this run's alone")


def _name_unused_card(run: RunContext) -> None:
    """A card that torch cannot use, by its build or the driver's age, would be missed by the clock alone."""
    if run.machine.device == "cpu" and (card := first_visible(Nvml())):
        name = card.name() or "a card"
        run.warn("card", f"torch sees no card here, and there is {name}: this run uses the CPU; see `ftbench doctor`")


def _quieten() -> None:
    """Libraries' progress bars and advice do not belong into a log that people read."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
