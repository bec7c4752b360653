"""Run state and its log: writes events while the run progresses and `result.json` at the end."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec
import torch

from engine.config.method_specs import method_spec
from engine.config.quantities import percent, size
from engine.config.schema import Config
from engine.data.items import EvaluationItem, all_rows
from engine.data.prepared import Prepared
from engine.evaluation.predictions import ScoredItem
from engine.evaluation.score import summarize
from engine.memory.dry_run.run_estimates import RunEstimates
from engine.memory.probe import ProbeResult
from engine.methods.adapters import unwrap_peft
from engine.methods.machine import Machine
from engine.methods.model_source import config_of
from engine.methods.provenance import fingerprint, items_fingerprint, machine_facts, versions
from engine.methods.weights import account_of
from engine.runs.resuming import continued_run_name
from engine.runs.run import end_record, events
from engine.runs.run.data_usage import SplitOverlap
from engine.runs.run.end_record import EndRecord
from engine.runs.run.event_log import EventLog
from engine.runs.run.frozen_config import FrozenRun
from engine.runs.run.model_account import LEFT_OUT, left_out_warning
from engine.runs.run.result import General, Score
from engine.runs.run.result_builder import score_of
from engine.runs.run.run_dir import RunDir, write_end
from engine.runs.stopping import StopRequest, StopRequested
from engine.training.batches import NO_SHARING, BatchSampler, Sharing
from engine.training.checkpoints import SavedCheckpoint
from engine.training.meters import Meters
from engine.training.ranks import SINGLE_RANK, Ranks
from engine.training.sharding import class_name
from engine.training.trainer import StepFacts
from engine.worker.earlier_workers import EarlierWorkers

PROGRESS_SECONDS = 1.0
MIN_ENDED = 0.9
"""Share of answers that end below which a run warns."""
SAMPLES = 3
"""Test items logged as `sample` events, before and after training."""


@dataclass
class RunContext:
    """State of the run that this worker executes."""

    dir: RunDir
    frozen: FrozenRun
    log: EventLog
    stopping: StopRequest
    machine: Machine
    meters: Meters
    ranks: Ranks = SINGLE_RANK
    is_sharded: bool = False
    """Whether the weights are sharded across the ranks; set before the model is loaded."""
    earlier: EarlierWorkers = field(default_factory=EarlierWorkers)
    step: int = 0
    has_trained: bool = False
    """Whether this worker has done an optimizer step."""
    last_checkpoint: str = ""
    current_phase: events.PhaseName = "waiting"
    progress_logged: float = field(default_factory=time.monotonic)
    """Time of the last progress event, or of the start of the phase."""
    sharing: Sharing = NO_SHARING
    """What sharing prefixes saves; set once the packing is chosen."""
    disk: DiskWatch = field(init=False)

    def __post_init__(self) -> None:
        self.disk = DiskWatch(self.dir.path, self.warn)

    @property
    def config(self) -> Config:
        return self.frozen.config

    def phase(self, name: events.PhaseName) -> None:
        """Start a phase, on all ranks together. Raises StopRequested after a stop request to any of them."""
        if self.ranks.any(self.stopping.requested):
            raise StopRequested
        self._read_energy()
        self.log.write(events.Phase(name=name))
        self.current_phase, self.progress_logged = name, time.monotonic()
        with contextlib.suppress(OSError):  # engine.log may be on a full disk while the event log is not
            if self.ranks.is_first:
                print(f"[{time.strftime('%H:%M:%S')}] {name}", flush=True)

    def warn(self, code: str, text: str) -> None:
        """Log a warning; `code` is stable and dotted, such as `gpu.shared`."""
        self.log.write(events.Warning(code=code, text=text))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Log the rows done in a long phase, at most once a second. Raises StopRequested after a stop request.

        Only on the first rank, whose end ends the others: one that stopped alone would leave them waiting.
        """
        if self.ranks.is_first:
            self.stopping.check()
        now = time.monotonic()
        if now - self.progress_logged >= PROGRESS_SECONDS:
            self.progress_logged = now
            self.log.write(events.Progress(phase=self.current_phase, text=what, done=done, total=total))

    def log_environment(self) -> None:
        self.log.write(events.Environment(versions=versions(), machine=machine_facts(self.machine)))

    def log_data(self, rows: Prepared, test: Sequence[EvaluationItem]) -> None:
        for warning in rows.warnings:
            self.warn(warning.code, warning.text)
        self.log.write(
            events.DataPrepared(
                train=len(rows.train),
                validation=len(rows.validation),
                test=len(all_rows(test)),
                format=rows.about["format"],
                format_reason=rows.about["why"],
                fingerprint=rows.fingerprint,
                test_fingerprint=items_fingerprint(test),
                tokens=int(rows.train.lengths.sum()),
                answer_tokens=int(rows.train.answer_tokens.sum()),
                columns=rows.about["columns"],
                data_usage=rows.about["data_usage"],
                test_items=len(test),
                overlap=msgspec.convert(rows.about["overlap"], dict[str, SplitOverlap]),
            )
        )

    def log_model(self, model: torch.nn.Module, optimizer: str) -> None:
        base = unwrap_peft(model)
        account = account_of(model, self.config, self.machine.device)
        if warning := left_out_warning(account, method_spec(self.config.method)):
            self.warn(LEFT_OUT, warning)
        from_run = continued_run_name(self.config)
        weights = fingerprint(self.config.model, config_of(self.config.model) if from_run else base.config)
        self._warn_if_changed("model", self.earlier.model, weights)
        self.log.write(
            events.ModelLoaded(
                id=self.config.model.id,
                architecture=class_name(base),
                parameters=account.parameters,
                trainable=account.trained,
                account=account,
                dtype=str(base.dtype).removeprefix("torch."),
                device=self.machine.name,
                attention=str(base.config._attn_implementation),
                optimizer=optimizer,
                fingerprint=weights,
                from_run=from_run,
                resident_before=self.meters.before_model,
            )
        )

    def log_plan(self, plan: events.Plan, estimates: RunEstimates) -> events.Plan:
        """Log the plan with the predicted peak memory."""
        plan.predictions = estimates.predicted()
        if plan.predictions:
            best = plan.predictions[-1]
            plan.predicted, plan.predicted_evaluation = best.training, best.evaluation
        self.step = plan.start_step
        return self.log.write(plan)

    def log_micro_batch(self, micro_batch: int) -> None:
        batch = self.config.train.batch
        text = f"out of memory: continuing with micro-batch {micro_batch}; the effective batch size stays {batch}"
        self.warn("memory.micro_batch_reduced", text)
        self.log.write(events.MicroBatchReduced(micro_batch=micro_batch))

    def log_probe(self, plan: events.Plan, probed: ProbeResult, micro_batch: int) -> None:
        """Log the plan again with the memory that the memory probe measured."""
        enabled = probed.checkpointing.setting if probed.checkpointing else plan.gradient_checkpointing
        self.log.write(
            msgspec.structs.replace(
                plan,
                micro_batch=micro_batch,
                gradient_checkpointing=enabled,
                measured=probed.training,
                measured_evaluation=probed.evaluation,
                probe_seconds=round(probed.seconds, 3),
            )
        )

    def log_step(self, step: int, facts: StepFacts, rate: float, sampler: BatchSampler) -> None:
        self.step, self.has_trained = step, True
        self.disk.step()
        self.log.write(
            events.Step(
                step=step,
                steps=sampler.steps,
                epoch=step / sampler.per_epoch,
                loss=facts.loss,
                learning_rate=rate,
                grad_norm=facts.grad_norm,
                tokens=facts.tokens,
                computed_tokens=facts.computed_tokens,
                answer_tokens=facts.answer_tokens,
                tokens_per_second=facts.tokens / max(facts.seconds, 1e-9),
                seconds=facts.seconds,
            )
        )

    def log_checkpoint(self, saved: SavedCheckpoint) -> None:
        self.last_checkpoint = f"checkpoints/{saved.folder.name}"
        self.log.write(
            events.Checkpoint(
                step=saved.step,
                path=self.last_checkpoint,
                bytes=saved.bytes,
                seconds=saved.seconds,
                blocked=saved.blocked,
            )
        )
        self.disk.saved(saved.bytes)

    def log_validation(self, step: int, rows: int, loss: float, seconds: float) -> None:
        self.log.write(events.Eval(when="during", split="validation", step=step, rows=rows, loss=loss, seconds=seconds))

    def log_final_validation(self, rows: int, loss: float) -> None:
        self.log.write(events.Eval(when="after", split="validation", step=self.step, rows=rows, loss=loss))

    def log_general(self, general: General) -> None:
        self.log.write(
            events.GeneralLoss(text=general.text, tokens=general.tokens, before=general.before, after=general.after)
        )

    def log_model_saved(self, size: int) -> None:
        self.log.write(events.ModelSaved(path=self.dir.model.name, bytes=size))

    def log_reused_score(
        self, scored: Sequence[ScoredItem], items: Sequence[EvaluationItem], prompts: Sequence[str]
    ) -> None:
        """Log the base score computed from an earlier worker's predictions, unless its events already contain it."""
        logged = self.earlier.before
        seconds = logged.seconds if logged else 0.0
        score = summarize(scored, self.config.evaluation.metric, seconds, [item.group for item in items])
        if logged is None or score_of(logged) != score:
            self.log_score("before", scored, items, prompts, score.seconds)

    def log_score(
        self,
        when: Literal["before", "after"],
        scored: Sequence[ScoredItem],
        items: Sequence[EvaluationItem],
        prompts: Sequence[str],
        seconds: float,
    ) -> None:
        """Log the score on the test items and the first SAMPLES answers."""
        score = summarize(scored, self.config.evaluation.metric, seconds, [item.group for item in items])
        self.log.write(score_event(when, score, len(items), self.step if when == "after" else 0))
        if when == "after" and score.ended and (score.ended.mean or 0.0) < MIN_ENDED:
            self.warn(
                "evaluation.unended_answers", unended_text(score.ended.mean, self.config.evaluation.max_new_tokens)
            )
        for found, item, prompt in list(zip(scored, items, prompts, strict=True))[:SAMPLES]:
            value = (found.scores or {}).get(score.metric)
            self.log.write(sample_event(when, item, prompt, found.output, value))

    def log_answers(self, step: int, answers: Sequence[tuple[EvaluationItem, str, str]]) -> None:
        """Log (item, prompt, answer) of a model that is still learning."""
        for item, prompt, output in answers:
            self.log.write(sample_event("during", item, prompt, output, step=step))

    def finish(self, status: events.Status, reason: str) -> None:
        """Write the `end` event, then `result.json`; if that fails, write the reason to the reserved `end.json`."""
        try:
            self.meters.sample()
            write_end(self.dir, self.frozen, self.log, events.End(status=status, reason=reason))
        except OSError as error:
            text = f"{reason or status}; the result could not be written: {error.strerror}"
            written = end_record.write(self.dir.end_file, EndRecord(status=status, reason=text, t=time.time()))
            with contextlib.suppress(OSError):  # engine.log may be on the same full disk
                print(text if written else f"{text}; nor could end.json", file=sys.stderr, flush=True)

    def _warn_if_changed(self, what: str, before: str, now: str) -> None:
        if before and before != now:
            text = f"the {what} changed since this run started: earlier steps used different {what} weights"
            self.warn(f"run.{what}_changed", text)

    def _read_energy(self) -> None:
        """Sample at a phase boundary, so that energy can be attributed to each phase."""
        if self.meters.gpu:
            self.meters.sample()


