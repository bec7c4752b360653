"""Plan (`ladder.toml`), state and results (`ladder.json`) of a ladder, and the gain that `ftbench gate` requires."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct, field

from engine.config.errors import Notice, UserError
from engine.config.method_specs import method_names
from engine.config.metric_specs import DEFAULT_MARGIN, metric_spec
from engine.config.schema import Config
from engine.runs.ladder.rung_results import Comparison, LadderSummary, LadderTask, RungResult, VerdictSentence
from engine.runs.run.exports import Artifact, parse_artifact
from engine.runs.run.folder import State
from engine.runs.run.result import SCHEMA_VERSION, TASKS, Interval
from engine.runs.run.usage import ColumnUse, RowUsage, SplitOverlap

BASE, BASE_4BIT = BASES = ("base", "base-4bit")
"""Rows of the base model: as LoRA or full fine-tuning loads it, and in QLoRA's 4 bits."""
_FEW_SHOT = re.compile(r"base-(\d+)-shot", re.ASCII)


def few_shot_base(shots: int) -> str:
    """The row of the base model with this many training rows in each prompt."""
    return f"base-{shots}-shot"


def shots_of(name: str) -> int:
    """The number of examples in the prompts of a few-shot row; 0 for every other row."""
    match = _FEW_SHOT.fullmatch(name)
    return int(match[1]) if match else 0


ADDED_PREFIX = "@"
"""Starts the rows of rungs that an extension adds, `@big`; names of trained rungs cannot contain it."""


def is_added(name: str) -> bool:
    return name.startswith(ADDED_PREFIX)


def is_base(name: str) -> bool:
    """Whether a row is a model that is not trained: the base model, in 4 bits or with examples too, or an added one."""
    return name in BASES or _FEW_SHOT.fullmatch(name) is not None or is_added(name)


class AddedRung(Struct, kw_only=True, frozen=True):
    """A rung of an extension (`engine/runs/ladder/rung_kinds.py`): it is not trained, and answers the same items."""

    kind: str
    """Name of its hook."""
    name: str
    source: str
    """What answers, as its kind reads it: the address of a model."""
    settings: dict[str, Any] = field(default_factory=dict)
    """Of its kind."""

    @property
    def row(self) -> str:
        return f"{ADDED_PREFIX}{self.name}"


ARTIFACT_SEPARATOR = ":"
"""Between a rung and its artifact in an artifact's name, `lora:merged`; the names of trained rungs do not have it."""


def artifact_of(name: str) -> tuple[str, Artifact] | None:
    """(rung, artifact) of an artifact's rung, `lora:merged`; None for the name of a trained rung."""
    rung, separator, word = name.partition(ARTIFACT_SEPARATOR)
    return (rung, parse_artifact(word)) if separator else None


class Rung(Struct, kw_only=True, frozen=True):
    """A method with its settings. Its runs replace the seed, and its learning-rate trials the rate."""

    name: str
    config: Config
    settings: dict[str, Any] = field(default_factory=dict)
    """Settings of this rung from `--rung`, by dotted key."""
    rate_origin: str = ""
    """What sets its learning rate: `preset demo`, `default for lora`, `command line`."""

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


MIN_STEPS = 4
"""The shortest trial, in optimizer steps."""


def rate_grid(rate: float, count: int) -> list[float]:
    """`count` rates around `rate`, half a decade apart, rounded to two digits; an even count has one more above it."""

    def rounded(value: float) -> float:
        return round(value, 1 - math.floor(math.log10(value)))

    below = (count - 1) // 2
    rates = [rounded(rate * 10 ** ((place - below) / 2)) if place != below else rate for place in range(count)]
    return [min(value, 1.0) for value in rates]


