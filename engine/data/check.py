"""Report on a dataset before training, and show samples token by token with the loss mask.

All use the preparation that training uses, so they show exactly the rows that are trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.chat_template import has_template, special_tokens
from engine.data.prepare import Progress, no_progress, prepare_unchecked
from engine.data.prepared import Places, Preparation, TokenizedRows
from engine.data.problems import meaning
from engine.data.rows import IGNORE_INDEX, SHOWN, SPLITS, Row
from engine.data.tokens import texts_between

MAX_TOKENS = 60_000
"""Maximum total tokens of the samples of one split: they are sent to the screen at once."""
MAX_NOTICED = 40
"""Maximum number of samples with notes."""
BINS = 120
"""Finer than any screen; a column of the chart combines several bins."""
_TAIL = 4
"""The axis ends at this many times the 99th percentile: a single long row would squeeze all others into one column."""
_POINTS = {"p5": 0.05, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


@dataclass(frozen=True)
class PreflightResult:
    """What model and evaluation say about prepared rows."""

    refusal: UserError | None = None
    """The error of a run."""
    notices: list[Notice] = field(default_factory=list)
    """Its warnings."""
    metric: str = ""
    """The metric with which a run would score."""
    metric_reason: str = ""
    """Why it was decided; '' if it was set."""


Preflight = Callable[[Preparation], PreflightResult]
"""Checks prepared rows against the requirements of model and evaluation."""


def check(
    data: Data,
    max_length: int,
    tokenizer: Any,
    progress: Progress = no_progress,
    preflight: Preflight | None = None,
) -> dict[str, Any]:
    """All counts of a dataset, JSON-able; `refused` is the error with which a run would stop, or None.

    Raises UserError only if the rows cannot be read or their format is unknown.
    """
    return report(prepare_unchecked(data, max_length, tokenizer, progress), max_length, preflight)


def report(done: Preparation, max_length: int, preflight: Preflight | None = None) -> dict[str, Any]:
    """The report of `check` for a finished preparation."""
    error, conflicts = done.refusal(), done.facts.conflicts
    preflight_result = preflight(done) if preflight and not error else PreflightResult(error)
    refusal = preflight_result.refusal
    several = Places() if conflicts else done.facts.same_prompt
    lengths = {}
    for name, rows in done.rows.items():
        if len(rows):
            answers = rows.column("answer")
            lengths[name] = {
                "tokens": _percentiles(rows.lengths_before_cut),
                "answer": _percentiles(answers),  # tokens in the loss before truncation
                "answer_total": int(rows.loss_tokens.sum()),
                "answers_cut": int((rows.loss_tokens < answers).sum()) / len(rows),
            }
    unknown = [rows for name in SPLITS for rows in done.left_out(name) if rows.kind == "data.unknown_role"]
    roles = [f"{place}: {what}" for rows in unknown for place, what in zip(rows.where, rows.what, strict=True)]
    return {
        **done.about(),
        "max_length": max_length,
        "lengths": lengths,
        "conflicting_labels": {
            **(msgspec.to_builtins(conflicts) if conflicts else {"rows": 0}),
            "where": done.facts.conflicting,
        },
        "multiple_references": msgspec.to_builtins(several),
        "unknown_roles": {"rows": sum(rows.rows for rows in unknown), "where": roles[:SHOWN]},
        "warnings": [msgspec.to_builtins(notice) for notice in (*done.warnings(), *preflight_result.notices)],
        "metric": preflight_result.metric,
        "metric_reason": preflight_result.metric_reason,
        "refused": refusal.line if refusal else None,
        "refusal_code": refusal.code if refusal else None,
    }


def _percentiles(values: np.ndarray) -> dict[str, int]:
    """Percentiles by the nearest-rank method."""
    ordered = np.sort(values)
    return {name: int(ordered[max(0, -int(-share * len(ordered) // 1) - 1)]) for name, share in _POINTS.items()}


def show(
    data: Data,
    max_length: int,
    tokenizer: Any,
    n: int,
    split: str = "train",
    start: int = 0,
    max_tokens: int | None = None,
    progress: Progress = no_progress,
) -> list[dict[str, Any]]:
    """`n` rows of a split from index `start`, as they are trained on: see `sample`."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}", data.id, f"use {', '.join(SPLITS)}", code="data.unknown_split")
    rows = prepare_unchecked(data, max_length, tokenizer, progress).rows[split][start : start + n]
    specials = special_tokens(tokenizer)[0]
    return [sample(row, tokenizer, specials, max_tokens) for row in rows]


