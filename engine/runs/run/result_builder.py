"""Build `result.json` from a run's events: covers all workers of the run, and any reader can rebuild it."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

from engine.config import schema
from engine.runs.run import events
from engine.runs.run.event_log import Follower
from engine.runs.run.events import End, Event, Hello, Phase, Step
from engine.runs.run.folder import EndRecord
from engine.runs.run.result import Result, TaskResult, task_fingerprint


class ResultBuilder:
    """Accumulates events in order. A resumed run repeats steps: values after its checkpoint are discarded."""

    def __init__(self, blank: Result, config: schema.Config) -> None:
        self.result, self.config = blank, config
        self.times, self.steps = PhaseTimes(), TrainedSteps()
        self._joules: dict[str, float] = {}
        """Energy by phase, over all workers."""
        self._energy = 0.0
        """The energy counter of the current worker."""
        self._resident_before: int | None = None
        """Its resident set before it loaded the model."""
        self._validations: dict[int, events.Eval] = {}
        """During training, by step."""
        self._warnings: dict[str, str] = {}
        """Text -> code."""
        self._data: events.DataPrepared | None = None
        self._plan: events.Plan | None = None
        self._predicted_at = 0
        self._unrecorded, self._all_recorded = False, True
        """Whether the current worker has trained without recording its load yet; whether all before it recorded it."""

    def add(self, event: Event) -> None:
        result = self.result
        self.times.add(event)
        match event:
            case events.Step():  # the most frequent event, so checked first
                self.steps.add(event)
                result.steps = event.step
                self._unrecorded = True
            case events.Hello():
                self._all_recorded &= not self._unrecorded
                self._unrecorded = False
                self._energy, self._resident_before = 0.0, None
            case events.Memory():
                self._take_memory(event)
            case events.Environment():
                result.versions, result.machine = event.versions, event.machine
            case events.DataPrepared():
                self._data = event
                result.fingerprints["data"] = event.fingerprint
                result.overlap = event.overlap
                if event.test_fingerprint:
                    result.fingerprints["test"] = event.test_fingerprint
                if event.metric:
                    result.metric, result.metric_reason = event.metric, event.metric_reason
            case events.ModelLoaded():
                result.parameters, result.trainable = event.parameters, event.trainable
                result.account = event.account
                self._resident_before = event.resident_before
                result.fingerprints["model"] = event.fingerprint
            case events.Plan():
                self._take_plan(event)
            case events.MicroBatchReduced():
                result.micro_batch = event.micro_batch
            case events.Load():
                if result.load is None:
                    result.load = event.training
                else:
                    result.load.add(event.training)
                result.load.complete, self._unrecorded = self._all_recorded, False
            case events.Eval(split="validation", when="after"):
                result.final_validation = event.loss
            case events.Eval(split="validation", when="during"):
                self._validations[event.step] = event
            case events.Eval(split="test"):
                if event.when == "before":
                    result.before = event.score
                else:
                    result.after = event.score
            case events.Selected():
                result.selected_step, result.stopped_early = event.step, event.early
            case events.GeneralLoss():
                result.general = event.general
            case events.TaskScored(scores=scores):
                if scores.task not in result.tasks:
                    result.tasks[scores.task] = TaskResult(
                        metric=scores.metric, higher_is_better=scores.higher_is_better, is_share=scores.is_share
                    )
                setattr(result.tasks[scores.task], event.when, scores.score)
                result.fingerprints[task_fingerprint(scores.task)] = scores.fingerprint
            case events.Checkpoint():
                result.last_checkpoint = event.path
            case events.ModelSaved():
                result.artifact_bytes = event.bytes
            case events.Warning():
                self._warnings[event.text] = event.code

    def _take_memory(self, event: events.Memory) -> None:
        """Add the energy, and keep the highest value of every counter."""
        if event.energy is not None:
            phase = self.times.phase
            self._joules[phase] = self._joules.get(phase, 0.0) + max(0.0, event.energy - self._energy)
            self._energy = event.energy
        result, peak = self.result, self.result.peak
        allocated, reserved, before = event.allocated_peak, event.reserved_peak, self._resident_before
        peak.rss = _higher(peak.rss, event.rss_peak)
        peak.allocated, peak.reserved = _higher(peak.allocated, allocated), _higher(peak.reserved, reserved)
        peak.nvml_used, peak.paged = _higher(peak.nvml_used, event.nvml_used), _higher(peak.paged, event.paged)
        if event.training:
            peak.rss_training = _higher(peak.rss_training, event.rss_peak)
            peak.allocated_training = _higher(peak.allocated_training, allocated)
            peak.reserved_training = _higher(peak.reserved_training, reserved)
            on_cpu = None if before is None else event.rss_peak - before
            result.peak_training_bytes = _higher(result.peak_training_bytes, reserved or on_cpu)

    def _take_plan(self, plan: events.Plan) -> None:
        """Discard what came after the checkpoint that the current worker starts from; store the plan's predictions.

        A plan that is logged again, with the measurements of the memory probe, comes before anything to discard.
        """
        result, start = self.result, plan.start_step
        self.steps.rewind(start)
        self._validations = {step: event for step, event in self._validations.items() if step <= start}
        result.steps = start
        result.last_checkpoint = f"checkpoints/step-{start}" if start else ""
        if start < plan.steps:
            result.after = result.final_validation = result.general = None
            result.artifact_bytes, result.selected_step, result.stopped_early = 0, None, False
            for task in result.tasks.values():
                task.after = None
        self._plan = plan
        result.planned_steps, result.micro_batch, result.automatic = plan.steps, plan.micro_batch, plan.automatic
        # The worker with the most steps still to do predicted the peak for all of them.
        if plan.predictions and (not result.predicted or start <= self._predicted_at):
            result.predicted, self._predicted_at = plan.predictions, start

    def build(self, end: EndRecord, damaged: int = 0) -> Result:
        """The result of a run with this end. `damaged`: number of unreadable lines in the log."""
        result, config = self.result, self.config
        result.status, result.reason, result.ended = end.status, end.reason, end.t
        result.validation_loss = [(step, event.loss) for step, event in sorted(self._validations.items())]
        result.validation_seconds = sum(event.seconds for event in self._validations.values())
        result.tokens, result.step_seconds = self.steps.tokens(), self.steps.seconds()
        result.computed_tokens = self.steps.computed()
        if result.step_seconds:
            result.tokens_per_second = result.tokens / result.step_seconds
            computed = result.computed_tokens
            result.computed_tokens_per_second = computed / result.step_seconds if computed else None
        result.seconds = self.times.seconds()
        result.joules = {phase: round(value, 3) for phase, value in self._joules.items()}
        result.energy = sum(result.joules.values()) if result.joules else None
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


class PhaseTimes:
    """Seconds in each phase over all workers of a run; time between two workers is not counted.

    Uses the monotonic clock of each worker (`elapsed`) where events have it, so that setting the clock has no effect.
    """

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}
        self.phase = "starting"
        self._since: float | None = None
        self._last, self._last_t = 0.0, 0.0

    def add(self, event: Event) -> None:
        """Hello, phase and end events delimit phases; a worker without an `end` ended at its last event."""
        moment = event.t if event.elapsed is None else event.elapsed
        if isinstance(event, (Hello, Phase, End)):
            if self._since is not None:
                until = self._last if isinstance(event, Hello) else moment
                self._seconds[self.phase] = self._seconds.get(self.phase, 0.0) + max(0.0, until - self._since)
            self.phase = event.name if isinstance(event, Phase) else "starting"
            self._since = None if isinstance(event, End) else moment
        self._last, self._last_t = moment, event.t

    def seconds(self, now: float | None = None) -> dict[str, float]:
        """Seconds by phase. `now` (Unix seconds) ends the current phase of a running worker."""
        seconds = dict(self._seconds)
        if now is not None and self._since is not None:
            present = self._last + max(0.0, now - self._last_t)
            seconds[self.phase] = seconds.get(self.phase, 0.0) + max(0.0, present - self._since)
        return {name: round(value, 3) for name, value in seconds.items()}


def phase_seconds(events: Iterable[Event], now: float | None = None) -> dict[str, float]:
    times = PhaseTimes()
    for event in events:
        times.add(event)
    return times.seconds(now)


def _higher(a: int | None, b: int | None) -> int | None:
    known = [value for value in (a, b) if value is not None]
    return max(known, default=None)


class TrainedSteps:
    """Tokens and seconds per step, 32 bytes each. A resumed run repeats steps, which replace the earlier ones."""

    def __init__(self) -> None:
        self._step, self._tokens, self._computed, self._seconds = array("q"), array("q"), array("q"), array("d")

    @property
    def last(self) -> int:
        """Number of the latest step, 0 before the first."""
        return self._step[-1] if self._step else 0

    def add(self, event: Step) -> None:
        """Add a step; a repeated step replaces the earlier one and all that followed it."""
        if event.step <= self.last:
            self.rewind(event.step - 1)
        self._step.append(event.step)
        self._tokens.append(event.tokens)
        self._computed.append(event.computed_tokens)
        self._seconds.append(event.seconds)

    def rewind(self, step: int) -> None:
        """Discard the steps after this one: the run resumed from it."""
        first = bisect_left(self._step, step + 1)
        for column in (self._step, self._tokens, self._computed, self._seconds):
            del column[first:]

    def tokens(self) -> int:
        """Tokens of the rows of all steps."""
        return sum(self._tokens)

    def computed(self) -> int | None:
        """Tokens of the forward passes of all steps; None if a step did not log them."""
        return sum(self._computed) if self._computed and all(self._computed) else None

    def seconds(self) -> float:
        return sum(self._seconds)
