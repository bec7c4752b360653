"""State and results of a ladder (`ladder.json`)."""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from engine.config.split_version import OLDEST_SPLIT_VERSION
from engine.runs.account import ColumnUse, RowAccount
from engine.runs.ladder_benchmarks import LadderBenchmark
from engine.runs.overlap import SplitOverlap
from engine.runs.renamed_fields import SCHEMA_VERSION, current_ladder
from engine.runs.rung_results import Comparison, LadderSummary, RungResult, VerdictSentence

WITHOUT_OUTCOME = ("planned", "live")
"""Statuses of entries without an outcome."""


Kind = Literal["probe", "trial", "run", "export"]
TIMING_PROBE = "timing probe"
"""The name of the kind `probe` in texts: a run has a memory probe too."""
Stage = Literal["planned", "preparing", "probing", "tuning", "training", "exporting", "analyzing", "done"]
Outcome = Literal["running", "finished", "stopped", "failed"]


class LadderEntry(Struct, kw_only=True):
    """A run, timing probe, learning-rate trial or export of the ladder, planned or done."""

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
        return self.status not in (*WITHOUT_OUTCOME, "stopped")


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
    """Expected seconds of one run of a rung, from its timing probe."""

    rung: str
    low: float
    high: float
    step_seconds: float
    steps_measured: int


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
    runs_at_once: int = 1
    """How many runs used devices of this machine at the same time."""
    seeds: list[int] = field(default_factory=list)
    margin: float | None = None
    """Loss of quality up to which a rung is as good as another; None in older ladders."""
    work: SharedWork | None = None
    estimates: list[RungDuration] = field(default_factory=list)
    entries: list[LadderEntry] = field(default_factory=list)
    rows: list[RungResult] = field(default_factory=list)
    """One per rung and base, in the order of the table; not rows of data."""
    comparisons: list[Comparison] = field(default_factory=list)
    benchmarks: list[LadderBenchmark] = field(default_factory=list)
    """Empty without `evaluation.benchmarks`, and in older ladders."""
    verdict: list[VerdictSentence] = field(default_factory=list)
    base_runs: dict[str, str] = field(default_factory=dict)
    """`base` and `base-4bit` -> the run of another ladder of the same sweep that scored it."""
    summary: LadderSummary | None = None
    """None before a rung has finished, and in older ladders."""
    recommended: str = ""
    """Rung that the verdict recommends to ship; '' if it recommends none, and in older ladders."""
    differs: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Settings in which the rungs differ: key -> rung -> value."""
    config: dict[str, Any] = field(default_factory=dict)
    """Settings that all rungs share, by dotted key."""
    versions: dict[str, str] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    warning_codes: list[str] = field(default_factory=list)
    """Stable code of each warning; empty in older ladders."""

    def finished_runs(self) -> dict[str, str]:
        """Rung -> the name of one of its finished runs, that of the first seed; in the order of the rungs."""
        found: dict[str, str] = {}
        for entry in self.entries:
            if entry.kind == "run" and entry.status == "finished" and entry.run:
                found.setdefault(entry.rung, entry.run)
        return found


def decode_ladder(text: bytes) -> Ladder:
    """The content of `ladder.json`, of any schema version. Raises msgspec.DecodeError where it is damaged."""
    return msgspec.convert(current_ladder(msgspec.json.decode(text, type=dict[str, Any])), Ladder)
