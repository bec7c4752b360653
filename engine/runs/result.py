"""The outcome of a run: what `result.json` holds."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.split_version import OLDEST
from engine.runs.overlap import SplitOverlap
from engine.runs.renamed_fields import SCHEMA_VERSION, current_result

Status = Literal["finished", "stopped", "failed", "out_of_memory", "diverged"]

Z = 1.96
"""Standard normal quantile of 97.5 %."""


class Interval(Struct, kw_only=True):
    """A mean over rows with its bootstrap 95 % interval."""

    mean: float | None
    low: float | None
    high: float | None
    rows: int

    def widened(self, all_alike: float) -> Interval:
        """Of scores from 0 to 1 that are all 0 or all 1: a bootstrap finds nothing to resample and would be certain
        after two rows. Wilson's interval (1927) for n of n successes ends at n / (n + z²).
        """
        if self.rows < 2 or self.low is None or self.high is None or all_alike not in (0.0, 1.0):
            return self
        nearest = Z**2 / (self.rows + Z**2)
        low, high = (self.low, max(self.high, nearest)) if all_alike == 0 else (min(self.low, 1 - nearest), self.high)
        return Interval(mean=self.mean, low=low, high=high, rows=self.rows)


class Score(Struct, kw_only=True):
    """One model on the test rows."""

    loss: Interval
    """Mean negative log-likelihood of an answer token, nats; the interval resamples rows."""
    perplexity: float | None
    metric: str
    score: Interval
    extra: dict[str, Interval] = field(default_factory=dict)
    """Further views of the same answers, such as exact match beside the share of JSON fields."""
    seconds: float = 0.0


class MeasuredPeak(Struct, kw_only=True):
    """Peak memory in bytes, in its several meanings; null where this machine cannot say."""

    rss: int | None = None
    """Highest resident set of the worker, interpreter and libraries included."""
    rss_training: int | None = None
    """The same, sampled while training only."""
    allocated: int | None = None
    reserved: int | None = None
    nvml_used: int | None = None
    allocated_training: int | None = None
    reserved_training: int | None = None
    """The same two while training only, evaluations within it included."""
    paged: int | None = None
    """Optimizer state in memory that card and host share: on the card where there is room, not in torch's pool."""

    @property
    def gpu_training(self) -> int | None:
        """While training on a card: torch's pool, and the state that is paged."""
        return self.reserved_training + (self.paged or 0) if self.reserved_training else None

    @property
    def training(self) -> int | None:
        """While training: what a card has to hold, the resident set without one."""
        return self.gpu_training or self.rss_training


class General(Struct, kw_only=True):
    """Held-out general text by passage; what the loss rose by after training was forgotten."""

    text: str
    """Which text, with the hash of what it held."""
    tokens: list[int]
    """Predicted in each passage."""
    before: list[float]
    """Summed negative log-likelihood of each passage, nats; empty where the base was not asked."""
    after: list[float]


class Predicted(Struct, kw_only=True):
    """What the planner said before the first step, bytes."""

    tier: Literal["formula", "dry run", "probe"]
    training: int
    evaluation: int | None = None
    """Of the held-out loss and the answers; None where the tier does not say."""


class Result(Struct, kw_only=True):
    """Written once, atomically; absent while the run goes on."""

    v: int = SCHEMA_VERSION
    status: Status
    reason: str
    name: str
    preset: str
    method: str
    model: str
    data: str
    metric: str
    created: float
    ended: float
    steps: int = 0
    planned_steps: int = 0
    micro_batch: int | None = None
    before: Score | None = None
    after: Score | None = None
    validation_loss: list[tuple[int, float | None]] = field(default_factory=list)
    """(step, loss) on the validation rows."""
    final_validation: float | None = None
    """Of the finished model on at most 512 validation rows, nats an answer token; learning rates are chosen by it."""
    general: General | None = None
    parameters: int = 0
    """Of the model, adapters not among them."""
    trainable: int = 0
    tokens: int = 0
    """Trained on, all steps."""
    tokens_per_second: float | None = None
    """Over all training steps, each counted once."""
    step_seconds: float = 0.0
    """Of the optimizer steps alone, each counted once: the training phase less evaluations and checkpoints."""
    seconds: dict[str, float] = field(default_factory=dict)
    """By phase."""
    peak: MeasuredPeak = field(default_factory=MeasuredPeak)
    predicted: list[Predicted] = field(default_factory=list)
    peak_training_bytes: int | None = None
    """The peak of training that was measured, in the planner's meaning: torch's pool on a card; without one the
    resident set less what it was before the model was loaded.
    """
    energy: float | None = None
    """Joules drawn by the card, all lives of the run and all phases together."""
    joules: dict[str, float] = field(default_factory=dict)
    """The same by phase; empty where it was not measured."""
    cost: float | None = None
    currency: str = "USD"
    artifact_bytes: int = 0
    last_checkpoint: str = ""
    warnings: list[str] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)
    split_version: int = OLDEST
    """The rule that divided the rows; scores under different rules do not compare."""
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`; empty in runs of before it was counted."""

    @property
    def worked(self) -> float:
        """Seconds of all phases but waiting for a card, which is another run's time."""
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "waiting")


def decode_result(text: bytes) -> Result:
    """The content of `result.json`, of any schema version. Raises msgspec.DecodeError where it is damaged."""
    return msgspec.convert(current_result(msgspec.json.decode(text, type=dict[str, Any])), Result)