def score_event(when: Literal["before", "after"], score: Score, rows: int, step: int) -> events.Eval:
    """The event of a score of `rows` test items."""
    return events.Eval(
        when=when,
        split="test",
        step=step,
        rows=rows,
        loss=score.loss.mean,
        loss_low=score.loss.low,
        loss_high=score.loss.high,
        perplexity=score.perplexity,
        metric=score.metric,
        score=score.score.mean,
        low=score.score.low,
        high=score.score.high,
        extra=score.extra,
        seconds=score.seconds,
        ended=score.ended,
        format_errors=score.format_errors,
    )


def sample_event(
    when: Literal["before", "during", "after"],
    item: EvaluationItem,
    prompt: str,
    output: str,
    score: float | None = None,
    step: int | None = None,
) -> events.Sample:
    """The event of one item with the model's answer."""
    references = list(item.references) if len(item.references) > 1 else []
    return events.Sample(
        when=when, step=step, prompt=prompt, target=item.target, output=output, score=score, references=references
    )


def unended_text(ended: float | None, limit: int) -> str:
    """The warning about answers that are truncated at `limit` tokens; `ended`: share of those that end."""
    what = f"only {percent(ended)} of the answers ended with an end token; the others were truncated at {limit} tokens"
    return f"{what}; raise evaluation.max_new_tokens, or check that the end token is in the loss"


