"""The report on a data set before it is trained on, and samples of it token by token with what is in the loss.

Both show exactly the rows that are trained on: they come from the same preparation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.building import Progress
from engine.data.counts import SHOWN, SPLITS
from engine.data.preparation import Places, Preparation
from engine.data.preparation_report import about, conflicting, warnings
from engine.data.prepare import preparation, quiet, refused
from engine.data.rendering import special_tokens
from engine.data.token_text import texts_between
from engine.data.tokenized import TokenizedRows
from engine.data.tokens import IGNORED, Row

_POINTS = {"p5": 0.05, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


Preflight = Callable[[dict[str, TokenizedRows]], UserError | None]
"""What a run refuses about rows once they are prepared: the model's and the evaluation's demands."""


def no_demands(rows: dict[str, TokenizedRows]) -> UserError | None:
    """A preflight that accepts all rows."""
    return None


def check(
    data: Data, max_length: int, tokenizer: Any, progress: Progress = quiet, preflight: Preflight = no_demands
) -> dict[str, Any]:
    """Everything counted about a data set, JSON-able; `refused` says why training would not begin, else None.

    Raises UserError only where rows cannot be read or understood at all.
    """
    return report(preparation(data, max_length, tokenizer, progress), max_length, preflight)


def report(done: Preparation, max_length: int, preflight: Preflight = no_demands) -> dict[str, Any]:
    """What `check` says of a preparation that has been made."""
    refusal = refused(done) or preflight(done.rows)
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
        "warnings": [msgspec.to_builtins(notice) for notice in warnings(done)],
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
    most: int | None = None,
    progress: Progress = quiet,
) -> list[dict[str, Any]]:
    """`n` rows of a split from the `start`th on (from 0), as they are trained on: see `sample`."""
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}", data.id, f"use {', '.join(SPLITS)}", code="data.unknown_split")
    rows = preparation(data, max_length, tokenizer, progress).rows[split][start : start + n]
    specials = special_tokens(tokenizer)[0]
    return [sample(row, tokenizer, specials, most) for row in rows]


def sample(row: Row, tokenizer: Any, specials: frozenset[int], most: int | None = None) -> dict[str, Any]:
    """A row token by token: each one's text and id, whether it is in the loss and whether it is special.

    A character split over tokens is the text of the last of them; the others have no text and are `partial`. Text is
    raw; whoever puts it on a screen makes it visible. Of a row with more than `most` tokens only its ends are
    told, `omitted` tokens being left out behind the first `head`; the target is cut to as many characters.
    """
    count = len(row.input_ids)
    omitted = max(0, count - most) if most else 0
    head = (count - omitted) // 2 if omitted else count
    told = [*range(head), *range(head + omitted, count)]
    texts = texts_between(row.input_ids, 0, head, tokenizer)
    texts += texts_between(row.input_ids, head + omitted, count, tokenizer)
    return {
        "where": row.where,
        "target": row.target[:most],
        "cut": row.cut,
        "length": row.length,
        "learnt": count - row.labels.count(IGNORED),
        "answer": row.answer,
        "notes": list(row.notes),
        "omitted": omitted,
        "head": head,
        "tokens": [
            _token(row.input_ids[n], row.labels[n], text, specials) for n, text in zip(told, texts, strict=True)
        ],
    }


def _token(id_: int, label: int, text: str, specials: frozenset[int]) -> dict[str, Any]:
    return {"text": text, "id": id_, "trained": label != IGNORED, "special": id_ in specials, "partial": not text}


def _lengths(rows: TokenizedRows) -> dict[str, Any]:
    """Percentiles of tokens before the cut and of those in the loss, and the share of rows whose answer is cut."""
    answers = rows.column("answer")
    return {
        "tokens": _percentiles(rows.lengths_before_cut),
        "answer": _percentiles(answers),
        "answers_cut": int((rows.loss_tokens < answers).sum()) / len(rows),
    }


def _percentiles(values: np.ndarray) -> dict[str, int]:
    """The smallest value that a share of the values does not exceed (nearest rank)."""
    ordered = np.sort(values)
    return {name: int(ordered[max(0, -int(-share * len(ordered) // 1) - 1)]) for name, share in _POINTS.items()}


def _unknown_roles(done: Preparation) -> dict[str, Any]:
    found = [one for name in SPLITS for one in done.left_out(name) if one.kind == "unknown role"]
    where = [place for name in SPLITS for place in done.details(name, "unknown role")]
    return {"rows": sum(one.rows for one in found), "where": where[:SHOWN]}
