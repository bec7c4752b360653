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
from engine.data.chat_template import has_template
from engine.data.encoding import special_tokens, texts_between
from engine.data.prepare import Progress, no_progress, prepare_unchecked, refused
from engine.data.prepared import Places, Preparation, TokenizedRows
from engine.data.problems import meaning
from engine.data.report import about, conflicting, warnings
from engine.data.rows import IGNORE_INDEX, SHOWN, SPLITS, Row

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
    error = refused(done)
    preflight_result = preflight(done) if preflight and not error else PreflightResult(error)
    refusal = preflight_result.refusal
    return {
        **about(done),
        "fingerprint": done.facts.fingerprint,
        "max_length": max_length,
        "lengths": {name: _lengths(done.rows[name]) for name in SPLITS if len(done.rows[name])},
        "duplicates": _places(done.facts.duplicates),
        "conflicting_labels": _places(done.facts.same_prompt if conflicting(done) else Places()),
        "multiple_references": {
            **_places(Places() if conflicting(done) else done.facts.same_prompt),
            "prompts": 0 if conflicting(done) else done.facts.repeated_prompts,
        },
        "unknown_roles": _unknown_roles(done),
        "warnings": [msgspec.to_builtins(notice) for notice in (*warnings(done), *preflight_result.notices)],
        "metric": preflight_result.metric,
        "metric_reason": preflight_result.metric_reason,
        "refused": refusal.line if refusal else None,
        "refusal_code": refusal.code if refusal else None,
    }


def _places(places: Places) -> dict[str, Any]:
    return {"rows": places.rows, "where": places.where}


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
            _token(row.input_ids[n], row.labels[n], text, specials) for n, text in zip(shown, texts, strict=True)
        ],
    }


def _token(id_: int, label: int, text: str, specials: frozenset[int]) -> dict[str, Any]:
    return {"text": text, "id": id_, "trained": label != IGNORE_INDEX, "special": id_ in specials, "partial": not text}


def _lengths(rows: TokenizedRows) -> dict[str, Any]:
    """Percentiles of tokens per row before truncation, of tokens in the loss; their sum; the share of cut answers."""
    answers = rows.column("answer")
    return {
        "tokens": _percentiles(rows.lengths_before_cut),
        "answer": _percentiles(answers),
        "answer_total": int(rows.loss_tokens.sum()),
        "answers_cut": int((rows.loss_tokens < answers).sum()) / len(rows),
    }


def _percentiles(values: np.ndarray) -> dict[str, int]:
    """Percentiles by the nearest-rank method."""
    ordered = np.sort(values)
    return {name: int(ordered[max(0, -int(-share * len(ordered) // 1) - 1)]) for name, share in _POINTS.items()}


def _unknown_roles(done: Preparation) -> dict[str, Any]:
    left_out = [rows for name in SPLITS for rows in done.left_out(name) if rows.kind == "data.unknown_role"]
    where = [f"{place}: {what}" for rows in left_out for place, what in zip(rows.where, rows.what, strict=True)]
    return {"rows": sum(rows.rows for rows in left_out), "where": where[:SHOWN]}


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
    noticed = {name: _noticed(done.rows[name]) for name in SPLITS}
    specials = special_tokens(tokenizer)[0]
    shown: dict[str, Sequence[Row]] = {name: done.rows[name][:rows] for name in SPLITS}
    shown["noticed"] = [row for rows_ in noticed.values() for row in rows_[:MAX_NOTICED]][:MAX_NOTICED]
    return {
        "report": report(done, max_length, preflight),
        "samples": {name: _samples(rows_, tokenizer, specials, max_tokens) for name, rows_ in shown.items()},
        "noticed": sum(map(len, noticed.values())),
        "histograms": {name: _histogram(done, name, max_length) for name in SPLITS},
        "chat_template": str(tokenizer.chat_template) if has_template(tokenizer) else None,
        "special_tokens": {"bos": tokenizer.bos_token, "eos": tokenizer.eos_token, "pad": tokenizer.pad_token},
    }


def _noticed(rows: TokenizedRows) -> TokenizedRows:
    """The rows that were truncated or have notes."""
    noted = np.array([bool(notes) for notes in rows.columns.tables["notes"]], dtype=bool)
    return rows.take(np.flatnonzero(rows.cut | noted[rows.note_numbers]))


def _samples(rows: Sequence[Row], tokenizer: Any, specials: frozenset[int], max_tokens: int) -> list[dict[str, Any]]:
    """Samples of at most MAX_TOKENS tokens in total, but at least one."""
    samples: list[dict[str, Any]] = []
    total = 0
    for row in rows:
        total += min(len(row.input_ids), max_tokens)
        if samples and total > MAX_TOKENS:
            break
        samples.append(sample(row, tokenizer, specials, max_tokens))
    return samples


def _histogram(done: Preparation, name: str, max_length: int) -> dict[str, Any] | None:
    lost = done.lengths_left_out(name)
    return histogram(done.rows[name].lengths_before_cut, lost[lost > max_length], max_length)


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
    top = _top(lengths, max_length)
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


def _top(lengths: np.ndarray, max_length: int) -> int:
    """The end of the axis: the longest row, or less for a thin tail, but not below max_length if rows are truncated."""
    longest, usual = max(int(lengths[-1]), 1), max(int(lengths[int(0.99 * (len(lengths) - 1))]), 1)
    if longest <= _TAIL * usual:
        return longest
    cut = max_length + max_length // 4 if max_length < longest else 0
    return min(longest, max(_TAIL * usual, cut))
