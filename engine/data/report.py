"""Report on a preparation: use of every row and column, counts, and warnings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np

from engine.config.errors import Notice
from engine.config.quantities import share_percent
from engine.config.text import amount
from engine.data.prepared import Preparation, TokenizedRows
from engine.data.problems import BY_SPLIT, LEFT_OUT, enough_length, meaning
from engine.data.rows import SHOWN, SPLITS

FEW_ANSWERS = 5
"""With at least this many rows per distinct answer, answers are labels, and two for one prompt are a conflict."""


def about(done: Preparation) -> dict[str, Any]:
    """The counts of a preparation, JSON-able."""
    rows, facts = done.rows, done.facts
    return {
        "source": facts.source,
        "source_fingerprint": facts.source_fingerprint,
        "files": facts.files,
        "notes": facts.notes,
        "format": facts.format,
        "why": facts.why,
        "template": facts.template,
        "split": facts.split,
        "rows": {name: len(rows[name]) for name in SPLITS},
        "tokens": {name: int(rows[name].lengths.sum()) for name in SPLITS},
        "loss_tokens": {name: int(rows[name].loss_tokens.sum()) for name in SPLITS},
        "cut": {name: int(rows[name].cut.sum()) for name in SPLITS},
        "test_items": facts.test_items,
        "dropped": {name: counts for name in SPLITS if (counts := _dropped(done, name))},
        "noticed": {name: counts for name in SPLITS if (counts := noted(rows[name]))},
        **data_usage(done),
    }


def data_usage(done: Preparation) -> dict[str, Any]:
    """The use of every column and row; in `data_usage`, train + validation + test + left out = read."""
    facts = done.facts
    return {
        "columns": msgspec.to_builtins(facts.columns),
        "data_usage": {
            "read": done.read,
            **{name: len(done.rows[name]) for name in SPLITS},
            "test_items": facts.test_items,
            "left_out": _left_out(done),
            "given": _given(done),
        },
        "overlap": msgspec.to_builtins(facts.overlap),
    }


def _given(done: Preparation) -> dict[str, dict[str, int]]:
    """Given split -> the splits to which its rows went."""
    given, start = {}, 0
    for name, rows in done.facts.read.items():
        part = slice(start, start + rows)
        start += rows
        used = done.columns["reason"][part] == 0
        counts = np.bincount(done.columns["split"][part][used], minlength=len(SPLITS)).tolist()
        given[name] = {"read": rows, **dict(zip(SPLITS, counts, strict=True)), "left_out": rows - sum(counts)}
    return given


def _left_out(done: Preparation) -> dict[str, dict[str, Any]]:
    reasons = done.columns["reason"][: done.read]
    counts = np.bincount(reasons, minlength=1)
    left_out: dict[str, dict[str, Any]] = {}
    for reason in (np.flatnonzero(counts[1:]) + 1).tolist():
        numbers = np.flatnonzero(reasons == reason)[:SHOWN].tolist()
        code = done.columns.kinds[reason]
        entry = left_out.setdefault(code, {"rows": 0, "reason": LEFT_OUT.get(code, code), "where": []})
        entry["rows"] += int(counts[reason])
        entry["where"] = [*entry["where"], *map(done.columns.where, numbers)][:SHOWN]
    return left_out


def warnings(done: Preparation) -> list[Notice]:
    """Warnings before a run, one sentence each."""
    notices = [*done.facts.notices]
    for name in SPLITS:
        for left_out in done.left_out(name):
            if left_out.kind not in BY_SPLIT:
                why = LEFT_OUT.get(left_out.kind, left_out.kind)
                text = f"{amount(left_out.rows, f'{name} row')} left out: {why} (first: {left_out.where[0]})"
                notices.append(Notice("data.rows_left_out", text))
        rows = done.rows[name]
        if cut := int(rows.cut.sum()):
            first = rows.where(int(np.flatnonzero(rows.cut)[0]))
            share = share_percent(cut / len(rows))
            fits = enough_length(int(rows.lengths_before_cut.max()))
            text = f"{cut:,} of {len(rows):,} {name} rows ({share}) truncated to max_length (first: {first})"
            text += f"; {fits} fits all"
            notices.append(Notice("data.rows_cut", text))
    for kind, noticed in noted(*done.rows.values()).items():
        code, text = meaning(kind)
        notices.append(Notice(code, f"{amount(noticed['rows'], 'row')}: {text} (first: {noticed['where'][0]})"))
    return [*notices, *_same_prompts(done), *_no_test_rows(done), *done.notices]


def _no_test_rows(done: Preparation) -> Iterator[Notice]:
    """Warn that the model is not scored because all test rows are left out; the split warns if it assigned none."""
    left_out = sum(reason.rows for reason in done.left_out("test"))
    if left_out and not len(done.rows["test"]):
        why = f"{amount(left_out, 'row')} left out"
        yield Notice("data.no_test_rows", f"no test rows ({why}): the model is trained and not scored")


def conflicting(done: Preparation) -> bool:
    """Whether training rows with one prompt and different answers look like conflicting labels."""
    facts = done.facts
    return bool(facts.same_prompt.rows) and facts.distinct_answers * FEW_ANSWERS <= len(done.rows["train"])


def _same_prompts(done: Preparation) -> Iterator[Notice]:
    facts = done.facts
    if conflicting(done):
        first, other = facts.same_prompt.where[0]
        share = share_percent(facts.same_prompt.rows / len(done.rows["train"]))
        text = (
            f"conflicting labels: {amount(facts.same_prompt.rows, 'training row')} ({share}) have the prompt of an "
            f"earlier row and a different answer (first: {first} and {other})"
        )
        yield Notice("data.conflicting_labels", text)


def noted(*splits: TokenizedRows) -> dict[str, dict[str, Any]]:
    """Note -> number of rows with it, and the first places in each of the splits."""
    by_note: dict[str, dict[str, Any]] = {}
    for rows in splits:
        first: dict[str, list[int]] = {}
        for number, notes in enumerate(rows.columns.tables["notes"]):
            places = np.flatnonzero(rows.note_numbers == number)
            for note in notes if len(places) else []:
                by_note.setdefault(note, {"rows": 0, "where": []})["rows"] += len(places)
                first.setdefault(note, []).extend(places[:SHOWN].tolist())
        for note, numbers in first.items():
            by_note[note]["where"] += map(rows.where, sorted(numbers)[:SHOWN])
    return by_note


def _dropped(done: Preparation, name: str) -> dict[str, dict[str, Any]]:
    return {
        left_out.kind: {"rows": left_out.rows, "where": left_out.where}
        for left_out in done.left_out(name)
        if left_out.kind not in BY_SPLIT
    }
