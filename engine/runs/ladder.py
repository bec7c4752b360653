"""The plan of a ladder (`ladder.toml`), and its state and results (`ladder.json`): both schemas, in one module because
they share their types.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.errors import Notice
from engine.config.metric_specs import DEFAULT_MARGIN
from engine.config.schema import Config
from engine.config.split_version import OLDEST_SPLIT_VERSION
from engine.runs.account import ColumnUse, RowAccount
from engine.runs.exports import Artifact, parse_artifact
from engine.runs.ladder_benchmarks import LadderBenchmark
from engine.runs.overlap import SplitOverlap
from engine.runs.renamed_fields import SCHEMA_VERSION, current_ladder
from engine.runs.result import Interval, MeasuredPeak

BASE, BASE_4BIT = BASES = ("base", "base-4bit")
"""Rows of the base model: as LoRA or full fine-tuning loads it, and in QLoRA's 4 bits."""
_FEW_SHOT = re.compile(r"base-(\d+)-shot", re.ASCII)


def few_shot_base(shots: int) -> str:
    """The row of the base model with this many training rows in each prompt."""
    return f"base-{shots}-shot"


def shots_of(name: str) -> int:
    """Examples in the prompts of such a row; 0 for every other row."""
    match = _FEW_SHOT.fullmatch(name)
    return int(match[1]) if match else 0


def is_base(name: str) -> bool:
    """Whether a row is the base model: as loaded, in 4 bits, or with examples in the prompt."""
    return name in BASES or _FEW_SHOT.fullmatch(name) is not None


WAITING = ("planned", "live")
"""Statuses of entries without an outcome."""


ARTIFACT_SEPARATOR = ":"
"""Between a rung and its artifact in an artifact's name, `lora:q4_k_m`; the names of trained rungs do not have it."""

Kind = Literal["probe", "trial", "run", "export"]
Stage = Literal["planned", "preparing", "probing", "tuning", "training", "exporting", "analyzing", "done"]
Outcome = Literal["running", "finished", "stopped", "failed"]


def artifact_of(name: str) -> tuple[str, Artifact] | None:
    """(rung, artifact) of an artifact's rung, `lora:q4_k_m`; None for the name of a trained rung."""
    rung, separator, word = name.partition(ARTIFACT_SEPARATOR)
    return (rung, parse_artifact(word)) if separator else None


class Rung(Struct, kw_only=True, frozen=True):
    """One way to train: a method with its settings, except for seed and learning rate."""

    name: str
    config: Config
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this rung from `--rung`, by dotted key."""
    rate_origin: str = ""
    """What sets its learning rate: `preset demo`, `default for lora`, `command line`; '' in ladders of versions that
    did not record it."""

    @property
    def method(self) -> str:
        return self.config.method


COMPLETE_TRIALS = 3
"""Up to this many learning rates are compared in complete trials, more by successive halving."""
REDUCTION = 3
"""Factor by which the number of rates falls, and the length of trials rises, in each round of successive halving."""


def round_sizes(rates: int) -> list[int]:
    """Number of learning-rate trials of a rung in each round; none for one rate."""
    sizes = [rates] if rates > 1 else []
    while rates > COMPLETE_TRIALS and sizes[-1] > 2:
        sizes.append(max(2, -(-sizes[-1] // REDUCTION)))
    return sizes


class LadderPlan(Struct, kw_only=True, frozen=True):
    """The content of `ladder.toml`; does not change after the start."""

    preset: str
    created: float
    rungs: list[Rung]
    seeds: list[int]
    learning_rates: int = 1
    """Rates tried per rung on the validation rows; 1: its configured rate without trials."""
    probe: bool = True
    """Whether to measure a few steps of every rung first."""
    ship: list[str] = field(default_factory=list)
    """Artifacts that are rungs too, as `lora:q4_k_m`: exported from each run of the rung, checked and compared."""
    margin: float = DEFAULT_MARGIN
    """Loss of quality up to which a rung is as good as another, in the unit of the metric."""
    base_shots: list[int] = field(default_factory=list)
    """Numbers of training rows in the prompt with which the base model is scored too."""
    fresh: bool = False
    """Whether to run everything again instead of reusing finished runs."""
    retime: bool = False
    """Whether to run again what has a disturbed timing instead of reusing it."""
    command: str = ""
    """The command line that started the ladder."""
    split_version: int = OLDEST_SPLIT_VERSION
    """Version of the rule that splits the rows."""
    started_in: str = ""
    """The directory it was started from; '' in ladders of versions that did not record it."""
    notices: list[Notice] = field(default_factory=list)
    """Warnings of combining preset, rungs and command line, each once."""

    @property
    def run_count(self) -> int:
        """Number of runs, probes and learning-rate trials included."""
        trials = sum(round_sizes(self.learning_rates))
        return len(self.rungs) * (len(self.seeds) + trials + int(self.probe))

    @property
    def export_count(self) -> int:
        """Number of exports: one per artifact and seed."""
        return len(self.ship) * len(self.seeds)


class LadderRun(Struct, kw_only=True):
    """An entry of the ladder: one run or export, planned or done."""

    rung: str
    """For an export the artifact's rung: `lora:q4_k_m`."""
    kind: Kind
    seed: int
    learning_rate: float
    run: str = ""
    """The directory of the run or of the exported artifact, relative to the ladder's parent folder; '' before it is
    created."""
    status: str = "planned"
    """planned, live, skipped, died, or the status of the run's result."""
    reason: str = ""
    reused: bool = False
    """Whether the run or export existed before and was reused."""
    steps: int | None = None
    """Optimizer steps of a shortened learning-rate trial; None: all steps."""
    chosen: bool = False
    """Whether this trial's rate was chosen."""
    validation_loss: float | None = None
    seconds: float | None = None
    """All phases except waiting for the GPU and scoring the base model; of an export, writing it without its check."""
    disturbed: str = ""
    """Why the timing of a finished run is not used: other load on its CPUs or GPU; '' if it is used."""
    other_device: str = ""
    """`NVIDIA L4 instead of NVIDIA A100-SXM4-80GB`: why the timing of a finished run is not compared with those of most
    runs; '' if it is."""
    progress: str = ""
    """What an active export is doing."""

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to do. A stopped run is resumed with the ladder."""
        return self.status not in (*WAITING, "stopped")


class SharedWork(Struct, kw_only=True):
    """What all rungs share: sizes, and the fingerprints that every run is checked against."""

    model: str
    data: str
    train: int
    validation: int
    test: int
    tokens: int
    """Tokens of the training rows, one epoch."""
    answer_tokens: int = 0
    """Of these, the tokens in the loss; 0 in older ladders."""
    steps: int
    batch: int
    metric: str
    fingerprints: dict[str, str] = field(default_factory=dict)
    split_version: int = OLDEST_SPLIT_VERSION
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`; empty in older ladders."""
    columns: list[ColumnUse] = field(default_factory=list)
    """What each column is used for; empty in older ladders."""
    account: RowAccount | None = None
    """How many rows went into each split or were left out."""


