"""Recognize the format of a dataset, and check that all its files have the columns of that format."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.chat_columns import chat_style
from engine.data.columns import Summary
from engine.data.conversation import Example, Problem, UnusableRow
from engine.data.format import OPTIONAL, ColumnLookup, DetectedFormat
from engine.data.guessed_map import guess_map
from engine.data.mapping import ColumnTemplate, list_columns, read_map
from engine.data.media import media_columns
from engine.data.registry import check_name, data_formats
from engine.data.row_limits import RawRow
from engine.data.rows import decisions_of, summary_of


class Undecided(UserError):
    """An unclear format. `changes` to the section data may be the setting that is needed."""

    def __init__(self, what: str, where: str, do: str, code: str, changes: dict[str, Any], intro: str) -> None:
        super().__init__(what, where, do, code=code)
        self.changes, self.intro = changes, intro
        """`intro`: the words before the setting in the suggestion."""


def check_columns(rows: Iterable[RawRow], found: DetectedFormat) -> None:
    """Check that every used column has a single type, and that every file has the required columns.

    Raises UserError with the first row of a different type, or with the files and their columns.
    """
    summary = summary_of(rows)
    for name in {name for part in found.parts.values() for name in part.columns}:
        kinds = summary.columns[name].kinds if name in summary.columns else {}
        if len(kinds) < 2:
            continue
        usual = max(kinds, key=lambda kind: kinds[kind].rows)
        odd = next(kind for kind in kinds if kind != usual)
        what = f"mixed types in one column ({odd}; most rows: {usual})"
        raise UserError(what, f"{kinds[odd].where} ({name})", "give the column one type", code="data.mixed_types")
    needed = [part for role, part in found.parts.items() if role not in OPTIONAL]
    needed = [part for part in needed if any(found.roles.get(name) != "empty" for name in part.columns)]
    for name, filled in summary.parts.items():
        if filled and not all(any(filled.get(column) for column in part.columns) for part in needed):
            raise _differ(name, summary, found)


def to_example(raw: RawRow, found: DetectedFormat) -> Example | Problem:
    """Convert a row to an Example, or a Problem if it is unusable. Raises UserError if it contradicts its format."""
    try:
        return data_formats()[found.name].convert(raw, found)
    except UnusableRow as problem:
        return Problem(problem.kind, problem.what, raw.where)


def recognize(rows: Iterable[RawRow], data: Data) -> DetectedFormat:
    """The format that `data` sets or that the columns suggest. Raises UserError (Undecided) as `detection.detect`."""
    check_name(data.format)
    summary = summary_of(rows)
    if not summary.filled:
        raise UserError("every row is empty", data.id, "add columns to the rows", code="data.empty_rows")
    roles = read_map(data.map, list(summary.columns))
    given = set(roles) - {"system", "tools", "references"}
    found = _mapped(roles, ColumnLookup(summary, data), data) if given else _detected(rows, summary, data)
    one = data_formats()[found.name]
    if one.ambiguity and data.format != found.name:
        do = "write the rows to train on to a separate file"
        raise Undecided(one.ambiguity, data.id, do, "data.preference_data", {"format": found.name}, one.offer)
    found = _with_mapped_extras(found, roles, data)
    _refuse_media(summary, found, data)
    found = _accounted(replace(found, why="; ".join([found.why, *decisions_of(rows)])), summary, data)
    check_columns(rows, found)
    return found


def _detected(rows: Iterable[RawRow], summary: Summary, data: Data) -> DetectedFormat:
    """The first format whose columns have values in most rows, else in any row, else in none."""
    for share in (0.5, 0.0, -1.0):
        columns = ColumnLookup(summary, data, share)
        for one in data_formats().values():
            if data.format not in ("auto", one.name):
                continue
            found = one.detect(columns)
            if found is not None:
                return replace(found, separator=data.separator)
    raise _no_format(rows, summary, data)


def _no_format(rows: Iterable[RawRow], summary: Summary, data: Data) -> UserError:
    if len({tuple(sorted(filled)) for filled in summary.parts.values()}) > 1:
        return _differ("", summary, None)
    what = "unknown format" if data.format == "auto" else f"no columns of the format {data.format}"
    what = "; ".join([*decisions_of(rows), what])
    do = "map the columns with --set data.map.prompt=COLUMN --set data.map.completion=COLUMN"
    changes = {"map": guess_map(summary), "format": "auto"}
    return Undecided(f"{what} (columns {list_columns(summary.filled)})", data.id, do, "data.no_format", changes, "try")


def _mapped(roles: dict[str, ColumnTemplate], columns: ColumnLookup, data: Data) -> DetectedFormat:
    """The format that the roles of data.map define."""
    given = set(roles) - {"system", "tools", "references"}
    names = {frozenset({"prompt", "completion"}): "prompt-completion", frozenset({"text"}): "text"}
    name = names.get(frozenset(given))
    if given == {"messages"}:
        name = chat_style(roles["messages"], columns)
    if name is None:
        what = f"incomplete data.map (only {' and '.join(sorted(given))})"
        do = "map prompt and completion, or text alone, or messages alone"
        raise UserError(what, "data.map", do, code="data.incomplete_map")
    if data.format not in ("auto", name):
        what = f"data.map defines the format {name}, and data.format is {data.format}"
        raise UserError(what, "data.format", "remove one of the two", code="data.map_and_format")
    shown = ", ".join(f"{role} = {roles[role].source!r}" for role in sorted(given))
    parts = {role: part for role, part in roles.items() if role in given}
    return DetectedFormat(name, f"data.map sets {shown}: {name}", parts, data.separator)


def _with_mapped_extras(found: DetectedFormat, roles: dict[str, ColumnTemplate], data: Data) -> DetectedFormat:
    """Add the mapped system, tools and references; refuse them for plain text."""
    if data.separator is not None and found.name != "text":
        what = f"data.separator is for the format text, and the format is {found.name}"
        where = f"data.separator = {data.separator!r}"
        raise UserError(what, where, "remove it, or set data.format", code="data.separator_unread")
    extras = {role: part for role, part in roles.items() if role in ("system", "tools", "references")}
    if extras and found.name == "text":
        role = next(iter(extras))
        do = "insert it into the template of data.map.text"
        raise UserError(f"the format text has no {role}", f"data.map.{role}", do, code="data.map_unread")
    return replace(found, parts=found.parts | extras)


def _refuse_media(summary: Summary, found: DetectedFormat, data: Data) -> None:
    """Refuse media columns, because the text refers to them, unless data.map selects the text explicitly."""
    media = media_columns(summary)
    if not media or data.map:
        return
    name = media[0]
    changes = {role: part.source for role, part in found.parts.items() if role in ("prompt", "completion", "messages")}
    what = f"column {name} contains images, audio or video in {summary.columns[name].rows:,} of {summary.rows:,} rows"
    what += ", but only text is supported"
    intro = f"remove the column {name}, or train on the text alone:"
    raise Undecided(what, data.id, f"remove the column {name}", "data.media_column", {"map": changes}, intro)


def _accounted(found: DetectedFormat, summary: Summary, data: Data) -> DetectedFormat:
    """Set the role of every column, and warn about ignored ones."""
    used = found.account_roles(list(summary.columns))
    roles = {name: used.get(name, "ignored") if column.rows else "empty" for name, column in summary.columns.items()}
    ignored = [name for name, role in roles.items() if role == "ignored"]
    warnings = [_ignored(name, summary) for name in ignored]
    return replace(found, roles=roles, warnings=[*found.warnings, *warnings])


def _ignored(name: str, summary: Summary) -> Notice:
    column = summary.columns[name]
    examples = ", ".join(f"'{text}'" for text in column.examples)
    text = f"column {name} is ignored ({column.rows:,} of {summary.rows:,} rows have a value, for example {examples})"
    return Notice("data.ignored_column", text)


def _differ(part: str, summary: Summary, found: DetectedFormat | None) -> UserError:
    """The error for files with different columns."""
    shown = [f"{name} has {list_columns(filled)}" for name, filled in summary.parts.items() if filled]
    where = part
    what = "the files differ in their columns: " + "; ".join(shown[:4]) + (" …" if len(shown) > 4 else "")
    if found is not None and len(shown) == 1:
        used = [name for name, role in found.roles.items() if role not in ("ignored", "empty")]
        what = (
            f"the columns are {list_columns(summary.parts[part])}, and those of the training rows {list_columns(used)}"
        )
    do = "use one of the files, or give all of them the same columns"
    return UserError(what, where, do, code="data.files_differ")
