"""Rows ready for the model, by the one path that preview, training and evaluation share."""

from __future__ import annotations

import dataclasses
import hashlib
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from engine.contract.errors import Notice, UserError
from engine.contract.schema import Data
from engine.contract.split_version import SPLIT_VERSION
from engine.data.account import SPLITS, about, counted, warnings
from engine.data.conversation import Example, Problem
from engine.data.formats import Format, agree, converse, detect
from engine.data.items import EvaluationItem, evaluation_items, reference_examples
from engine.data.near_duplicates import NearDuplicates
from engine.data.raw import Raw
from engine.data.rendering import has_template
from engine.data.source import Source, read
from engine.data.split import Split, note_near_duplicates, split
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
    references: list[Row]
    """Of test rows with several accepted answers in one row: a row for each of the others."""
    about: dict[str, Any]
    """JSON-able: source, format, template, splits, and everything that was counted, with places."""
    warnings: list[Notice]
    fingerprint: str
    """sha256 over the token rows of the three splits: equal for equal content, tokenizer and settings."""
    split_version: int = SPLIT_VERSION

    @property
    def test_items(self) -> list[EvaluationItem]:
        """The test rows as they are scored."""
        return evaluation_items(self.test, self.references)

    @property
    def validation_items(self) -> list[EvaluationItem]:
        return evaluation_items(self.validation)


@dataclass
class Survey:
    """A preparation with everything met on the way, before it is judged."""

    source: Source
    format: Format
    split: Split
    rows: dict[str, list[Row]] = field(default_factory=dict)
    problems: dict[str, list[Problem]] = field(default_factory=dict)
    references: list[Row] = field(default_factory=list)

    @property
    def test_items(self) -> int:
        """Distinct prompts among the test rows."""
        return len({row.item for row in self.rows["test"]})


def prepare(data: Data, max_length: int, tokenizer: Any, split_version: int = SPLIT_VERSION) -> Prepared:
    """Read, understand, split and tokenize. Deterministic.

    Raises UserError for anything wrong with the data, also when more than 30 % of the rows of a file (or split)
    have nothing to learn, or no training row is left.
    """
    done = survey(data, max_length, tokenizer, split_version=split_version)
    if refusal := refused(done):
        raise refusal
    rows = done.rows
    return Prepared(
        rows["train"],
        rows["validation"],
        rows["test"],
        done.references,
        about(done, tokenizer),
        warnings(done, tokenizer),
        fingerprint(rows, done.references),
        split_version,
    )


def survey(
    data: Data,
    max_length: int,
    tokenizer: Any,
    progress: Callable[[str], None] = lambda text: None,
    split_version: int = SPLIT_VERSION,
) -> Survey:
    """Everything `prepare` does but refuse rows: what a check reports on."""
    progress("reading and splitting the rows")
    done = understood(data, tokenizer, split_version)
    near = NearDuplicates()
    for name in SPLITS:
        examples = getattr(done.split, name)
        results: list[Row | Problem] = []
        for start in range(0, len(examples), _TOLD):
            progress(f"tokenizing {name} rows: {start:,} of {len(examples):,}")
            results += tokenize_all(examples[start : start + _TOLD], tokenizer, max_length)
        _number(results, examples, done.split.items[name])
        for example in examples:
            near.add(name, example)
        done.rows[name] = [row for row in results if isinstance(row, Row)]
        done.problems[name] += [problem for problem in results if isinstance(problem, Problem)]
        if name == "test":
            done.references = _reference_rows(results, examples, tokenizer, max_length)
    note_near_duplicates(done.split.assignment, near)
    return done


def _number(results: list[Row | Problem], examples: list[Example], items: list[int]) -> None:
    """Give rows their item numbers and their examples' references."""
    for place, (result, example, item) in enumerate(zip(results, examples, items, strict=True)):
        if isinstance(result, Row):
            results[place] = dataclasses.replace(result, item=item, references=example.references)


