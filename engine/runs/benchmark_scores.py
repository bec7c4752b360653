"""A model's scores on one benchmark, item by item, as a run stores them: `benchmarks/NAME.before.json`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from engine.config.files import read_regular, write_atomically
from engine.runs.result import Interval

SHARES = ("acc", "acc_norm", "acc_mutual_info", "acc_bytes", "exact_match")
"""Metrics of lm-evaluation-harness whose score of an item is between 0 and 1."""


class BenchmarkScores(Struct, kw_only=True):
    """The scores of one model on one benchmark."""

    benchmark: str
    metric: str
    """As lm-evaluation-harness names it: acc, acc_norm, exact_match."""
    higher_is_better: bool
    is_share: bool
    """Whether scores are shares from 0 to 1."""
    fingerprint: str
    """SHA-256 of library version, task file and items; scores with different fingerprints are not comparable."""
    score: Interval
    """The mean over the items, with its bootstrap 95% confidence interval."""
    items: list[float]
    """By item, in the order of the benchmark."""
    seconds: float = 0.0


def are_shares(metric: str, values: Sequence[float]) -> bool:
    """Whether scores are shares from 0 to 1: known for the metric, or every item is right or wrong."""
    return metric in SHARES or set(values) <= {0.0, 1.0}


def file_stem(benchmark: str) -> str:
    """The benchmark's name as a part of file names."""
    return re.sub(r"[^A-Za-z0-9_.-]", "_", benchmark).lstrip(".") or "_"


def benchmark_fingerprint(benchmark: str) -> str:
    """The key of a benchmark among the fingerprints of a result or a ladder."""
    return f"benchmark {benchmark}"


def write_scores(path: Path, scores: BenchmarkScores) -> None:
    """Write atomically, and create the folder. Raises OSError."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    write_atomically(path, msgspec.json.encode(scores))


def read_scores(path: Path, fingerprint: str | None = None) -> BenchmarkScores | None:
    """The stored scores; None if they are missing, damaged, or have another fingerprint."""
    try:
        found = msgspec.json.decode(read_regular(path), type=BenchmarkScores)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return found if found.items and fingerprint in (None, found.fingerprint) else None