CHECK_SECONDS = 30.0
LOG_BYTES = 64 << 20
"""Reserved for events, predictions and result."""


@dataclass
class DiskWatch:
    """Compares free space with the size of checkpoints, at most every CHECK_SECONDS; warns once per worker."""

    folder: Path
    warn: Callable[[str, str], None]
    checkpoint: int = 0
    """Bytes of the latest checkpoint; 0 before the first, whose space was checked before training."""
    warned: bool = False
    checked: float = field(default_factory=time.monotonic)

    def saved(self, bytes_: int) -> None:
        """Take note of a checkpoint, and check at once."""
        self.checkpoint = bytes_
        self._check()

    def step(self) -> None:
        """Check if it is time to."""
        if time.monotonic() - self.checked >= CHECK_SECONDS:
            self._check()

    def _check(self) -> None:
        self.checked = time.monotonic()
        if self.warned:
            return
        try:
            free = shutil.disk_usage(self.folder).free
        except OSError:  # deleted or unmounted: writing the next event reports it
            return
        needed = 2 * self.checkpoint + LOG_BYTES  # the next checkpoint and the model
        if free < needed:
            self.warned = True
            self.warn(
                "disk.low",
                f"low disk space: {size(free)} left, and the next checkpoint and the model need about {size(needed)}; "
                "free some (`ftbench clean` shows what can be removed), or the run stops when the disk is full",
            )
