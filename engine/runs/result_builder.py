"""Build `result.json` from a run's events: covers all workers of the run, and any reader can rebuild it."""

from __future__ import annotations

from engine.config import schema
from engine.runs import events
from engine.runs.benchmark_scores import benchmark_fingerprint
from engine.runs.end_record import EndRecord
from engine.runs.energy import PhaseEnergy
from engine.runs.events import Event
from engine.runs.follow import Follower
from engine.runs.memory_peaks import MemoryPeaks
from engine.runs.phases import PhaseTimes
from engine.runs.result import BenchmarkResult, General, Interval, Predicted, Result, Score
from engine.runs.trained_steps import TrainedSteps, ValidationLosses


class ResultBuilder:
    """Accumulates events in order. A resumed run repeats steps: values after its checkpoint are discarded."""

    def __init__(self, blank: Result, config: schema.Config) -> None:
        self.result, self.config = blank, config
        self.times, self.energy = PhaseTimes(), PhaseEnergy()
        self.steps, self.validation, self.memory = TrainedSteps(), ValidationLosses(), MemoryPeaks()
        self._warnings: dict[str, str] = {}
        """Text -> code."""
        self._data: events.DataPrepared | None = None
        self._plan: events.Plan | None = None
        self._predicted_at = 0
        self._unrecorded, self._all_recorded = False, True
        """Whether the current worker has trained without recording its load yet; whether all before it recorded it."""

    def add(self, event: Event) -> None:
        self.times.add(event)
        self.memory.add(event)
        if isinstance(event, events.Step):  # the most frequent event, so checked first
            self.steps.add(event)
            self.result.steps = event.step
            self._unrecorded = True
            return
        self.energy.add(event)
        self.validation.add(event)
        self._rare(event)

    def _rare(self, event: Event) -> None:
        result = self.result
        match event:
            case events.Hello():
                self._all_recorded &= not self._unrecorded
                self._unrecorded = False
            case events.Environment():
                result.versions, result.machine = event.versions, event.machine
            case events.DataPrepared():
                self._data = event
                result.fingerprints["data"] = event.fingerprint
                result.overlap = event.overlap
                if event.test_fingerprint:
                    result.fingerprints["test"] = event.test_fingerprint
            case events.ModelLoaded():
                result.parameters, result.trainable = event.parameters, event.trainable
                result.account = event.account
                result.fingerprints["model"] = event.fingerprint
            case events.Plan():
                self._take_plan(event)
            case events.MicroBatchReduced():
                result.micro_batch = event.micro_batch
            case events.Load():
                self._take_load(event)
            case events.Eval():
                self._take_eval(event)
            case events.GeneralLoss():
                result.general = General(text=event.text, tokens=event.tokens, before=event.before, after=event.after)
            case events.BenchmarkScored():
                self._take_benchmark(event)
            case events.Checkpoint():
                result.last_checkpoint = event.path
            case events.ModelSaved():
                result.artifact_bytes = event.bytes
            case events.Warning():
                self._warnings[event.text] = event.code

    def _take_plan(self, plan: events.Plan) -> None:
        result = self.result
        self._rewind(plan)
        self._plan = plan
        result.planned_steps, result.micro_batch = plan.steps, plan.micro_batch
        predictions = list(plan.predictions)
        if plan.measured is not None:
            probe = Predicted(tier="probe", training=plan.measured, evaluation=plan.measured_evaluation)
            predictions.append(probe)
        # The worker with the most steps still to do predicted the peak for all of them.
        if predictions and (not result.predicted or plan.start_step <= self._predicted_at):
            result.predicted, self._predicted_at = predictions, plan.start_step

    def _rewind(self, plan: events.Plan) -> None:
        """Discard what came after the checkpoint that the current worker starts from.

        A plan that is logged again, with the measurements of the memory probe, comes before anything to discard.
        """
        result, start = self.result, plan.start_step
        self.steps.rewind(start)
        result.steps = start
        result.last_checkpoint = f"checkpoints/step-{start}" if start else ""
        if start < plan.steps:
            result.after = result.final_validation = result.general = None
            result.artifact_bytes = 0
            for benchmark in result.benchmarks.values():
                benchmark.after = None

    def _take_load(self, event: events.Load) -> None:
        if self.result.load is None:
            self.result.load = event.training
        else:
            self.result.load.add(event.training)
        self.result.load.complete = self._all_recorded
        self._unrecorded = False

    def _take_eval(self, event: events.Eval) -> None:
        result = self.result
        if event.split == "validation":
            if event.when == "after":
                result.final_validation = event.loss
        elif event.when == "before":
            result.before = score_of(event)
        else:
            result.after = score_of(event)

    def _take_benchmark(self, event: events.BenchmarkScored) -> None:
        result = self.result.benchmarks.get(event.benchmark) or BenchmarkResult(
            metric=event.metric, higher_is_better=event.higher_is_better, is_share=event.is_share
        )
        setattr(result, event.when, event.score)
        self.result.benchmarks[event.benchmark] = result
        self.result.fingerprints[benchmark_fingerprint(event.benchmark)] = event.fingerprint

    def build(self, end: EndRecord, damaged: int = 0) -> Result:
        """The result of a run with this end. `damaged`: number of unreadable lines in the log."""
        result, config = self.result, self.config
        result.status, result.reason, result.ended = end.status, end.reason, end.t
        result.validation_loss = self.validation.by_step()
        result.tokens, result.step_seconds = self.steps.tokens(), self.steps.seconds()
        result.computed_tokens = self.steps.computed()
        if result.step_seconds:
            result.tokens_per_second = result.tokens / result.step_seconds
            computed = result.computed_tokens
            result.computed_tokens_per_second = computed / result.step_seconds if computed else None
        result.seconds, result.joules = self.times.seconds(), self.energy.joules()
        result.energy = sum(result.joules.values()) if result.joules else None
        result.peak, result.peak_training_bytes = self.memory.peak, self.memory.peak_training_bytes
        price = config.cost.price_per_hour
        result.cost = price * result.active_seconds / 3600 if price is not None else None
        if self._data and self._plan:
            rows, plan = self._data.train, self._plan
            order = f"{rows} rows, {plan.steps} steps of {plan.batch}, seed {config.train.seed}"
            result.fingerprints["order"] = order
        warnings = self._warnings | ({damage(damaged): "run.events_damaged"} if damaged else {})
        result.warnings, result.warning_codes = list(warnings), list(warnings.values())
        return result


def damage(lines: int) -> str:
    """The warning about unreadable lines of a log."""
    return f"events.jsonl has {lines} damaged {'line' if lines == 1 else 'lines'}; their events are missing"


def score_of(event: events.Eval) -> Score:
    """The score in an `eval` event of the test rows."""
    loss = Interval(mean=event.loss, low=event.loss_low, high=event.loss_high, rows=event.rows)
    score = Interval(mean=event.score, low=event.low, high=event.high, rows=event.rows)
    return Score(
        loss=loss,
        perplexity=event.perplexity,
        metric=event.metric,
        score=score,
        extra=event.extra,
        seconds=event.seconds,
        ended=event.ended,
        format_errors=event.format_errors,
    )


def read_events(builder: ResultBuilder, follower: Follower) -> events.End | None:
    """Feed a log to the builder and return the `end` event of the latest worker, None if it has none."""
    end: events.End | None = None
    for portion in follower.portions():
        for event in portion:
            builder.add(event)
            if isinstance(event, events.End):
                end = event
            elif isinstance(event, events.Hello):
                end = None
    return end
