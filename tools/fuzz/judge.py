"""Check a case: it must be refused cleanly, or have a report whose rows add up and be trained on as expected."""

from __future__ import annotations

import json
import signal
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.check import check
from engine.data.prepare import prepare
from engine.data.rows import IGNORE_INDEX, Row
from fuzz.expected import Case, Json

SECONDS, LONGEST = 20.0, 300.0
"""Limits on CPU and wall-clock seconds; files have a few dozen rows, so a slower one is a hang."""
CONTROL = [chr(code) for code in (*range(32), *range(127, 160)) if chr(code) != "\n"]


class TooSlow(BaseException):
    """A time limit was reached; not an Exception, so that no handler in between catches it."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a case, and what was wrong with it, if anything."""

    outcome: str
    """trained, refused or wrong."""
    wrong: str = ""
    code: str = ""
    """Code of the refusal."""


def judge(case: Case, folder: Path, tokenizer: Any) -> Verdict:
    """Write the case's files into an empty folder and compare the results of `check` and `prepare` with it."""
    for name, content in case.files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    try:
        data = msgspec.convert({"id": str(folder / case.path), **case.options}, Data)
        with bounded():
            return _judge(case, data, tokenizer)
    except TooSlow:
        return Verdict("wrong", f"took more than {SECONDS:g} s of CPU time or {LONGEST:g} s of wall-clock time")
    except Exception:  # noqa: BLE001 - finding tracebacks is the purpose
        return Verdict("wrong", traceback.format_exc(limit=-6))


@contextmanager
def bounded() -> Iterator[None]:
    """Raise TooSlow in a block that takes too long; CPU time is limited more strictly, as the machine may be busy."""

    def stop(*_: Any) -> None:
        raise TooSlow

    clocks = ((signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, LONGEST))
    before = [signal.signal(number, stop) for number, _, _ in clocks]
    for _, clock, seconds in clocks:
        signal.setitimer(clock, seconds)
    try:
        yield
    finally:
        for (number, clock, _), handler in zip(clocks, before, strict=True):
            signal.setitimer(clock, 0)
            signal.signal(number, handler)


def _judge(case: Case, data: Data, tokenizer: Any) -> Verdict:
    try:
        report = check(data, case.max_length, tokenizer)
    except UserError as error:
        return _refusal(case, error)
    json.dumps(report)
    if wrong := usage_wrong(case, report):
        return Verdict("wrong", wrong)
    try:
        made = prepare(data, case.max_length, tokenizer)
    except UserError as error:
        if not report["refused"]:
            return Verdict("wrong", f"check accepts what the run refuses: {error.line}")
        return _refusal(case, error)
    if report["refused"]:
        return Verdict("wrong", f"the run accepts what check refuses: {report['refused']}")
    if made.facts.fingerprint != report["fingerprint"]:
        return Verdict("wrong", "check and run prepare different rows")
    wrong = _unexpected_rows(case, made, tokenizer)
    return Verdict("wrong", wrong) if wrong else Verdict("trained")


def _refusal(case: Case, error: UserError) -> Verdict:
    """Whether a refusal is justified and has a code and a readable message."""
    if any(mark in error.line for mark in CONTROL):
        return Verdict("wrong", f"control characters in {error.line!r}")
    if not error.code:
        return Verdict("wrong", f"no code: {error.line}")
    if case.expect == "valid" and not _may_be_refused(case):
        return Verdict("wrong", f"valid rows refused ({error.code}): {error.line}")
    if case.expect == "refused" and not error.code.startswith("data.preference"):
        return Verdict("wrong", f"not recognized as preference data ({error.code}): {error.line}")
    return Verdict("refused", code=error.code)


def _may_be_refused(case: Case) -> bool:
    """Whether so many rows have no answer that the dataset is unusable."""
    if case.max_length < 4096:
        return True  # truncation can remove every answer
    shares = [sum(not row.answers for row in rows) / len(rows) for rows in case.read.values()]
    return bool(shares) and max(shares) > 0


def usage_wrong(case: Case, report: Json) -> str:
    """What does not add up in a report's use of rows and columns; empty if everything does."""
    if case.expect == "refused":
        return f"preference data accepted as {report['format']}"
    usage = report["data_usage"]
    left_out = sum(entry["rows"] for entry in usage["left_out"].values())
    total = usage["train"] + usage["validation"] + usage["test"] + left_out
    if total != usage["read"]:
        return f"{usage['read']} rows read and {total} accounted for: {usage}"
    if case.expect != "valid":
        return ""
    if usage["read"] != len(case.rows):
        return f"{len(case.rows)} rows written and {usage['read']} read"
    named = {column["name"] for column in report["columns"]}
    if missing := case.columns - named:
        return f"columns {sorted(missing)} are not in the report, which has {sorted(named)}"
    return ""


def _unexpected_rows(case: Case, made: Any, tokenizer: Any) -> str:
    """Answers that are trained on unexpectedly, or expected and not trained on."""
    if case.expect != "valid":
        return ""
    trained = Counter(answers(row, tokenizer) for row in [*made.train, *made.validation] if not row.cut)
    expected = Counter(row.answers for row in case.rows if row.answers)
    if extra := trained - expected:
        return f"trained on unexpectedly: {list(extra)[:3]!r}; expected {list(expected - trained)[:3]!r}"
    tested = {text for row in made.test for text in (row.target, *row.references)}
    if unknown := {text for row in made.test if not row.cut for text in (answers(row, tokenizer)[-1:])} - _last(
        expected
    ):
        return f"tested on unexpectedly: {list(unknown)[:3]!r}"
    complete = case.max_length == 4096 and "max_rows" not in case.options and len(case.read) == 1
    missing = {key for key in expected - trained if key[-1] not in tested and key[-1].strip() not in tested}
    if complete and missing:
        return f"expected but neither trained nor tested on: {list(missing)[:3]!r}"
    return ""


def _last(expected: Counter[tuple[str, ...]]) -> set[str]:
    return {key[-1] for key in expected}


def answers(row: Row, tokenizer: Any) -> tuple[str, ...]:
    """The token spans of a row that are in the loss, as text, without the end token."""
    spans: list[list[int]] = []
    weights = row.weights or [1.0] * len(row.labels)
    before = False
    for label, weight in zip(row.labels, weights, strict=True):
        inside = label != IGNORE_INDEX and weight > 0
        if inside and not before:
            spans.append([])
        if inside:
            spans[-1].append(label)
        before = inside
    return tuple(_text(ids, tokenizer) for ids in spans)


def _text(ids: list[int], tokenizer: Any) -> str:
    ids = ids[:-1] if ids[-1] == tokenizer.eos_token_id else ids
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))
