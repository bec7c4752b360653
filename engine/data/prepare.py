"""Rows ready for the model, by the one path that preview, training and evaluation share."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.contract.errors import Notice, UserError
from engine.contract.schema import Data
from engine.data.account import SPLITS, about, counted, warnings
from engine.data.conversation import Example, Problem
from engine.data.formats import Format, agree, converse, detect
from engine.data.problem_kinds import ANSWERS_LOST, DO, REASONS, template_refusal
from engine.data.raw import Raw
from engine.data.rendering import has_template
from engine.data.source import Source, read
from engine.data.split import Split, split
from engine.data.tokens import Row, tokenize_all

REFUSED_SHARE = 0.3
"""Above this share of rows with nothing to learn the data is not what the preset says it is."""

_TOLD = 4096
"""Rows tokenized between two words on how far it is."""


@dataclass(frozen=True)
class Prepared:
    """What every method trains on and is scored by."""

    train: list[Row]
    validation: list[Row]
    test: list[Row]
    about: dict[str, Any]
    """JSON-able: source, format, template, splits, and everything that was counted, with places."""
    warnings: list[Notice]
    fingerprint: str
    """sha256 over the token rows of the three splits: equal for equal content, tokenizer and settings."""


@dataclass
class Survey:
    """A preparation with everything met on the way, before it is judged."""

    source: Source
    format: Format
    split: Split
    rows: dict[str, list[Row]] = field(default_factory=dict)
    problems: dict[str, list[Problem]] = field(default_factory=dict)


def prepare(data: Data, max_length: int, tokenizer: Any) -> Prepared:
    """Read, understand, split and tokenize. Deterministic.

    Raises UserError for anything wrong with the data, also when more than 30 % of a split's rows would be
    learnt from in no token.
    """
    done = survey(data, max_length, tokenizer)
    for name in SPLITS:
        refusal = refused(done, name)
        if refusal:
            raise refusal
    rows = done.rows
    return Prepared(
        rows["train"],
        rows["validation"],
        rows["test"],
        about(done, tokenizer),
        warnings(done, tokenizer),
        fingerprint(rows),
    )


def survey(data: Data, max_length: int, tokenizer: Any, progress: Callable[[str], None] = lambda text: None) -> Survey:
    """Everything `prepare` does but refuse rows: what a check reports on."""
    progress("reading and splitting the rows")
    done = understood(data, tokenizer)
    for name in SPLITS:
        examples = getattr(done.split, name)
        results: list[Row | Problem] = []
        for start in range(0, len(examples), _TOLD):
            progress(f"tokenizing {name} rows: {start:,} of {len(examples):,}")
            results += tokenize_all(examples[start : start + _TOLD], tokenizer, max_length)
        done.rows[name] = [row for row in results if isinstance(row, Row)]
        done.problems[name] += [problem for problem in results if isinstance(problem, Problem)]
    return done


def understood(data: Data, tokenizer: Any) -> Survey:
    """Rows read, their format found, conversations split: everything before tokens."""
    source = read(data)
    given = {name: rows for name in SPLITS if (rows := getattr(source, name)) is not None}
    found = detect(given["train"], data)
    _need_template(found, tokenizer, data)
    examples: dict[str, list[Example]] = {}
    problems: dict[str, list[Problem]] = {name: [] for name in SPLITS}
    for name, raws in given.items():
        agree(raws, found)
        examples[name], problems[name] = _conversed(raws, found)
    shares = (_share(data.validation) or 0.0, _share(data.test))
    parted = split(
        examples["train"], examples.get("validation"), examples.get("test"), shares, data.seed, data.max_rows
    )
    return Survey(source, found, parted, problems=problems)


def refused(done: Survey, name: str) -> UserError | None:
    """The error for a split in which too many rows, or all, have nothing to learn."""
    bad, good = done.problems[name], len(done.rows[name])
    for lost in [problem for problem in bad if problem.kind in ANSWERS_LOST][:1]:
        rows = sum(problem.kind == lost.kind for problem in bad)
        return template_refusal(lost.kind, lost.what, rows, len(bad) + good, name, lost.where)
    if not bad or len(bad) <= REFUSED_SHARE * (len(bad) + good):
        return None
    kinds = counted([(problem.kind, problem.where) for problem in bad])
    worst = max(kinds, key=lambda kind: kinds[kind]["rows"])
    first = next(problem for problem in bad if problem.kind == worst)
    if refusal := template_refusal(worst, first.what, kinds[worst]["rows"], len(bad) + good, name, first.where):
        return refusal
    why = REASONS.get(worst, worst)
    what = f"{len(bad):,} of {len(bad) + good:,} {name} rows would train on nothing, mostly: {why} ({first.what})"
    do = (_REMEDIES | DO).get(worst, "mend the rows, or set data.format or data.map")
    return UserError(what, first.where, do)


_REMEDIES = {
    "unknown role": "use user, assistant, system and tool",
    "no answer": "set data.separator or data.map so that every row has an answer",
}


def fingerprint(rows: dict[str, list[Row]]) -> str:
    """sha256 over ids, labels, loss weights, prompts and targets, in order."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name} {len(rows[name])}\n".encode())
        for row in rows[name]:
            for ids in (row.input_ids, row.labels, row.prompt):
                digest.update(len(ids).to_bytes(8, "little") + array("q", ids).tobytes())
            if row.weights is not None:  # rows without weights keep the fingerprint they had
                digest.update(b"weights" + array("d", row.weights).tobytes())
            digest.update(row.target.encode() + b"\0")
    return digest.hexdigest()


def sampled(rows: Sequence[Row], most: int | None) -> list[Row]:
    """At most `most` rows, chosen by content and not by place, in their order."""
    if most is None or len(rows) <= most:
        return list(rows)

    def key(number: int) -> Any:
        return hashlib.sha256(repr(rows[number].input_ids).encode()).digest()

    return [rows[number] for number in sorted(sorted(range(len(rows)), key=key)[:most])]


def _conversed(raws: list[Raw], found: Format) -> tuple[list[Example], list[Problem]]:
    results = [converse(raw, found) for raw in raws]
    examples = [result for result in results if isinstance(result, Example)]
    return examples, [result for result in results if isinstance(result, Problem)]


def _need_template(found: Format, tokenizer: Any, data: Data) -> None:
    if has_template(tokenizer) or found.name in ("text", "prompt-completion"):
        return
    what = f"{found.name} rows need a chat template and this model has none"
    do = 'set model.chat_template to "tools-chatml", "tools-plain" or a Jinja file'
    raise UserError(what, data.id, do, code="data.no_template")


def _share(wish: float | str | None) -> float | None:
    return None if wish is None or isinstance(wish, str) else float(wish)
