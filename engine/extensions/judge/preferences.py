"""Results of pairwise comparisons: the files of `judgments/` and `ratings/` in the directory of a ladder or run."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from msgspec import Struct, field

from engine.runs.run.result import SCHEMA_VERSION, Interval

Preferred = Literal["a", "b", "tie"]
"""Whose answer is better, that of rung `a` or of rung `b`."""
PreferenceFinding = Literal["better", "worse", "undecided"]
"""Of a against b: whether the interval of the win rate is above, below or around one half."""
TO_COMPARE = (
    "`ftbench rate` shows pairs of them without the names of the rungs, and `ftbench judge` lets a model compare them."
)
"""Of answers that neither people nor a usable judge have compared."""
MAX_SWAPPED = 0.2
"""Share of pairs that a usable judge may decide differently when the answers are swapped."""
MAX_UNREADABLE = 0.2
"""Share of verdicts of a usable judge that may not be readable."""


class JudgePlan(Struct, kw_only=True, frozen=True):
    """The content of `plan.json`: what a judge compares."""

    judge: str
    """`http://host:8000/v1#name`, or a model on this machine as in `model.id`."""
    weights: str = ""
    """Fingerprint of the weights of a model on this machine; '' for a served one."""
    device: int | str = "auto"
    """Of a model on this machine, as `hardware.device`."""
    rubric: str
    """Its text."""
    runs: list[str] = field(default_factory=list)
    """Directories of the compared runs; empty for the runs of the ladder."""
    pairs: list[tuple[str, str]]
    """Rungs that are compared."""
    items: int | None = None
    """Maximum number of test items; None for all."""
    concurrency: int = 8
    """Requests at a time."""
    answer_tokens: int = 512
    """Maximum tokens of a verdict with its reasons."""
    token_limit: int | None = None
    """Tokens of prompts and verdicts after which it stops; None for no limit."""
    cost_limit: float | None = None
    """Cost after which it stops, in the currency of the prices."""
    price: tuple[float, float] | None = None
    """Of prompts and verdicts, per million tokens."""
    timeout: float = 120.0
    """Seconds of one attempt."""
    patience: float = 600.0
    """Seconds for which requests are repeated while the server answers none."""
    command: str = ""
    """The command line."""

    @property
    def is_local(self) -> bool:
        """Whether the judge is a model on this machine."""
        return bool(self.weights)

    @property
    def identity(self) -> str:
        """What verdicts depend on besides the prompt."""
        return f"{self.judge} {self.weights}".rstrip()


class WinRate(Struct, kw_only=True):
    """How often the answers of rung a are preferred to those of rung b; ties count one half."""

    a: str
    """A rung."""
    b: str
    """The rung it is compared with."""
    rate: Interval
    """Mean over items and seeds, with a 95% interval that holds simultaneously for all pairs."""
    wins: float
    """Share of comparisons in which a is preferred."""
    ties: float
    """Share without a preference."""
    losses: float
    """Share in which b is preferred."""
    seeds: int
    """Compared ones."""
    p_adjusted: float
    """Two-sided, adjusted for all pairs; below 0.05 exactly where the interval excludes one half."""
    finding: PreferenceFinding
    """Of a against b."""


class RaterAgreement(Struct, kw_only=True):
    """Agreement of two who decided the same comparisons."""

    comparisons: int
    """Decided by both."""
    same: float
    """Share that they decided alike."""
    kappa: Interval
    """Cohen's kappa with its 95% interval, a jackknife over the test items; without bounds for too few items."""


class JudgeCheck(Struct, kw_only=True):
    """How far a judge can be believed."""

    comparisons: int = 0
    """Pairs of different answers with a readable verdict in both orders."""
    swapped: float | None = None
    """Share of them that it decides differently when the answers are swapped."""
    first: float | None = None
    """Of its verdicts for one answer, the share for the first one; one half without a preference for a position."""
    length_correlation: float | None = None
    """Pearson correlation of its preference with the logarithm of the ratio of the answers' lengths."""
    verdicts: int = 0
    """Received ones, readable or not."""
    unreadable: float | None = None
    """Share of verdicts that are not in the format of the prompt, or that the server refused to give."""
    people: RaterAgreement | None = None
    """With the ratings of people; None without ratings of the same pairs."""


JudgmentStatus = Literal["running", "finished", "stopped", "failed"]


class Judgment(Struct, kw_only=True):
    """The content of `judgment.json`: the state and the results of one judge with one rubric."""

    v: int = SCHEMA_VERSION
    """Rises when a field is renamed or changes its meaning."""
    judge: str
    """`http://host:8000/v1#name`, or a model on this machine as in `model.id`."""
    status: JudgmentStatus = "running"
    """Whether its process runs, and how it ended."""
    reason: str = ""
    """Why it stopped or failed."""
    reason_code: str = ""
    """Stable code of the error."""
    note: str = ""
    """What a model on this machine waits for before its first verdict, or why the latest request has to be repeated."""
    items: int = 0
    """Test items."""
    requests: int = 0
    """Verdicts that are needed: different pairs of answers in both orders."""
    done: int = 0
    """Of these, received ones."""
    reused: int = 0
    """Of these, from earlier starts: they were not asked for again."""
    seconds: float = 0.0
    """Of this start, while verdicts were received."""
    updated: float = 0.0
    """Unix seconds of the last write."""
    prompt_tokens: int = 0
    """Of all verdicts, as the server counts them, else estimated."""
    completion_tokens: int = 0
    """Of all verdicts, as the server counts them, else estimated."""
    cost: float | None = None
    """In the currency of the prices; None without prices."""
    retries: int = 0
    """Attempts that failed and were repeated."""
    rates: list[WinRate] = field(default_factory=list)
    """One per pair of rungs, from the items whose verdicts are complete."""
    check: JudgeCheck = field(default_factory=JudgeCheck)
    """How far the judge can be believed."""
    unusable: list[str] = field(default_factory=list)
    """Why its win rates are not in the verdict; empty for a usable judge."""
    rubric: str = ""
    """Its text."""
    prompt: str = ""
    """The prompt with places for rubric, question and answers."""
    sentences: list[str] = field(default_factory=list)
    """What the verdict says of it."""

    @property
    def title(self) -> str:
        """The name of the model, without the address of its server or its folder."""
        return self.judge.partition("#")[2] or Path(self.judge).name


class RatedPair(Struct, kw_only=True):
    """What people prefer of two rungs, and how far that is decided."""

    win_rate: WinRate
    """Mean over the rated items, each with the mean over its raters; weighted by stratum of the order. While items are
    left, its interval is valid at any time of stopping."""
    both_good: float
    """Share of ratings."""
    both_bad: float
    """Share of ratings."""
    items: int
    """Rated ones."""
    of: int
    """Items that can be rated: those with different answers that nobody skipped."""
    raters: int
    """People who rated this pair."""
    settled: float | None = None
    """Confidence that rating the remaining items would not change the finding, valid at any time of stopping; None for
    too few items."""


class RatingSummary(Struct, kw_only=True):
    """The content of `ratings/summary.json`: the ratings of all people."""

    v: int = SCHEMA_VERSION
    """Rises when a field is renamed or changes its meaning."""
    raters: dict[str, int] = field(default_factory=dict)
    """Name -> number of rated pairs."""
    pairs: list[RatedPair] = field(default_factory=list)
    """One per pair of rungs with a rating."""
    agreement: RaterAgreement | None = None
    """Of all pairs of raters together; None if no two rated the same answers."""
    stale: int = 0
    """Ratings of answers that have changed since; they are not counted."""
    sentences: list[str] = field(default_factory=list)
    """What the verdict says of them."""
