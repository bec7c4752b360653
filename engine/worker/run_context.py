"""Run state and its log: writes events while the run progresses and `result.json`, built from them, at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import torch

from engine.config.schema import Config
from engine.data.items import EvaluationItem, all_rows
from engine.data.prepare import Prepared
from engine.evaluation.score import Item, summarize
from engine.memory.dry_run.run_forecast import RunForecast
from engine.memory.probe import Probed
from engine.methods.machine import Machine
from engine.runs import end_record, events
from engine.runs.end_record import EndRecord
from engine.runs.overlap import SplitOverlap
from engine.runs.result import General, Score
from engine.runs.result_builder import score_of
from engine.runs.run_dir import Frozen, RunDir, write_end
from engine.runs.stop_request import StopRequest
from engine.training.batches import Schedule
from engine.training.checkpoints import Saved
from engine.training.meters import Meters
from engine.training.trainer import StepFacts
from engine.worker.earlier_lives import EarlierLives
from engine.worker.provenance import fingerprint, items_fingerprint, machine_facts, versions

PROGRESS_SECONDS = 1.0
SAMPLES = 3
"""Test items shown as `sample` events, before and after."""


@dataclass
class RunContext:
    """The state of the run that this process is."""

    dir: RunDir
    frozen: Frozen
    log: events.EventLog
    stopping: StopRequest
    machine: Machine
    meters: Meters
    earlier: EarlierLives = field(default_factory=EarlierLives)
    """What this run's earlier workers wrote."""
    step: int = 0
    last_checkpoint: str = ""
    current_phase: events.PhaseName = "waiting"
    progress_told: float = field(default_factory=time.monotonic)
    """When progress was last logged, or the phase began."""

    @property
    def config(self) -> Config:
        return self.frozen.config

    def phase(self, name: events.PhaseName) -> None:
        """Begin a phase, unless a stop was asked for."""
        self.stopping.check()
        self._read_energy()
        self.log.write(events.Phase(name=name))
        self.current_phase, self.progress_told = name, time.monotonic()
        with contextlib.suppress(OSError):  # the raw log may be full where the event log is not
            print(f"[{time.strftime('%H:%M:%S')}] {name}", flush=True)

    def warn(self, code: str, text: str) -> None:
        self.log.write(events.Warning(code=code, text=text))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Log how many rows of a long phase are done, at most once a second. Raises StopRequested as `phase` does."""
        self.stopping.check()
        now = time.monotonic()
        if now - self.progress_told >= PROGRESS_SECONDS:
            self.progress_told = now
            self.log.write(events.Progress(phase=self.current_phase, text=what, done=done, total=total))

    def tell_environment(self) -> None:
        self.log.write(events.Environment(versions=versions(), machine=machine_facts(self.machine)))

    def tell_data(self, rows: Prepared, test: Sequence[EvaluationItem]) -> None:
        for warning in rows.warnings:
            self.warn(warning.code, warning.text)
        self.log.write(
            events.Data(
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
                account=rows.about["account"],
                test_items=len(test),
                split_version=rows.split_version,
                overlap=msgspec.convert(rows.about["overlap"], dict[str, SplitOverlap]),
            )
        )

    def tell_model(self, model: torch.nn.Module, optimizer: str) -> None:
        base = getattr(model, "get_base_model", lambda: model)()
        if hasattr(model, "get_nb_trainable_parameters"):  # PEFT counts packed 4-bit weights as what they stand for
            trainable, everything = model.get_nb_trainable_parameters()
            parameters = everything - trainable
        else:
            parameters = sum(p.numel() for p in model.parameters())
            trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        weights = fingerprint(self.config.model, base.config)
        self._warn_if_changed("model", self.earlier.model, weights)
        self.log.write(
            events.ModelLoaded(
                id=self.config.model.id,
                architecture=type(base).__name__,
                parameters=parameters,
                trainable=trainable,
                dtype=str(base.dtype).removeprefix("torch."),
                device=self.machine.name,
                attention=str(base.config._attn_implementation),
                optimizer=optimizer,
                fingerprint=weights,
                resident_before=self.meters.before_model,
            )
        )

    def tell_plan(self, plan: events.Plan, forecast: RunForecast) -> events.Plan:
        """What will be done, and what it is expected to take."""
        plan.predictions = forecast.predicted()
        if plan.predictions:
            best = plan.predictions[-1]
            plan.predicted, plan.predicted_evaluation = best.training, best.evaluation
        self.step = plan.start_step
        return self.log.write(plan)

    def tell_micro_batch(self, micro_batch: int) -> None:
        self.warn(
            "micro_batch",
            f"out of memory: {micro_batch} rows a pass from here, the effective batch stays {self.config.train.batch}",
        )
        self.log.write(events.MicroBatch(micro_batch=micro_batch))

    def tell_probe(self, plan: events.Plan, probed: Probed, micro_batch: int) -> None:
        """The plan corrected by what the longest batch took."""
        self.log.write(
            msgspec.structs.replace(
                plan,
                micro_batch=micro_batch,
                measured=probed.training,
                measured_evaluation=probed.evaluation,
                probe_seconds=round(probed.seconds, 3),
            )
        )

    def tell_step(self, step: int, facts: StepFacts, rate: float, schedule: Schedule) -> None:
        self.step = step
        self.log.write(
            events.Step(
                step=step,
                steps=schedule.steps,
                epoch=step / schedule.per_epoch,
                loss=facts.loss,
                learning_rate=rate,
                grad_norm=facts.grad_norm,
                tokens=facts.tokens,
                answer_tokens=facts.answer_tokens,
                tokens_per_second=facts.tokens / max(facts.seconds, 1e-9),
                seconds=facts.seconds,
            )
        )

    def tell_checkpoint(self, saved: Saved) -> None:
        self.last_checkpoint = f"checkpoints/{saved.folder.name}"
        self.log.write(
            events.Checkpoint(step=saved.step, path=self.last_checkpoint, bytes=saved.bytes, seconds=saved.seconds)
        )

    def tell_validation(self, step: int, rows: int, loss: float) -> None:
        self.log.write(events.Eval(when="during", split="validation", step=step, rows=rows, loss=loss))

    def tell_final_validation(self, rows: int, loss: float) -> None:
        self.log.write(events.Eval(when="after", split="validation", step=self.step, rows=rows, loss=loss))

    def tell_general(self, general: General) -> None:
        self.log.write(
            events.GeneralLoss(text=general.text, tokens=general.tokens, before=general.before, after=general.after)
        )

    def tell_model_saved(self, size: int) -> None:
        self.log.write(events.ModelSaved(path=self.dir.model.name, bytes=size))

    def tell_score_again(self, items: Sequence[Item], rows: Sequence[EvaluationItem], prompts: Sequence[str]) -> None:
        """The score of the base as an earlier worker's answers give it, unless its events have it already."""
        told = self.earlier.before
        score = summarize(items, self.config.evaluation.metric, told.seconds if told else 0.0)
        if told is None or score_of(told) != score:
            self.tell_score("before", items, rows, prompts, score.seconds)

    def tell_score(
        self,
        when: Literal["before", "after"],
        results: Sequence[Item],
        items: Sequence[EvaluationItem],
        prompts: Sequence[str],
        seconds: float,
    ) -> None:
        """The score on the test items, and the first few answers."""
        score = summarize(results, self.config.evaluation.metric, seconds)
        self.log.write(_eval_event(when, score, len(items), self.step if when == "after" else 0))
        for found, item, prompt in list(zip(results, items, prompts, strict=True))[:SAMPLES]:
            self.log.write(
                events.Sample(
                    when=when,
                    prompt=prompt,
                    target=item.target,
                    output=found.output,
                    score=(found.scores or {}).get(score.metric),
                    references=list(item.references) if len(item.references) > 1 else [],
                )
            )

    def finish(self, status: events.Status, reason: str) -> None:
        """Write the `end` event, then `result.json`; where that fails, the reason goes into the reserved `end.json`."""
        try:
            self.meters.sample()
            write_end(self.dir, self.frozen, self.log, events.End(status=status, reason=reason))
        except OSError as error:
            text = f"{reason or status}; the result could not be written: {error.strerror}"
            kept = end_record.write(self.dir.end_file, EndRecord(status=status, reason=text, t=time.time()))
            with contextlib.suppress(OSError):  # the raw log may be on the same full disk
                print(text if kept else f"{text}; end.json neither", file=sys.stderr, flush=True)

    def _warn_if_changed(self, what: str, before: str, now: str) -> None:
        if before and before != now:
            text = f"the {what} changed since an earlier part of this run: its steps did not all train on the same"
            self.warn(f"resume.{what}_changed", text)

    def _read_energy(self) -> None:
        """A sample at the border of two phases, so that what the card drew is known of each."""
        if self.meters.card:
            self.meters.sample()


def _eval_event(when: Literal["before", "after"], score: Score, rows: int, step: int) -> events.Eval:
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
    )