def _reference_rows(
    results: list[Row | Problem], examples: list[Example], tokenizer: Any, max_length: int
) -> list[Row]:
    """Rows of the test examples' other accepted answers; one that cannot be tokenized counts for text metrics alone."""
    numbered = [
        (other, result.item)
        for result, example in zip(results, examples, strict=True)
        if isinstance(result, Row)
        for other in reference_examples(example)
    ]
    found = tokenize_all([other for other, _ in numbered], tokenizer, max_length)
    pairs = zip(found, numbered, strict=True)
    return [dataclasses.replace(row, item=item) for row, (_, item) in pairs if isinstance(row, Row)]


def understood(data: Data, tokenizer: Any, split_version: int = SPLIT_VERSION) -> Survey:
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
        examples["train"],
        examples.get("validation"),
        examples.get("test"),
        shares,
        data.seed,
        data.max_rows,
        split_version,
    )
    return Survey(source, found, parted, problems=problems)


def refused(done: Survey) -> UserError | None:
    """The error for data of which too many rows have nothing to learn, or that leaves no training row."""
    held_out = [name for name in SPLITS if name != "train" and getattr(done.source, name) is None]
    given = [["train", *held_out], *([name] for name in SPLITS[1:] if name not in held_out)]
    found = next((refusal for names in given if (refusal := _too_many_bad(done, names))), None)
    if found or done.rows["train"]:
        return found
    do = "give it rows whose answer fits into train.max_length"
    return UserError("no training rows are left", "data", do, code="data.no_training_rows")


def _too_many_bad(done: Survey, names: list[str]) -> UserError | None:
    """Of a file's rows, whichever splits they went to: of a few held-out rows alone a single bad one would be many."""
    bad = [problem for name in names for problem in done.problems[name]]
    good = sum(len(done.rows[name]) for name in names)
    if not bad or len(bad) <= REFUSED_SHARE * (len(bad) + good):
        return None
    name = names[0]
    kinds = counted([(problem.kind, problem.where) for problem in bad])
    worst = max(kinds, key=lambda kind: kinds[kind]["rows"])
    first = next(problem for problem in bad if problem.kind == worst)
    what = f"{len(bad):,} of {len(bad) + good:,} {name} rows would train on nothing, mostly: {worst} ({first.what})"
    do = _REMEDIES.get(worst, "mend the rows, or set data.format or data.map")
    return UserError(what, first.where, do, code="data.too_many_unusable_rows")


_REMEDIES = {
    "nothing left to learn after the cut": "raise train.max_length or shorten the prompts",
    "unknown role": "use user, assistant, system and tool",
    "refused by the chat template": "set model.chat_template to one that takes these conversations",
    "no answer": "set data.separator or data.map so that every row has an answer",
}


def fingerprint(rows: dict[str, list[Row]], references: Sequence[Row] = ()) -> str:
    """sha256 over ids, labels, prompts and targets, in order, and over further accepted answers."""
    digest = hashlib.sha256()
    for name in SPLITS:
        digest.update(f"{name} {len(rows[name])}\n".encode())
        for row in rows[name]:
            for ids in (row.input_ids, row.labels, row.prompt):
                digest.update(len(ids).to_bytes(8, "little") + array("q", ids).tobytes())
            digest.update(row.target.encode() + b"\0")
            if row.references:
                digest.update(repr(row.references).encode())
    for row in references:
        digest.update(repr((row.input_ids, row.target)).encode())
    return digest.hexdigest()


def _conversed(raws: list[Raw], found: Format) -> tuple[list[Example], list[Problem]]:
    results = [converse(raw, found) for raw in raws]
    examples = [result for result in results if isinstance(result, Example)]
    return examples, [result for result in results if isinstance(result, Problem)]


def _need_template(found: Format, tokenizer: Any, data: Data) -> None:
    if has_template(tokenizer) or found.name in ("text", "prompt-completion"):
        return
    what = f"{found.name} rows need a chat template and this model has none"
    raise UserError(what, data.id, "set model.chat_template to a Jinja file")


def _share(wish: float | str | None) -> float | None:
    return None if wish is None or isinstance(wish, str) else float(wish)
