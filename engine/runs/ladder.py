"""A comparison of methods: what was planned (`ladder.toml`), how far it is and what it found (`ladder.json`)."""

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
"""Rows of the untrained model: as LoRA or full fine-tuning loads it, and as QLoRA does."""

WAITING = ("planned", "live")
"""Statuses of entries that have no outcome yet."""

Kind = Literal["probe", "trial", "run"]
Stage = Literal["planned", "preparing", "probing", "tuning", "training", "analyzing", "done"]
Outcome = Literal["running", "finished", "stopped", "failed"]


class Rung(Struct, kw_only=True, frozen=True):
    """One way to train, as it will be run but for seed and learning rate."""

    name: str
    config: Config
    settings: dict[str, Any] = field(default_factory=dict)
    """What this rung alone was told on the command line, by dotted key."""

    @property
    def method(self) -> str:
        return self.config.method


class LadderPlan(Struct, kw_only=True, frozen=True):
    """What `ladder.toml` freezes."""

    preset: str
    created: float
    rungs: list[Rung]
    seeds: list[int]
    learning_rates: int = 1
    """Trials a rung gets on the validation rows; 1: its own rate, untried."""
    probe: bool = True
    """Measure a few steps of every rung first."""
    fresh: bool = False
    """Run everything again, whatever has been run already."""
    command: str = ""
    """The command line that made the plan."""
    split_version: int = OLDEST
    """The rule that divides the rows of all its runs."""
    started_in: str = ""
    """The directory it was started from; '' for ladders of versions that did not record it."""


class LadderRun(Struct, kw_only=True):
    """One run of the ladder."""

    rung: str
    kind: Kind
    seed: int
    learning_rate: float
    run: str = ""
    """The run's directory, relative to the ladder's parent folder; '' while there is none."""
    status: str = "planned"
    """planned, live, skipped, died, or how the run ended."""
    reason: str = ""
    reused: bool = False
    """It had been run before this ladder came to it."""
    chosen: bool = False
    """Of the trials: this rate won."""
    validation_loss: float | None = None
    seconds: float | None = None
    """All phases but waiting for the card."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do for it. A stopped run goes on when the ladder does."""
        return self.status not in (*WAITING, "stopped")


class SharedWork(Struct, kw_only=True):
    """What all rungs do alike: the fingerprints and sizes every run is held against."""

    model: str
    data: str
    train: int
    validation: int
    test: int
    tokens: int
    """In the training rows, once through."""
    steps: int
    batch: int
    metric: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    split_version: int = OLDEST
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`; empty in ladders of before it was counted."""
    columns: list[ColumnUse] = field(default_factory=list)
    """What each column is used for; empty in ladders of before it was recorded."""
    account: RowAccount | None = None
    """Where every row went."""


class RungDuration(Struct, kw_only=True):
    """Seconds one run of a rung is expected to take, from its probe."""

    rung: str
    low: float
    high: float
    step_seconds: float
    steps_measured: int


class SeedRange(Struct, kw_only=True):
    """A measurement over the seeds: mean, and the lowest and highest seen (not an interval)."""

    mean: float
    low: float
    high: float


class RentalPrice(Struct, kw_only=True):
    """The cheapest listed card whose memory holds the peak, and what this work would cost there per hour."""

    gpu: str
    memory: int
    price_per_hour: float
    currency: str


class RungResult(Struct, kw_only=True):
    """What a rung kept and cost. `base` is the model before any training."""

    name: str
    method: str
    status: str
    """finished, partly (some seeds only), or why there is nothing: out_of_memory, diverged, failed, died."""
    reason: str = ""
    learning_rate: float | None = None
    seeds: list[int] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    score: Interval | None = None
    """Of the metric, over items and seeds; 95 %."""
    by_seed: list[float] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)
    """Means of further views of the same answers."""
    loss: Interval | None = None
    share_of_score: Interval | None = None
    """Of full's, 1 = the same."""
    share_of_gain: Interval | None = None
    """Of full's gain over the base."""
    no_share: str = ""
    """Why there is no share: the reason, in words."""
    peak: MeasuredPeak | None = None
    training_seconds: SeedRange | None = None
    """The optimizer steps alone."""
    all_seconds: SeedRange | None = None
    """Every phase but waiting for the card and scoring the base, which not every rung does."""
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
    """On held-out general text, nats a token."""
    forgetting: Interval | None = None
    """That loss less the base's; positive is forgotten."""


Finding = Literal["better", "worse", "undecided"]


class Comparison(Struct, kw_only=True):
    """Rung `a` less rung `b`, paired by test item."""

    a: str
    b: str
    difference: Interval
    """Of the score; simultaneous 95 % interval over all comparisons."""
    p: float
    """Two-sided, by the bootstrap over items and seeds."""
    p_adjusted: float
    """For all comparisons together (single-step max-T); below 0.05 exactly where the interval leaves out 0."""
    finding: Finding
    mcnemar: list[float] = field(default_factory=list)
    """Exact two-sided p by seed, for scores that are 0 or 1."""
    needed_items: int | None = None
    """Test items at which a difference of the observed size would be told apart in 80 % of cases."""
    needed_seeds: int | None = None
    loss_difference: Interval | None = None


Topic = Literal["quality", "time", "energy", "memory", "rent", "prototype", "ship", "full", "data", "caveat"]


class VerdictSentence(Struct, kw_only=True):
    """A sentence of the verdict and what it is about."""

    topic: Topic
    text: str


class Ladder(Struct, kw_only=True):
    """What `ladder.json` holds."""

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
    """Configuration keys in which the rungs differ: key -> rung -> value."""
    config: dict[str, Any] = field(default_factory=dict)
    """The configuration all rungs share, by dotted key."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def decode_ladder(text: bytes) -> Ladder:
    """The content of `ladder.json`, of any schema version. Raises msgspec.DecodeError where it is damaged."""
    return msgspec.convert(current_ladder(msgspec.json.decode(text, type=dict[str, Any])), Ladder)
