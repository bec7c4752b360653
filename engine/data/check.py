"""The report on a data set before it is trained on, and samples of it token by token with what is learnt.

Both take `prepare`'s own steps, so they speak of exactly the rows that are trained on.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

import msgspec

from engine.contract.errors import UserError
from engine.contract.schema import Data
from engine.data.account import SHOWN, SPLITS, about, warnings
from engine.data.conversation import Example
from engine.data.prepare import Survey, fingerprint, refused, survey, understood
from engine.data.rendering import special_tokens
from engine.data.split import duplicates
from engine.data.token_text import texts_between
from engine.data.tokens import IGNORED, Row, tokenize_all

_POINTS = {"p5": 0.05, "p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def check(data: Data, max_length: int, tokenizer: Any) -> dict[str, Any]:
    """Everything counted about a data set, JSON-able; `refused` says why training would not begin, else None.

    Raises UserError only where rows cannot be read or understood at all.
    """
    return report(survey(data, max_length, tokenizer), max_length, tokenizer)


def report(done: Survey, max_length: int, tokenizer: Any) -> dict[str, Any]:
    """What `check` says of a preparation that has been made."""
    refusals = [refusal.line for name in SPLITS if (refusal := refused(done, name))]
    examples = [example for name in SPLITS for example in getattr(done.split, name)]
    same = duplicates(examples)
    return {
        **about(done, tokenizer),
        "fingerprint": fingerprint(done.rows),
        "max_length": max_length,
        "lengths": {name: _lengths(done.rows[name]) for name in SPLITS if done.rows[name]},
        "duplicates": {"rows": sum(len(places) - 1 for places in same), "where": [p[:SHOWN] for p in same[:SHOWN]]},
        "contradictions": _contradictions(done),
        "overlaps": {
            pair: {"rows": len(found), "where": [list(places) for places in found[:SHOWN]]}
            for pair, found in done.split.overlaps.items()
        },
        "unknown_roles": _unknown_roles(done),
        "warnings": [msgspec.to_builtins(notice) for notice in warnings(done, tokenizer)],
        "refused": refusals[0] if refusals else None,
    }


def show(
    data: Data,
    max_length: int,
    tokenizer: Any,
    n: int,
    split: str = "train",
    start: int = 0,
    most: int | None = None,
) -> list[dict[str, Any]]:
    """`n` rows of a split from the `start`th on (from 0), as they are trained on: see `sample`."""
    if split not in SPLITS:
        raise UserError(f"no split {split!r}", data.id, f"splits are {', '.join(SPLITS)}")
    rows = islice(_rows(getattr(understood(data, tokenizer).split, split), tokenizer, max_length), start, start + n)
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


def _rows(examples: list[Example], tokenizer: Any, max_length: int) -> Iterator[Row]:
    """The usable rows of a split, tokenized no further than they are asked for."""
    for batch in (examples[start : start + 64] for start in range(0, len(examples), 64)):
        yield from (row for row in tokenize_all(batch, tokenizer, max_length) if isinstance(row, Row))


def _token(id_: int, label: int, text: str, specials: frozenset[int]) -> dict[str, Any]:
    return {"text": text, "id": id_, "trained": label != IGNORED, "special": id_ in specials, "partial": not text}


def _lengths(rows: list[Row]) -> dict[str, Any]:
    """Percentiles of tokens before the cut, of learnt tokens, and the share of rows whose answer the cut touches."""
    cut = sum(len(row.labels) - row.labels.count(IGNORED) < row.answer for row in rows)
    return {
        "tokens": _percentiles([row.length for row in rows]),
        "answer": _percentiles([row.answer for row in rows]),
        "answers_cut": cut / len(rows),
    }


def _percentiles(values: list[int]) -> dict[str, int]:
    """The smallest value that a share of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return {name: ordered[max(0, -int(-share * len(ordered) // 1) - 1)] for name, share in _POINTS.items()}


def _contradictions(done: Survey) -> dict[str, Any]:
    """Training rows that ask the same and answer otherwise."""
    first: dict[tuple[int, ...], Row] = {}
    found = []
    for row in done.rows["train"]:
        earlier = first.setdefault(tuple(row.prompt), row)
        if row.prompt and earlier.target.strip() != row.target.strip():
            found.append([earlier.where, row.where])
    return {"rows": len(found), "where": found[:SHOWN]}


def _unknown_roles(done: Survey) -> dict[str, Any]:
    bad = [problem for name in SPLITS for problem in done.problems[name] if problem.kind == "unknown role"]
    return {"rows": len(bad), "where": [f"{problem.where}: {problem.what}" for problem in bad[:SHOWN]]}