class RungDuration(Struct, kw_only=True):
    """Expected seconds of one run of a rung, from its probe."""

    rung: str
    low: float
    high: float
    step_seconds: float
    steps_measured: int


class SeedRange(Struct, kw_only=True):
    """Mean, lowest and highest value over the seeds; not a confidence interval."""

    mean: float
    low: float
    high: float


class RentalPrice(Struct, kw_only=True):
    """The cheapest listed GPU with enough memory for the peak."""

    gpu: str
    memory: int
    price_per_hour: float
    currency: str


class RungResult(Struct, kw_only=True):
    """Scores and costs of a rung, of an artifact of a rung, or of the base model."""

    name: str
    method: str
    source: str = ""
    """For an artifact: the rung whose runs it was exported from; '' for trained rungs."""
    status: str
    """finished, partly (not all seeds), or why there is no result: out_of_memory, diverged, failed, died."""
    reason: str = ""
    learning_rate: float | None = None
    learning_rate_origin: str = ""
    """What set it: `preset demo`, `default for lora`, `command line`, `learning-rate trials`; '' in older ladders."""
    seeds: list[int] = field(default_factory=list)
    runs: list[str] = field(default_factory=list)
    score: Interval | None = None
    """The metric with its pointwise 95% interval over items and seeds."""
    by_seed: list[float] = field(default_factory=list)
    extra: dict[str, float] = field(default_factory=dict)
    """Means of secondary scores of the same answers."""
    ended: float | None = None
    """Share of answers that an end token ended, mean over the seeds; None if not recorded or not generated."""
    format_errors: float | None = None
    """Share of answers without the format that the metric needs; None if it needs none."""
    loss: Interval | None = None
    share_of_score: Interval | None = None
    """Score divided by full fine-tuning's."""
    share_of_gain: Interval | None = None
    """Gain over the base model divided by full fine-tuning's gain; pointwise, as `share_of_score`."""
    no_share: str = ""
    """Why there is no share of gain."""
    not_compared: str = ""
    """Why the rung is in no comparison: it has fewer seeds than others, and they vary more."""
    peak: MeasuredPeak | None = None
    disturbed: str = ""
    """Why the rung has no times and no costs that depend on them: all its timings are disturbed."""
    training_seconds: SeedRange | None = None
    """Optimizer steps only; of runs whose timing is not disturbed, as all times."""
    cpu_seconds: SeedRange | None = None
    """CPU time of the worker while training, of all runs; None on a GPU and if not recorded."""
    all_seconds: SeedRange | None = None
    """All phases except waiting for the GPU and scoring the base model, which not every rung does."""
    tokens_per_second: SeedRange | None = None
    """Tokens of the rows."""
    computed_tokens_per_second: SeedRange | None = None
    """Tokens of the forward passes: with padding, shared prefixes once."""
    energy: SeedRange | None = None
    """Joules, in the phases of `all_seconds`."""
    money: SeedRange | None = None
    """Price of a run in `currency`."""
    currency: str = "USD"
    money_note: str = ""
    rent: RentalPrice | None = None
    rent_note: str = ""
    trainable: int = 0
    parameters: int = 0
    artifact_bytes: int = 0
    export_seconds: SeedRange | None = None
    """Of an artifact: writing it, without its check. Its `all_seconds` are those of its runs plus these."""
    identical: float | None = None
    """Of an artifact: share of test items with the same answer as its run's, mean over the seeds."""
    generation: SeedRange | None = None
    """Of an artifact: tokens/s of its answers on `generation_device`."""
    generation_device: str = ""
    general_loss: Interval | None = None
    """Loss on held-out general text, nats/token."""
    forgetting: Interval | None = None
    """Rise of that loss over the base model's."""


