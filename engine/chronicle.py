"""What a run knows about itself, and how it tells it: events as they happen, the result at the end."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec
import torch

from engine.contract import events
from engine.contract.follow import Follower
from engine.contract.overlap import SplitOverlap
from engine.contract.phases import phase_seconds
from engine.contract.result import Predicted, Result, Score
from engine.contract.rundir import Frozen, RunDir, blank_result, write_result
from engine.contract.schema import Config
from engine.contract.signals import Stopping
from engine.data.items import EvaluationItem, all_rows
from engine.data.prepare import Prepared
from engine.evaluation.score import Item, summarise
from engine.methods.machine import Machine
from engine.outcome import (
    fingerprint,
    items_fingerprint,
    machine_facts,
    phase_joules,
    trained_tokens,
    versions,
)
from engine.planning.forecast import Forecast
from engine.planning.probe import Probed
from engine.training.batches import Schedule
from engine.training.checkpoints import Saved
from engine.training.meters import Meters
from engine.training.trainer import StepFacts

PROGRESS_SECONDS = 1.0
SAMPLES = 3
"""Test items shown as `sample` events, before and after."""


@dataclass
class Run:
    """The state of the run that this process is."""

    dir: RunDir
    frozen: Frozen
    log: events.EventLog
    stopping: Stopping
    machine: Machine
    meters: Meters
    result: Result = field(init=False)
    warned: list[str] = field(default_factory=list)
    current_phase: events.PhaseName = "waiting"
    progress_told: float = field(default_factory=time.monotonic)
    """When progress was last logged, or the phase began."""

    def __post_init__(self) -> None:
        self.result = blank_result(self.dir, self.frozen)

    @property
    def config(self) -> Config:
        return self.frozen.config

    def phase(self, name: events.PhaseName) -> None:
        """Begin a phase, unless a stop was asked for."""
        self.stopping.check()
        self._read_energy()
        self.log.write(events.Phase(name=name))
        self.current_phase, self.progress_told = name, time.monotonic()
        print(f"[{time.strftime('%H:%M:%S')}] {name}", flush=True)

    def warn(self, code: str, text: str) -> None:
        if text not in self.warned:
            self.warned.append(text)
        self.log.write(events.Warning(code=code, text=text))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Log how many rows of a long phase are done, at most once a second. Raises Stopped as `phase` does."""
        self.stopping.check()
        now = time.monotonic()
        if now - self.progress_told >= PROGRESS_SECONDS:
            self.progress_told = now
            self.log.write(events.Progress(phase=self.current_phase, text=what, done=done, total=total))

    def first_data(self) -> events.Data | None:
        """The rows that an earlier start of this run began with; None in its first."""
        return next((event for event in Follower(self.dir.events_file).read() if isinstance(event, events.Data)), None)

    def tell_data(self, rows: Prepared, test: Sequence[EvaluationItem]) -> None:
        for warning in rows.warnings:
            self.warn(warning.code, warning.text)
        self.result.fingerprints["data"] = rows.fingerprint
        self.result.fingerprints["test"] = items_fingerprint(test)
        self.result.overlap = msgspec.convert(rows.about["overlap"], dict[str, SplitOverlap])
        self.log.write(
            events.Data(
                train=len(rows.train),
                validation=len(rows.validation),
                test=len(all_rows(test)),
                format=rows.about["format"],
                why=rows.about["why"],
                fingerprint=rows.fingerprint,
                tokens=int(rows.train.lengths.sum()),
                answer_tokens=int(rows.train.answer_tokens.sum()),
                columns=rows.about["columns"],
                account=rows.about["account"],
                test_items=len(test),
                split_version=rows.split_version,
                overlap=self.result.overlap,
            )
        )

    def tell_model(self, model: torch.nn.Module, optimizer: str) -> None:
        result = self.result
        base = getattr(model, "get_base_model", lambda: model)()
        if hasattr(model, "get_nb_trainable_parameters"):  # PEFT counts packed 4-bit weights as what they stand for
            result.trainable, everything = model.get_nb_trainable_parameters()
            result.parameters = everything - result.trainable
        else:
            result.parameters = sum(p.numel() for p in model.parameters())
            result.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        result.fingerprints["model"] = fingerprint(self.config.model, base.config)
        self.log.write(
            events.ModelLoaded(
                id=self.config.model.id,
                architecture=type(base).__name__,
                parameters=result.parameters,
                trainable=result.trainable,
                dtype=str(base.dtype).removeprefix("torch."),
                device=self.machine.name,
                attention=str(base.config._attn_implementation),
                optimizer=optimizer,
                fingerprint=result.fingerprints["model"],
            )
        )

    def earlier_micro_batch(self) -> int | None:
        """What an earlier life of this run trained with: another one would round otherwise. None in its first."""
        plans = [event for event in Follower(self.dir.events_file).read() if isinstance(event, events.Plan)]
        return plans[-1].micro_batch if plans else None

    def tell_plan(self, plan: events.Plan, forecast: Forecast) -> events.Plan:
        """What will be done, and what it is expected to take."""
        self.result.predicted = forecast.predicted()
        if self.result.predicted:
            best = self.result.predicted[-1]
            plan.predicted, plan.predicted_evaluation = best.training, best.evaluation
        return self.log.write(plan)

    def tell_probe(self, plan: events.Plan, probed: Probed, micro_batch: int) -> None:
        """The plan corrected by what the longest batch took."""
        self.result.predicted.append(Predicted(tier="probe", training=probed.training, evaluation=probed.evaluation))
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
        self.result.steps = step
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
        self.result.last_checkpoint = f"checkpoints/{saved.folder.name}"
        self.log.write(
            events.Checkpoint(
                step=saved.step, path=self.result.last_checkpoint, bytes=saved.bytes, seconds=saved.seconds
            )
        )

    def tell_validation(self, step: int, rows: int, loss: float) -> None:
        self.result.validation_loss.append((step, loss))
        self.log.write(events.Eval(when="during", split="validation", step=step, rows=rows, loss=loss))

    def tell_score(
        self,
        when: Literal["before", "after"],
        results: Sequence[Item],
        items: Sequence[EvaluationItem],
        prompts: Sequence[str],
        seconds: float,
    ) -> None:
        """The score on the test items, and the first few answers."""
        score = summarise(results, self.config.evaluation.metric, seconds)
        setattr(self.result, when, score)
        self.log.write(_eval_event(when, score, len(items), self.result.steps))
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
        """The `end` event, then `result.json`; where the disk is too full for them, the raw log says so."""
        result = self.result
        result.status, result.reason, result.ended, result.warnings = status, reason, time.time(), self.warned
        result.peak, result.comparable = self.meters.peak, self.meters.comparable
        result.versions, result.machine = versions(), machine_facts(self.machine)
        try:
            self._read_energy()
            self.log.write(events.End(status=status, reason=reason))
            result.seconds = phase_seconds(Follower(self.dir.events_file).read())
            result.tokens, result.step_seconds = trained_tokens(self.dir.events_file)
            result.tokens_per_second = result.tokens / result.step_seconds if result.step_seconds else None
            result.joules = phase_joules(self.dir.events_file)
            result.energy = sum(result.joules.values()) if result.joules else None
            price = self.config.cost.price_per_hour
            result.cost = price * result.worked / 3600 if price is not None else None
            write_result(self.dir, result)
        except OSError as error:
            print(f"the outcome could not be written ({error}): {status}: {reason}", file=sys.stderr)

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
        seconds=score.seconds,
    )
