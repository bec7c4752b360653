"""Schema of a ladder: its plan (`ladder.toml`), and its progress and results (`ladder.json`)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.schema import Config
from engine.config.split_version import OLDEST
from engine.runs.account import ColumnUse, RowAccount
from engine.runs.overlap import SplitOverlap
from engine.runs.renamed_fields import SCHEMA_VERSION, current_ladder
from engine.runs.result import Interval, MeasuredPeak

BASE, BASE_4BIT = BASES = ("base", "base-4bit")
"""Names of the base model's rows: as LoRA or full fine-tuning loads it, and as QLoRA loads it."""

WAITING = ("planned", "live")
"""Statuses of runs without an outcome."""

Kind = Literal["probe", "trial", "run"]
Stage = Literal["planned", "preparing", "probing", "tuning", "training", "analyzing", "done"]
Outcome = Literal["running", "finished", "stopped", "failed"]


class Rung(Struct, kw_only=True, frozen=True):
    """One way to train: the configuration of its runs, apart from seed and learning rate."""

    name: str
    config: Config
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings given for this rung only on the command line, by dotted key."""

    @property
    def method(self) -> str:
        return self.config.method


class LadderPlan(Struct, kw_only=True, frozen=True):
    """Content of `ladder.toml`."""

    preset: str
    created: float
    rungs: list[Rung]
    seeds: list[int]
    learning_rates: int = 1
    """Learning rates tried per rung on the validation rows; 1: no trials, use the configured rate."""
    probe: bool = True
    """Measure a few steps of every rung first."""
    fresh: bool = False
    """Run everything again instead of reusing finished runs."""
    command: str = ""
    """The command line that created the plan."""
    split_version: int = OLDEST
    """Version of the split rule of all its runs."""
    started_in: str = ""
    """The directory it was started from; '' for ladders of versions that did not record it."""


class LadderRun(Struct, kw_only=True):
    """One run of the ladder."""

    rung: str
    kind: Kind
    seed: int
    learning_rate: float
    run: str = ""
    """The run's directory, relative to the ladder's parent folder; '' if not started."""
    status: str = "planned"
    """planned, live, skipped, died, or the status of the run's result."""
    reason: str = ""
    reused: bool = False
    """The run existed before this ladder."""
    chosen: bool = False
    """The trial whose learning rate was selected."""
    validation_loss: float | None = None
    seconds: float | None = None
    """Duration of all phases except waiting in the device queue."""

    @property
    def is_done(self) -> bool:
        """Whether the run needs no more work. A stopped run is resumed with the ladder."""
        return self.status not in (*WAITING, "stopped")


class SharedWork(Struct, kw_only=True):
    """The work that all rungs share: fingerprints and sizes that every run must match."""

    model: str
    data: str
    train: int
    validation: int
    test: int
    tokens: int
    """Tokens per epoch."""
    steps: int
    batch: int
    metric: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    split_version: int = OLDEST
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`; empty in ladders of earlier versions."""
    columns: list[ColumnUse] = field(default_factory=list)
    """Role of each column; empty in ladders of earlier versions."""
    account: RowAccount | None = None
    """Use of every row."""


class RungDuration(Struct, kw_only=True):
    """Expected duration of one run of a rung in seconds, from its probe."""

    rung: str
    low: float
    high: float
    step_seconds: float
    steps_measured: int


class SeedRange(Struct, kw_only=True):
    """A measurement over the seeds: mean, minimum and maximum (not a confidence interval)."""

    mean: float
    low: float
    high: float


class RentalPrice(Struct, kw_only=True):
    """The cheapest listed GPU with enough memory for the peak, and its price per hour."""

    gpu: str
    memory: int
    price_per_hour: float
    currency: str


class RungResult(Struct, kw_only=True):
    """Quality and cost of a rung. `base` is the model before training."""

    name: str
    method: str
    status: str
    """finished, partly (some seeds only), or why there is no result: out_of_memory, diverged, failed, died."""
    reason: str = ""
    learning_rate: float | None = None
    seeds: list[int] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    score: Interval | None = None
    """Score over items and seeds, with its 95% CI."""
    by_seed: list[float] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)
    """Means of additional scores of the same answers."""
    loss: Interval | None = None
    share_of_score: Interval | None = None
    """Score divided by the score of full fine-tuning."""
    share_of_gain: Interval | None = None
    """Gain over the base divided by the gain of full fine-tuning."""
    no_share: str = ""
    """Why there is no share."""
    peak: MeasuredPeak | None = None
    training_seconds: SeedRange | None = None
    """Duration of the optimizer steps."""
    all_seconds: SeedRange | None = None
    """Duration of all phases except waiting in the device queue and scoring the base, which not every rung does."""
    tokens_per_second: SeedRange | None = None
    energy: SeedRange | None = None
    """Joules."""
    money: SeedRange | None = None
    currency: str = "USD"
    money_note: str = ""
    rent: RentalPrice | None = None
    rent_note: str = ""
    trainable: int = 0
    parameters: int = 0
    artifact_bytes: int = 0
    general_loss: Interval | None = None
    """Loss on held-out general text, in nats/token."""
    forgetting: Interval | None = None
    """General loss minus that of the base; positive means forgetting."""


Finding = Literal["better", "worse", "undecided"]


class Comparison(Struct, kw_only=True):
    """Rung `a` minus rung `b`, paired by test item."""

    a: str
    b: str
    difference: Interval
    """Difference of scores, with its simultaneous 95% CI over all comparisons."""
    p: float
    """Two-sided p-value, by the bootstrap over items and seeds."""
    p_adjusted: float
    """Adjusted for all comparisons (single-step max-T); below 0.05 exactly if the interval excludes 0."""
    finding: Finding
    mcnemar: list[float] = field(default_factory=list)
    """Exact two-sided p-value per seed, for scores that are 0 or 1."""
    needed_items: int | None = None
    """Test items needed to detect a difference of the observed size with 80% power."""
    needed_seeds: int | None = None
    loss_difference: Interval | None = None


Topic = Literal["quality", "time", "energy", "memory", "rent", "prototype", "ship", "full", "data", "caveat"]


class VerdictSentence(Struct, kw_only=True):
    """A sentence of the verdict and its topic."""

    topic: Topic
    text: str


class Ladder(Struct, kw_only=True):
    """Content of `ladder.json`."""

    v: int = SCHEMA_VERSION
    name: str
    preset: str
    command: str
    created: float
    started_in: str = ""
    """The directory it was started from; '' for ladders of versions that did not record it."""
    updated: float = 0.0
    status: Outcome = "running"
    stage: Stage = "planned"
    reason: str = ""
    seeds: list[int] = field(default_factory=list)
    work: SharedWork | None = None
    estimates: list[RungDuration] = field(default_factory=list)
    entries: list[LadderRun] = field(default_factory=list)
    rows: list[RungResult] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    verdict: list[VerdictSentence] = field(default_factory=list)
    differs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Configuration keys that differ between rungs: key -> rung -> value."""
    config: dict[str, Any] = field(default_factory=dict)
    """Configuration shared by all rungs, by dotted key."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def decode_ladder(text: bytes) -> Ladder:
    """Decode `ladder.json` of any schema version. Raises msgspec.DecodeError if it is damaged."""
    return msgspec.convert(current_ladder(msgspec.json.decode(text, type=dict[str, Any])), Ladder)
