"""What `ftbench compare` finds: its JSON, without NumPy."""

from __future__ import annotations

from msgspec import Struct, field

from engine.runs.ladder.rung_results import Comparison
from engine.runs.run.result import Interval

MAX_NAMED = 5
"""Items that are named of those that a result lacks."""


class ComparedFile(Struct, kw_only=True):
    """A file or run of a compared result."""

    location: str
    """As it was given."""
    format: str
    """What it was read as."""
    fields: str = ""
    """What item key and score were read from, guessed or given."""
    lacking: int = 0
    """Items of the other files that it has no score for, which are left out."""
    lacking_items: list[str] = field(default_factory=list)
    """The first of them."""


class ComparedResult(Struct, kw_only=True):
    """One side: a model with its score on the common items."""

    name: str
    """Given, or that of the model or file."""
    files: list[ComparedFile]
    """Each is a seed if there are several."""
    score: Interval
    """Mean with its pointwise 95% interval over items, and over seeds if there are several files."""
    standard_error: float
    """From the choice of items alone, as lm-evaluation-harness and Inspect report it."""
    by_seed: list[float] = field(default_factory=list)
    """Mean score of each file."""


class ResultComparison(Struct, kw_only=True):
    """Output of `compare --json`."""

    metric: str
    """Of every result."""
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    lower_is_better: bool
    """Direction of the metric."""
    margin: float
    """Accepted loss of quality."""
    items: int
    """Common ones, which are compared."""
    units: int
    """Independent ones: items alone, or groups of items."""
    paired: bool
    """Whether differences are paired by item; False where files have only shares of all items."""
    results: list[ComparedResult]
    """In the order in which they were named."""
    comparisons: list[Comparison]
    """Every pair, the later result minus the earlier one."""
    sentences: list[str]
    """The finding on each pair, and what is left out."""