def halving_rounds(count: int, steps: int) -> list[tuple[int, int | None]]:
    """(rates, steps of a trial) of each round of successive halving; None: all steps, as in the last round.

    A third of the rates, at least two, is left after each round, whose trials are three times as long as those before
    (Jamieson and Talwalkar 2016, arXiv:1502.07943). Up to three rates are compared in one round of complete trials.
    """
    sizes = round_sizes(count)
    shares = [REDUCTION ** (len(sizes) - 1 - number) for number in range(len(sizes))]
    lengths = [None if share == 1 else max(MIN_STEPS, steps // share) for share in shares]
    return list(zip(sizes, lengths, strict=True))


FIRST_LOOK = 2
"""Seeds before the first look of a ladder that runs until its questions are decided: one cannot show how seeds vary."""


class LadderPlan(Struct, kw_only=True, frozen=True):
    """The content of `ladder.toml`; does not change after the start."""

    preset: str
    created: float
    rungs: list[Rung]
    seeds: list[int]
    """With `until_decided` at most."""
    until_decided: bool = False
    """Whether to look after every round of seeds, and to run further seeds only for rungs with an open question."""
    learning_rates: int = 1
    """Rates tried per rung on the validation rows; 1: its configured rate without trials."""
    probe: bool = True
    """Whether to measure a few steps of every rung first."""
    ship: list[str] = field(default_factory=list)
    """Artifacts that are rungs too, as `lora:merged`: exported from each run of the rung, checked and compared."""
    margin: float = DEFAULT_MARGIN
    """Loss of quality up to which a rung is as good as another, in the unit of the metric."""
    added: list[AddedRung] = field(default_factory=list)
    """Rungs that are not trained and answer the same items."""
    base_shots: list[int] = field(default_factory=list)
    """Numbers of training rows in the prompt with which the base model is scored too."""
    fresh: bool = False
    """Whether to run everything again instead of reusing finished runs."""
    retime: bool = False
    """Whether to run again what has a disturbed timing instead of reusing it."""
    number: int = 0
    """As `Origin.number`."""
    command: str = ""
    started_in: str = ""
    notices: list[Notice] = field(default_factory=list)
    """Warnings of combining preset, rungs and command line, each once."""

    @property
    def run_count(self) -> int:
        """Number of runs, timing probes and learning-rate trials included."""
        trials = sum(round_sizes(self.learning_rates))
        return len(self.rungs) * (len(self.seeds) + trials + int(self.probe))


WITHOUT_OUTCOME = ("planned", "live")
"""Statuses of entries without an outcome."""


Kind = Literal["probe", "trial", "run", "export"]
TIMING_PROBE = "timing probe"
"""The name of the kind `probe` in texts: a run has a memory probe too."""
Stage = Literal["planned", "preparing", "probing", "tuning", "training", "asking", "exporting", "analyzing", "done"]
Outcome = Literal["running", "finished", "stopped", "failed"]


class LadderEntry(Struct, kw_only=True):
    """A run, timing probe, learning-rate trial or export of the ladder, planned or done."""

    rung: str
    """For an export the artifact's rung: `lora:merged`."""
    kind: Kind
    """`probe`: a timing probe; `trial`: of a learning rate; `run`: compared; `export`: an artifact of a run."""
    seed: int
    """Its `train.seed`."""
    learning_rate: float
    """Peak of the schedule."""
    run: str = ""
    """The directory of the run or of the exported artifact, relative to the ladder's parent folder; '' before it is
    created."""
    status: str = "planned"
    """planned, live, skipped, died, or the status of the run's result."""
    reason: str = ""
    """Why it has this status."""
    reused: bool = False
    """Whether the run or export existed before and was reused."""
    steps: int | None = None
    """Optimizer steps of a shortened learning-rate trial; None: all steps."""
    chosen: bool = False
    """Whether this trial's rate was chosen."""
    validation_loss: float | None = None
    """Of the trained model, nats/token."""
    selection: str = ""
    """Which weights were kept, and whether training stopped early (`Result.selection`)."""
    seconds: float | None = None
    """All phases except waiting for the GPU and scoring the base model; of an export, writing it without its check."""
    started: float | None = None
    """When its worker was started last, Unix seconds; None before that, and while its job waits."""
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
        return self.status not in (*WITHOUT_OUTCOME, "stopped")


class SharedWork(Struct, kw_only=True):
    """What all rungs share: sizes, and the fingerprints that every run is checked against."""

    model: str
    """As configured."""
    data: str
    """As configured."""
    train: int
    """Training rows."""
    validation: int
    """Validation rows."""
    test: int
    """Test items: rows with the same prompt are one item with several references."""
    tokens: int
    """Tokens of the training rows, one epoch."""
    answer_tokens: int = 0
    """Of these, the tokens in the loss."""
    steps: int
    """Optimizer steps of a run."""
    batch: int
    """Rows per optimizer step."""
    metric: str
    """The metric of `score`; `loss` and `open` are the held-out loss, lower is better."""
    metric_reason: str = ""
    """Why it was decided from the training answers; '' if it was set."""
    fingerprints: dict[str, str] = field(default_factory=dict)
    """Hashes of data, test rows, model, general text and tasks."""
    overlap: dict[str, SplitOverlap] = field(default_factory=dict)
    """`test/train` and `validation/train`."""
    columns: list[ColumnUse] = field(default_factory=list)
    """What each column is used for."""
    data_usage: RowUsage | None = None
    """How many rows went into each split or were left out."""


class ItemDependence(Struct, kw_only=True):
    """Test items that depend on each other, by `data.group` or because their prompts are near-duplicates."""

    units: int
    """Independent units: groups, and items that are in none."""
    effective: float | None = None
    """How many groups of equal size vary as much; None for near-duplicates."""
    similar: int = 0
    """Items whose prompt is a near-duplicate of another item's, without groups; intervals count each as one item."""
    widening: float | None = None
    """Factor by which intervals would be wider, in the part from the test items, if near-duplicates were groups."""


class LadderDecision(Struct, kw_only=True):
    """A question that a look decided: a comparison, or the share of full fine-tuning's gain that a rung keeps."""

    comparison: Comparison | None = None
    """As of that look, if it decided a comparison."""
    rung: str = ""
    """The rung whose share was decided; '' for a comparison."""
    share: Interval | None = None
    """Its share of the gain as of that look."""


class Look(Struct, kw_only=True):
    """An evaluation of a ladder that runs until its questions are decided, after a round of seeds."""

    seeds: int
    """Seeds of a rung with open questions."""
    runs: int
    """Runs of the ladder until then."""
    error_rate: float
    """Of this look for all comparisons together: part of the 5% of all looks."""
    share_error_rate: float
    """Of this look for the share of the gain."""
    comparisons: int = 1
    """Comparisons that share the error rate."""
    decisions: list[LadderDecision] = field(default_factory=list)
    """What this look decided."""
    rungs: list[str] = field(default_factory=list)
    """Rungs with an open question, which get a further seed; empty after the last look."""
    unlikely: list[tuple[str, str]] = field(default_factory=list)
    """Open questions that further seeds are unlikely to decide: a rung and what it is compared with; full fine-tuning
    and the rung for the share of its gain."""


class RungDuration(Struct, kw_only=True):
    """Expected seconds of one run of a rung, from its timing probe."""

    rung: str
    """Its name."""
    low: float
    """Seconds, at least."""
    high: float
    """Seconds, at most."""
    step_seconds: float
    """Seconds per optimizer step in the timing probe."""
    steps_measured: int
    """Optimizer steps that the timing probe measured."""


class ComparisonState(State, Protocol):
    """The state of a ladder, or of what is made of several."""

    command: str
    started_in: str
    stage: Any


class Ladder(Struct, kw_only=True):
    """The content of `ladder.json`."""

    v: int = SCHEMA_VERSION
    """Rises when a field is renamed or changes its meaning."""
    name: str
    """The directory's name."""
    preset: str
    """Of all rungs."""
    command: str
    """The command line that started it."""
    created: float
    """Unix seconds."""
    started_in: str = ""
    """The directory it was started from."""
    updated: float = 0.0
    """Unix seconds of the last write."""
    status: Outcome = "running"
    """Whether its process runs, and how it ended."""
    stage: Stage = "planned"
    """What it does now; `tuning`: learning rates, `training`: the compared runs."""
    reason: str = ""
    """Why it stopped or failed."""
    reason_code: str = ""
    """Stable code of the error that ended the ladder, as `ladder.no_test_rows`."""
    runs_at_once: int = 1
    """How many runs used devices of this machine at the same time."""
    seeds: list[int] = field(default_factory=list)
    """Of the compared runs."""
    max_seeds: int | None = None
    """Most seeds of a ladder that runs until its questions are decided; None: a fixed number of seeds, for one look."""
    looks: list[Look] = field(default_factory=list)
    """Its evaluations so far."""
    margin: float | None = None
    """Loss of quality up to which a rung is as good as another."""
    work: SharedWork | None = None
    """What all rungs share; None before the data is prepared."""
    full_needs: str = ""
    """Where full fine-tuning has no score: the GPU memory that it takes."""
    dependence: ItemDependence | None = None
    """Of the test items; None if every item is alone."""
    heavy_tails: list[str] = field(default_factory=list)
    """Metrics without bounds of which a few test items have so high values that intervals cover less often."""
    estimates: list[RungDuration] = field(default_factory=list)
    """Expected duration of a run of each rung."""
    entries: list[LadderEntry] = field(default_factory=list)
    """Every run and export."""
    rows: list[RungResult] = field(default_factory=list)
    """One per rung and base, in the order of the table; not rows of data."""
    comparisons: list[Comparison] = field(default_factory=list)
    """One per pair of rungs."""
    tasks: list[LadderTask] = field(default_factory=list, name=TASKS)
    """Further items on which the models were scored."""
    verdict: list[VerdictSentence] = field(default_factory=list)
    """One per sentence."""
    base_runs: dict[str, str] = field(default_factory=dict)
    """`base` and `base-4bit` -> the run of another ladder, started with this one, that scored it."""
    summary: LadderSummary | None = None
    """None before a rung has finished."""
    recommended: str = ""
    """Rung that the verdict recommends to ship; '' if it recommends none."""
    differs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings in which the rungs differ: key -> rung -> value."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings that all rungs share, by dotted key."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of Python, ftbench and the libraries that affect the numbers."""
    machine: dict[str, Any] = field(default_factory=dict)
    """Device, CPU, memory, system."""
    warnings: list[str] = field(default_factory=list)
    """As texts."""
    warning_codes: list[str] = field(default_factory=list)
    """Stable code of each warning."""

    @property
    def methods(self) -> dict[str, str]:
        """Rung -> its method; of a rung without a row its name."""
        methods = {row.name: row.method for row in self.rows}
        for entry in self.entries:
            methods.setdefault(entry.rung, entry.rung)
        return methods

    @property
    def metric(self) -> str:
        """The metric of the scores; '' before the data is prepared."""
        return self.work.metric if self.work else ""

    def finished_runs(self) -> dict[str, str]:
        """Rung -> the name of one of its finished runs, that of the first seed; in the order of the rungs."""
        runs: dict[str, str] = {}
        for entry in self.entries:
            if entry.kind == "run" and entry.status == "finished" and entry.run:
                runs.setdefault(entry.rung, entry.run)
        return runs


class Gain(Struct, kw_only=True, frozen=True):
    """The gain of a run or rung over another; positive is better."""

    candidate: str
    reference: str
    metric: str
    gain: Interval
    """With a 95% interval, paired by test item."""

    def clears(self, least: float) -> bool:
        """Whether the lower bound is at least `least`. False without an interval."""
        return self.gain.low is not None and self.gain.low >= least


def gain_of_rung(ladder: Ladder, rung: str | None, against: str) -> Gain:
    """The gain of a rung of a finished ladder over `base` or another rung, with the ladder's simultaneous interval.

    `rung` may be None if the ladder has one trained rung besides `against`. Raises UserError for unknown rungs.
    """
    rungs = [row.name for row in ladder.rows if not is_base(row.name)]
    trained = [row.name for row in ladder.rows if not is_base(row.name) and not row.source]
    known = ", ".join([*rungs, "base"])
    if rung is None:
        others = [name for name in trained if name != against]
        if len(others) != 1:
            hint = f"name one with --rung: {', '.join(others)}" if others else "wait until it has results"
            raise UserError("the ladder has several rungs" if others else "no results", ladder.name, hint, "gate.which")
        rung = others[0]
    for comparison in ladder.comparisons:
        sign = {(rung, against): 1, (against, rung): -1}.get((comparison.a, comparison.b))
        if sign is not None and ladder.work:
            metric = metric_spec(ladder.work.metric)
            difference = comparison.difference
            positive = sign * (-1 if metric.lower_is_better else 1) > 0
            return Gain(
                candidate=rung,
                reference="the base model" if against == "base" else against,
                metric=metric.name,
                gain=difference if positive else difference.negated(),
            )
    problem = f"no comparison of {rung} and {against}"
    raise UserError(problem, ladder.name, f"rungs of this ladder: {known}", "gate.no_comparison")


RUNG_COLORS = 6
"""Different colors; further rungs have the first ones again."""


def rung_numbers(methods: Mapping[str, str]) -> dict[str, int]:
    """Rung -> number of its color, by its method; the first rung of a method has the same one everywhere."""
    fixed = {name: number for number, name in enumerate(method_names())}
    taken: dict[str, int] = {}
    for name, method in methods.items():
        if fixed.get(method, -1) not in (-1, *taken.values()):
            taken[name] = fixed[method]
    free = (number for number in range(len(methods) + len(fixed)) if number not in set(taken.values()))
    return {name: taken[name] if name in taken else next(free) for name in methods if not is_base(name)}
