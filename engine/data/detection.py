"""Detect the format of a dataset, and check that all its files have the columns of that format.

Where the format is unclear, the error suggests settings that were tried on the rows.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import islice
from statistics import median_low
from typing import Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.columns import EXAMPLES, ColumnTemplate, Summary, as_text, did_you_mean, list_columns, read_map
from engine.data.conversation import ANSWER_LISTS, without_end_tokens
from engine.data.formats import OPTIONAL, ColumnLookup, DetectedFormat, check_name, data_formats
from engine.data.formats.messages import chat_style
from engine.data.rows import Example, Problem, RawRow, UnusableRow
from engine.data.source import reading_decisions, summary_of
from engine.runs.run.usage import IGNORED, ColumnUse

_NAMES = {"image", "images", "audio", "audios", "video", "videos", "picture", "pictures", "photo", "photos", "img"}
_SUFFIXES = re.compile(
    r"\.(png|jpe?g|gif|webp|bmp|tiff?|wav|mp3|flac|ogg|m4a|mp4|avi|mov|mkv|webm)(\?.*)?$|^data:(image|audio|video)/",
    re.IGNORECASE,
)
_EXTRA_ROLES = frozenset(("system", "tools", "references"))
"""Roles of data.map that add to a format instead of defining it."""
TRIED = 300
"""Maximum rows on which a suggestion is tried."""
_TRIED_LENGTH = 32 << 20
"""Maximum total characters of these rows."""
ANSWER_NAMES = (
    "summary", "highlights", "answer", "response", "output", "completion", "target", "final_decision", "long_answer",
    "solution", "reply", "translation", "correct_answer", "label",
)  # fmt: skip
PROMPT_NAMES = (
    "question", "instruction", "prompt", "query", "input", "problem", "document", "article", "dialogue", "dialog",
    "conversation", "passage", "context", "text", "source",
)  # fmt: skip
"""Names of columns, the most telling first."""
_IDENTIFIER = re.compile(
    r"(?:^|[_\s-])(?:(?i:id|idx|index|uuid|guid|hash|key|url|uri|link|date|year|time|timestamp))$|[a-z](?:ID|Id|Url|Date)$"
)
MIN_GROUPED, RECURRING, LONG_PASSAGE = 20, 0.7, 150
"""A column may say which rows belong together if at least so many rows have a value, at most this share of the values
are distinct, and half of them have so many characters."""
_LIKELY_PROMPT = ("context", "passage", "document", "schema", "input", "choices", "options", "text", "title")
"""Names of columns that usually belong to the prompt."""
_BARE = re.compile(r"[A-Za-z_][\w.-]*")


class Undecided(UserError):
    """An unclear format. `changes` to the section data may be the setting that is needed."""

    def __init__(self, problem: str, location: str, hint: str, code: str, changes: dict[str, Any], intro: str) -> None:
        super().__init__(problem, location, hint, code=code)
        self.changes, self.intro = changes, intro
        """`intro`: the words before the setting in the suggestion."""


def detect(rows: Iterable[RawRow], data: Data) -> DetectedFormat:
    """The format that `data` sets or that the columns suggest. Reads all rows once, and some again for suggestions.

    Raises UserError for an unknown format, and if data.format, data.map or data.separator contradict the columns.
    """
    try:
        detected = recognize(rows, data)
    except Undecided as error:
        result = try_settings(rows, data, error.changes)
        if result is None:
            raise
        hint = f"{error.intro} {as_options(error.changes)} ({result})"
        raise UserError(error.problem, error.location, hint, code=error.code) from error
    if detected.name != "prompt-completion" or data.map:
        return detected
    return replace(detected, warnings=[*detected.warnings, *suggest_prompt(rows, data, detected)])


def recognize(rows: Iterable[RawRow], data: Data) -> DetectedFormat:
    """The format that `data` sets or that the columns suggest. Raises UserError (Undecided) as `detection.detect`."""
    check_name(data.format)
    summary = summary_of(rows)
    if not summary.filled:
        raise UserError("every row is empty", data.id, "add columns to the rows", code="data.empty_rows")
    roles = read_map(data.map, list(summary.columns))
    given = set(roles) - _EXTRA_ROLES
    detected = _mapped(roles, ColumnLookup(summary, data), data) if given else _detected(rows, summary, data)
    data_format = data_formats()[detected.name]
    if data_format.ambiguity and data.format != detected.name:
        hint = "write the rows to train on to a separate file"
        raise Undecided(
            data_format.ambiguity, data.id, hint, "data.preference_data", {"format": detected.name}, data_format.offer
        )
    if detected.is_guess and data.format == "auto":
        changes = {"map": {role: detected.parts[role].source for role in ("prompt", "completion")}}
        what = f"the columns do not say which of them is the answer (columns {list_columns(summary.filled)})"
        raise Undecided(what, data.id, f"set {as_options(changes)}", "data.guessed_map", changes, "a guess to confirm:")
    detected = _with_mapped_extras(detected, roles, data)
    _refuse_media(summary, detected, data)
    detected = replace(detected, group=_group_column(summary, data))
    reasons = [detected.why, *reading_decisions(rows)]
    if detected.group:
        as_read = ", numbers read as text" if "a number" in summary.columns[detected.group].kinds else ""
        reasons.append(f"data.group = {detected.group!r}: its rows stay in one split{as_read}")
    detected = _with_reported_roles(replace(detected, why="; ".join(reasons)), summary, data)
    check_columns(rows, detected)
    return detected


def _detected(rows: Iterable[RawRow], summary: Summary, data: Data) -> DetectedFormat:
    """The first format whose columns have values in most rows, else in any row, else in none."""
    for share in (0.5, 0.0, -1.0):
        columns = ColumnLookup(summary, data, share)
        for data_format in data_formats().values():
            if data.format not in ("auto", data_format.name):
                continue
            detected = data_format.detect(columns)
            if detected is not None:
                return replace(detected, separator=data.separator)
    raise _no_format(rows, summary, data)


def _no_format(rows: Iterable[RawRow], summary: Summary, data: Data) -> UserError:
    if len({tuple(sorted(filled)) for filled in summary.parts.values()}) > 1:
        return _differ("", summary, None)
    what = "unknown format" if data.format == "auto" else f"no columns of the format {data.format}"
    what = "; ".join([*reading_decisions(rows), what])
    hint = "map the columns with --set data.map.prompt=COLUMN --set data.map.completion=COLUMN"
    changes = {"map": guess_map(summary), "format": "auto"}
    return Undecided(
        f"{what} (columns {list_columns(summary.filled)})",
        data.id,
        hint,
        "data.no_format",
        changes,
        "a guess to confirm:",
    )


def _mapped(roles: dict[str, ColumnTemplate], columns: ColumnLookup, data: Data) -> DetectedFormat:
    """The format that the roles of data.map define."""
    given = set(roles) - _EXTRA_ROLES
    names = {frozenset({"prompt", "completion"}): "prompt-completion", frozenset({"text"}): "text"}
    name = names.get(frozenset(given))
    if given == {"messages"}:
        name = chat_style(roles["messages"], columns)
    if name is None:
        problem = f"incomplete data.map (only {' and '.join(sorted(given))})"
        hint = "map prompt and completion, or text alone, or messages alone"
        raise UserError(problem, "data.map", hint, code="data.incomplete_map")
    if data.format not in ("auto", name):
        problem = f"data.map defines the format {name}, and data.format is {data.format}"
        raise UserError(problem, "data.format", "remove one of the two", code="data.map_and_format")
    _refuse_list(roles, columns.summary)
    shown = ", ".join(f"{role} = {roles[role].source!r}" for role in sorted(given))
    parts = {role: part for role, part in roles.items() if role in given}
    return DetectedFormat(name, f"data.map sets {shown}: {name}", parts, data.separator)


def _refuse_list(roles: dict[str, ColumnTemplate], summary: Summary) -> None:
    """Raise UserError if the mapped answer is a list of texts: several accepted answers, or one answer."""
    name = roles["completion"].source if "completion" in roles else ""  # a template with braces trains its text
    if name.lower() in ANSWER_LISTS or ("references" in roles and roles["references"].lone == name):
        return
    for raw in summary.sample:
        value = raw.values.get(name)
        if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
            problem = "the answer is a list: several accepted answers, or one answer"
            literal = as_options({"map": {"completion": f"{{{name}}}"}})
            several = as_options({"map": {"references": name}})
            hint = f"{several} accepts any of them; {literal} trains the list as JSON text"
            raise UserError(problem, f"{raw.where} ({name})", hint, code="data.list_answer")


def _with_mapped_extras(detected: DetectedFormat, roles: dict[str, ColumnTemplate], data: Data) -> DetectedFormat:
    """Add the mapped system, tools and references; refuse them for plain text."""
    if data.separator is not None and detected.name != "text":
        problem = f"data.separator is for the format text, and the format is {detected.name}"
        where = f"data.separator = {data.separator!r}"
        raise UserError(problem, where, "remove it, or set data.format", code="data.separator_unread")
    extras = {role: part for role, part in roles.items() if role in _EXTRA_ROLES}
    if extras and detected.name == "text":
        role = next(iter(extras))
        hint = "insert it into the template of data.map.text"
        raise UserError(f"the format text has no {role}", f"data.map.{role}", hint, code="data.map_unread")
    return replace(detected, parts=detected.parts | extras)


def _refuse_media(summary: Summary, detected: DetectedFormat, data: Data) -> None:
    """Refuse media columns, because the text refers to them, unless data.map selects the text explicitly."""
    media = media_columns(summary)
    if not media or data.map:
        return
    name = media[0]
    changes = {
        role: part.source for role, part in detected.parts.items() if role in ("prompt", "completion", "messages")
    }
    what = f"column {name} contains images, audio or video in {summary.columns[name].rows:,} of {summary.rows:,} rows"
    what += ", but only text is supported"
    intro = f"remove the column {name}, or train on the text alone:"
    raise Undecided(what, data.id, f"remove the column {name}", "data.media_column", {"map": changes}, intro)


def _with_reported_roles(detected: DetectedFormat, summary: Summary, data: Data) -> DetectedFormat:
    """Set the role of every column, and warn about ignored ones."""
    used = detected.reported_roles(list(summary.columns))
    if detected.group:
        used[detected.group] = ", ".join(filter(None, [used.get(detected.group, ""), "group"]))
    roles = {name: used.get(name, "ignored") if column.rows else "empty" for name, column in summary.columns.items()}
    ignored = [name for name, role in roles.items() if role == "ignored"]
    warnings = [_ignored(name, summary) for name in ignored]
    return replace(detected, roles=roles, warnings=[*detected.warnings, *warnings])


def _group_column(summary: Summary, data: Data) -> str:
    """The column of data.group, '' for none. Raises UserError if it is unknown, or has lists or objects."""
    if data.group is None:
        return ""
    if data.group not in summary.filled:
        problem = f"unknown column {data.group!r}{did_you_mean(data.group, list(summary.columns))}"
        raise UserError(problem, "data.group", f"use one of {list_columns(summary.filled)}", code="data.unknown_group")
    kinds = summary.columns[data.group].kinds
    if odd := next((kind for kind in kinds if kind not in ("text", "a number")), None):
        problem = f"the group of a row is text or a number, and this is {odd}"
        hint = "add a column with a name or number of what rows have in common"
        raise UserError(problem, f"{kinds[odd].where} ({data.group})", hint, code="data.group_not_text")
    return data.group


def suggest_group(summary: Summary, detected: DetectedFormat, near: bool) -> str:
    """The column that data.group should name, '' for none: one with long texts that recur, such as a document.

    `near`: also one with short values that recur, because there are near-duplicates between splits.
    """
    short = ""
    for name, column in summary.columns.items():
        values = [value for raw in summary.sample if (value := raw.values.get(name)) not in (None, "")]
        role = detected.roles.get(name, "")
        if "answer" in role or len(values) < MIN_GROUPED or not set(column.kinds) <= {"text", "a number"}:
            continue
        distinct = len(set(values))
        if not 1 < distinct <= RECURRING * len(values):
            continue
        if median_low([len(str(value)) for value in values]) >= LONG_PASSAGE:
            return name
        short = short or name
    return short if near else ""


def _ignored(name: str, summary: Summary) -> Notice:
    column = summary.columns[name]
    examples = ", ".join(f"'{text}'" for text in column.examples)
    text = f"column {name} is ignored ({column.rows:,} of {summary.rows:,} rows have a value, for example {examples})"
    return Notice("data.ignored_column", text)


def check_columns(rows: Iterable[RawRow], detected: DetectedFormat) -> None:
    """Check that every used column has a single type, and that every file has the required columns.

    Raises UserError with the first row of a different type, or with the files and their columns.
    """
    summary = summary_of(rows)
    for name in {name for part in detected.parts.values() for name in part.columns}:
        kinds = summary.columns[name].kinds if name in summary.columns else {}
        if len(kinds) < 2:
            continue
        usual = max(kinds, key=lambda kind: kinds[kind].rows)
        odd = next(kind for kind in kinds if kind != usual)
        problem = f"mixed types in one column ({odd}; most rows: {usual})"
        raise UserError(problem, f"{kinds[odd].where} ({name})", "give the column one type", code="data.mixed_types")
    needed = [part for role, part in detected.parts.items() if role not in OPTIONAL]
    needed = [part for part in needed if any(detected.roles.get(name) != "empty" for name in part.columns)]
    for name, filled in summary.parts.items():
        if filled and not all(any(filled.get(column) for column in part.columns) for part in needed):
            raise _differ(name, summary, detected)


def _differ(part: str, summary: Summary, detected: DetectedFormat | None) -> UserError:
    """The error for files with different columns."""
    shown = [f"{name} has {list_columns(filled)}" for name, filled in summary.parts.items() if filled]
    where = part
    problem = "the files differ in their columns: " + "; ".join(shown[:4]) + (" …" if len(shown) > 4 else "")
    if detected is not None and len(shown) == 1:
        used = [name for name, role in detected.roles.items() if role not in ("ignored", "empty")]
        problem = (
            f"the columns are {list_columns(summary.parts[part])}, and those of the training rows {list_columns(used)}"
        )
    hint = "use one of the files, or give all of them the same columns"
    return UserError(problem, where, hint, code="data.files_differ")


def to_example(raw: RawRow, detected: DetectedFormat) -> Example | Problem:
    """Convert a row to an Example, or a Problem if it is unusable. Raises UserError if it contradicts its format."""
    try:
        example = without_end_tokens(data_formats()[detected.name].convert(raw, detected))
        value = raw.values.get(detected.group) if detected.group else None
        return example if value in (None, "") else replace(example, group=as_text(value))
    except UnusableRow as problem:
        return Problem(problem.kind, problem.what, raw.where)


def try_settings(rows: Iterable[RawRow], data: Data, changes: dict[str, Any]) -> str | None:
    """The result of changed settings ("299 of the first 300 rows usable"); None if no row is usable."""
    sample = _first_rows(rows)
    try:
        detected = recognize(sample, msgspec.structs.replace(data, **changes))
        trained = sum(isinstance(to_example(raw, detected), Example) for raw in sample)
    except UserError:
        return None
    if not trained:
        return None
    total = summary_of(rows).rows
    rows_ = f"the first {len(sample):,} rows" if total > len(sample) else f"{len(sample):,} rows"
    return f"{trained:,} of {rows_} usable"


def _first_rows(rows: Iterable[RawRow]) -> list[RawRow]:
    """At most TRIED rows, fewer if they are long."""
    sample: list[RawRow] = []
    length = 0
    for raw in islice(iter(rows), TRIED):
        sample.append(raw)
        length += sum(len(str(value)) for value in raw.values.values())
        if length > _TRIED_LENGTH:
            break
    return sample


def as_options(changes: dict[str, Any]) -> str:
    """The settings as shell options: `--set data.format=chosen`. A map becomes one option per role."""
    flat = {f"map.{role}": source for role, source in changes.get("map", {}).items()}
    flat |= {key: value for key, value in changes.items() if key != "map" and (key, value) != ("format", "auto")}
    return " ".join(f"--set {shlex.quote(f'data.{key}={_value(value)}')}" for key, value in flat.items())


def _value(value: Any) -> str:
    """A TOML value; bare words are not quoted."""
    text = str(value)
    if _BARE.fullmatch(text) and text not in ("true", "false", "inf", "nan"):
        return text
    return json.dumps(text, ensure_ascii=False)


def suggest_prompt(rows: Iterable[RawRow], data: Data, detected: DetectedFormat) -> list[Notice]:
    """Suggest adding an ignored column to the prompt if its name indicates context."""
    likely = [name for name, role in detected.roles.items() if role == "ignored" and name.lower() in _LIKELY_PROMPT]
    prompt, completion = detected.parts["prompt"].lone, detected.parts["completion"].lone
    if not likely or prompt is None or completion is None:
        return []
    changes = {"prompt": f"{{{likely[0]}}}\n\n{{{prompt}}}", "completion": completion}
    result = try_settings(rows, data, {"map": changes})
    if result is None:
        return []
    text = f"to add column {likely[0]} to the prompt: {as_options({'map': changes})} ({result})"
    return [Notice("data.prompt_suggestion", text)]


def guess_map(summary: Summary) -> dict[str, str]:
    """The most likely data.map: a column of conversations, else common names, else label and longest text.

    Columns of identifiers, dates and addresses are neither prompt nor answer.
    """
    columns = {name: summary.columns[name] for name in summary.filled}
    chats = [name for name, column in columns.items() if {"role", "from"} & column.keys]
    if chats:
        return {"messages": chats[0]}
    texts = [name for name, column in columns.items() if set(column.kinds) == {"text"}]
    texts = [name for name in texts if not _is_identifier(name, summary)] or texts
    if len(texts) == 1:
        return {"text": texts[0]}
    if len(texts) < 2:
        return {}
    labels = [name for name in texts if _is_label(summary, name)]
    answer = _first_named(ANSWER_NAMES, texts) or (labels[0] if len(labels) == 1 else "")
    asked = [name for name in texts if name != answer]
    prompt = _first_named(PROMPT_NAMES, asked)
    if answer:
        return {"prompt": prompt or max(asked, key=lambda name: _length(summary, name)), "completion": answer}
    prompt = prompt or texts[0]
    return {"prompt": prompt, "completion": next(name for name in texts if name != prompt)}


def _first_named(names: Iterable[str], columns: Sequence[str]) -> str:
    """The first of these names that is a column, whatever its case; '' for none."""
    by_lower = {name.lower(): name for name in reversed(columns)}
    return next((by_lower[name] for name in names if name in by_lower), "")


def _is_identifier(name: str, summary: Summary) -> bool:
    """Whether a column has identifiers, dates or addresses: by its name, or by values, which are distinct words with
    digits."""
    values = [str(value) for raw in summary.sample if (value := raw.values.get(name)) not in (None, "")]
    coded = sum(len(value.split()) == 1 and any(map(str.isdigit, value)) for value in values)
    is_coded = min(coded, len(set(values))) > 0.9 * len(values)
    return bool(_IDENTIFIER.search(name)) or is_coded


def _length(summary: Summary, name: str) -> int:
    return max(map(len, summary.columns[name].examples))


def _is_label(summary: Summary, name: str) -> bool:
    distinct = summary.columns[name].distinct
    return distinct is not None and len(distinct) < summary.columns[name].rows


def media_columns(summary: Summary) -> list[str]:
    """Columns whose values are images, audio or video: bytes, or paths in a column with such a name."""
    columns = []
    for name in summary.filled:
        values = [raw.values[name] for raw in summary.sample if raw.values.get(name)]
        if values and all(_is_media(value, name.lower() in _NAMES) for value in values):
            columns.append(name)
    return columns


def _is_media(value: Any, named: bool) -> bool:
    if isinstance(value, list):
        return bool(value) and all(_is_media(item, named) for item in value)
    if isinstance(value, dict):
        return {"bytes", "path"} <= value.keys() or (named and any(_is_media(item, named) for item in value.values()))
    if isinstance(value, bytes | bytearray):
        return True
    return named and isinstance(value, str) and bool(_SUFFIXES.search(value))


def column_usage(detected: DetectedFormat, summaries: Iterable[Summary]) -> list[ColumnUse]:
    """Every column of all splits with its role; several roles are joined: `prompt, answer`."""
    rows: dict[str, int] = {}
    examples: dict[str, list[str]] = {}
    for summary in summaries:
        for name, column in summary.columns.items():
            rows[name] = rows.get(name, 0) + column.rows
            known = examples.setdefault(name, [])
            known += [example for example in column.examples if example not in known][: EXAMPLES - len(known)]
    return [
        ColumnUse(name, number, detected.roles.get(name, IGNORED) if number else "empty", examples[name])
        for name, number in rows.items()
    ]