Finding = Literal["better", "worse", "as_good", "undecided"]
"""Of a against b: significantly better or worse, not worse by more than the margin, or none of these."""


def finding_of(low: float, high: float, margin: float | None) -> Finding:
    """The finding of an interval of a − b, oriented so that higher is better: non-inferiority with a margin.

    None as the margin: ladders of versions without one.
    """
    if low > 0:
        return "better"
    if high < 0:
        return "worse"
    return "as_good" if margin is not None and low > -margin else "undecided"


class Comparison(Struct, kw_only=True):
    """The difference of two rungs, a − b, paired by test item."""

    a: str
    b: str
    difference: Interval
    """Of the score, with a 95% interval that holds simultaneously for all comparisons."""
    p: float
    """Two-sided, unadjusted."""
    p_adjusted: float
    """Adjusted for all comparisons (single-step max-T); below 0.05 exactly where the interval excludes 0."""
    finding: Finding
    mcnemar: list[float] = field(default_factory=list)
    """Exact two-sided p of McNemar's test by seed, for scores of 0 or 1."""
    needed_items: int | None = None
    """Test items needed for 80% power if the true difference is the observed one and seeds vary little."""
    needed_seeds: int | None = None
    """Seeds needed as well; None if more items are enough."""
    needed_items_high: int | None = None
    """The same if seeds vary much; None if no realistic number is enough, and in older ladders."""
    needed_seeds_high: int | None = None
    loss_difference: Interval | None = None


Topic = Literal[
    "quality",
    "forgetting",
    "time",
    "energy",
    "memory",
    "rent",
    "prototype",
    "ship",
    "full",
    "artifact",
    "data",
    "caveat",
]


class VerdictSentence(Struct, kw_only=True):
    """A sentence of the verdict with its topic."""

    topic: Topic
    text: str


class RungTradeoff(Struct, kw_only=True):
    """A rung in the figure of the summary: what it keeps of full fine-tuning's gain, at which share of its cost."""

    rung: str
    title: str
    """Its name in text."""
    share_of_gain: Interval
    cost: SeedRange
    """Ratio to full fine-tuning's cost: of the means, and the lowest and highest over all pairs of seeds."""


class LadderSummary(Struct, kw_only=True):
    """The start of the report: headline, figure and three sentences."""

    headline: str
    """Whether the rule of thumb holds; first of all, which rungs are worse than the base model."""
    sentences: list[str]
    """On quality, cost and what to use."""
    tradeoffs: list[RungTradeoff]
    """Full fine-tuning last; empty without a share of the gain or a cost."""
    cost: str
    """What the costs are of: `training time`, or `CPU time in training` if a timing was disturbed; '' without full
    fine-tuning."""
    rule_gain: float
    """The share of the gain in the rule of thumb."""
    rule_cost: float
    """The share of the cost in the rule of thumb."""


class Ladder(Struct, kw_only=True):
    """The content of `ladder.json`."""

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
    reason_code: str = ""
    """Stable code of the error that ended the ladder, as `ladder.no_test_rows`."""
    seeds: list[int] = field(default_factory=list)
    margin: float | None = None
    """Loss of quality up to which a rung is as good as another; None in older ladders."""
    work: SharedWork | None = None
    estimates: list[RungDuration] = field(default_factory=list)
    entries: list[LadderRun] = field(default_factory=list)
    rows: list[RungResult] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)
    benchmarks: list[LadderBenchmark] = field(default_factory=list)
    """Empty without `evaluation.benchmarks`, and in older ladders."""
    verdict: list[VerdictSentence] = field(default_factory=list)
    base_runs: dict[str, str] = field(default_factory=dict)
    """`base` and `base-4bit` -> the run of another ladder of the same sweep that scored it."""
    summary: LadderSummary | None = None
    """None before a rung has finished, and in older ladders."""
    differs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings in which the rungs differ: key -> rung -> value."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings that all rungs share, by dotted key."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    warning_codes: list[str] = field(default_factory=list)
    """Stable code of each warning; empty in older ladders."""

    def finished_runs(self) -> list[str]:
        """The name of one finished run of each rung, of its first seed, in the order of the rungs."""
        found: dict[str, str] = {}
        for entry in self.entries:
            if entry.kind == "run" and entry.status == "finished" and entry.run:
                found.setdefault(entry.rung, entry.run)
        return list(found.values())


def decode_ladder(text: bytes) -> Ladder:
    """The content of `ladder.json`, of any schema version. Raises msgspec.DecodeError where it is damaged."""
    return msgspec.convert(current_ladder(msgspec.json.decode(text, type=dict[str, Any])), Ladder)