def sample(row: Row, tokenizer: Any, specials: frozenset[int], max_tokens: int | None = None) -> dict[str, Any]:
    """A row token by token: text and id of each token, whether it is in the loss and whether it is special.

    A character that spans several tokens is the text of the last one; the others are `partial` and have no text. Text
    is raw: escape control characters before displaying it. For a row with more than `max_tokens` tokens only the ends
    are given: `omitted` tokens are missing after the first `head`. The target is cut to `max_tokens` characters.
    """
    count = len(row.input_ids)
    omitted = max(0, count - max_tokens) if max_tokens else 0
    head = (count - omitted) // 2 if omitted else count
    shown = [*range(head), *range(head + omitted, count)]
    texts = texts_between(row.input_ids, 0, head, tokenizer)
    texts += texts_between(row.input_ids, head + omitted, count, tokenizer)
    return {
        "where": row.where,
        "target": row.target[:max_tokens],
        "cut": row.cut,
        "length": row.length,
        "loss_tokens": count - row.labels.count(IGNORE_INDEX),
        "answer": row.answer,
        "notes": [meaning(note)[1] for note in row.notes],
        "omitted": omitted,
        "head": head,
        "tokens": [
            {
                "text": text,
                "id": row.input_ids[n],
                "trained": row.labels[n] != IGNORE_INDEX,
                "special": row.input_ids[n] in specials,
                "partial": not text,
            }
            for n, text in zip(shown, texts, strict=True)
        ],
    }


def inspect(
    data: Data,
    max_length: int,
    tokenizer: Any,
    rows: int,
    max_tokens: int,
    progress: Progress = no_progress,
    preflight: Preflight | None = None,
) -> dict[str, Any]:
    """Report, samples, length histograms and template of a dataset, from one preparation. JSON-able.

    `samples` are the first `rows` of each split, and under `noticed` the first that were truncated or have notes. For a
    sample longer than `max_tokens` only the ends are given. Raises UserError as `check` does.
    """
    done = prepare_unchecked(data, max_length, tokenizer, progress)
    shown: dict[str, Sequence[Row]] = {name: split[:rows] for name, split in done.rows.items()}
    noticed: list[TokenizedRows] = []
    histograms = {}
    for name, split in done.rows.items():
        noted = np.array([bool(notes) for notes in split.columns.tables["notes"]], dtype=bool)
        noticed.append(split.take(np.flatnonzero(split.cut | noted[split.column("notes")])))
        lost = done.lengths_left_out(name)
        histograms[name] = histogram(split.lengths_before_cut, lost[lost > max_length], max_length)
    shown["noticed"] = [row for split in noticed for row in split[:MAX_NOTICED]][:MAX_NOTICED]

    # Samples of at most MAX_TOKENS tokens in total per split, but at least one.
    specials = special_tokens(tokenizer)[0]
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in shown}
    for name, some in shown.items():
        total = 0
        for row in some:
            total += min(len(row.input_ids), max_tokens)
            if samples[name] and total > MAX_TOKENS:
                break
            samples[name].append(sample(row, tokenizer, specials, max_tokens))
    return {
        "report": report(done, max_length, preflight),
        "samples": samples,
        "noticed": sum(map(len, noticed)),
        "histograms": histograms,
        "chat_template": str(tokenizer.chat_template) if has_template(tokenizer) else None,
        "special_tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
    }


def histogram(
    kept: Sequence[int] | np.ndarray, lost: Sequence[int] | np.ndarray, max_length: int
) -> dict[str, Any] | None:
    """Rows by their length before truncation; None without rows.

    `kept` and `lost` are the lengths of rows that are trained on, and of rows with no answer token left after
    truncation. Bin n counts lengths n·width+1 … (n+1)·width; the last bin also all longer ones (`beyond`).
    """
    lengths = np.sort(np.concatenate([np.asarray(kept, dtype=np.int64), np.asarray(lost, dtype=np.int64)]))
    if not len(lengths):
        return None
    # The end of the axis: the longest row, or less for a thin tail, but not below max_length if rows are truncated.
    top, usual = max(int(lengths[-1]), 1), max(int(lengths[int(0.99 * (len(lengths) - 1))]), 1)
    if top > _TAIL * usual:
        top = min(top, max(_TAIL * usual, max_length + max_length // 4 if max_length < top else 0))
    width = -(-top // BINS)
    bins = -(-top // width)
    places = np.minimum((np.maximum(lengths, 1) - 1) // width, bins - 1)
    return {
        "width": width,
        "counts": np.bincount(places, minlength=bins).tolist(),
        "rows": len(lengths),
        "longest": int(lengths[-1]),
        "beyond": int((lengths > width * bins).sum()),
        "longer": int((lengths > max_length).sum()),
        "lost": len(lost),
    }
