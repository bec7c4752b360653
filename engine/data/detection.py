"""Detect the format of a dataset, and check that all its files have the columns of that format.

Where the format is unclear, the error suggests settings that were tried on the rows. The module also converts rows to
conversations and previews a dataset without a tokenizer, with the same steps as `prepare`, so that the results agree.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import chain, islice
from typing import Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.schema import Data
from engine.data.columns import ColumnTemplate, Summary, did_you_mean, list_columns, read_map
from engine.data.conversation import ANSWER_LISTS, to_example
from engine.data.formats import OPTIONAL, ColumnLookup, DetectedFormat, data_formats
from engine.data.formats.messages import chat_style
from engine.data.guesses import guess_map
from engine.data.readers.message_trees import TREE
from engine.data.rows import SHOWN, Example, Problem, RawRow
from engine.data.source import read, reading_decisions, summary_of

_NAMES = {"image", "images", "audio", "audios", "video", "videos", "picture", "pictures", "photo", "photos", "img"}
_SUFFIXES = re.compile(
    r"\.(png|jpe?g|gif|webp|bmp|tiff?|wav|mp3|flac|ogg|m4a|mp4|avi|mov|mkv|webm)(\?.*)?$|^data:(image|audio|video)/",
    re.IGNORECASE,
)
_EXTRA_ROLES = frozenset(("system", "tools", "references"))
"""Roles of data.map that add to a format instead of defining it."""
_SELECTING = ("prompt", "completion", "messages")
"""Roles with which `data.map` selects the text of rows that also have images, audio or video."""
_GUESS = "a guess to confirm:"
TRIED = 300
"""Maximum rows on which a suggestion is tried."""
_TRIED_LENGTH = 32 << 20
"""Maximum total characters of these rows."""
ANSWER_NAMES = (
    "summary", "highlights", "answer", "response", "output", "completion", "target", "final_decision", "long_answer",
    "solution", "reply", "translation", "correct_answer", "label",
)  # fmt: skip
"""Names of columns that look like an answer, the most telling first."""
_BESIDE_TEXT = (
    *ANSWER_NAMES,
    "labels",
    "answers",
    "targets",
    "tags",
    "categories",
    "code",
    "sql",
    "query",
    "entities",
    "folder",
)
"""Names of columns that look like the answer to a column of texts."""
_TREE = ("parent_id", "role", "text")
"""Columns of rows that each are one message of a conversation, as in OpenAssistant."""
_LIKELY_PROMPT = ("context", "passage", "document", "schema", "input", "choices", "options", "text", "title")
"""Names of columns that usually belong to the prompt."""
_BARE = re.compile(r"[A-Za-z_][\w.-]*")
SHOWN_ROWS = 3
"""Rows shown as they would be trained with suggested settings."""
SAMPLE_ROWS = 100
"""Training rows from which end tokens and system prompt are taken."""


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
        result = _try_settings(rows, data, error.changes)
        if result is None:
            raise
        hint = f"{error.intro} {_as_options(error.changes)} ({result})"
        raise UserError(error.problem, error.location, hint, code=error.code) from error
    if detected.name != "prompt-completion" or data.map:
        return detected
    # Suggest adding an ignored column to the prompt if its name indicates context.
    likely = [name for name, role in detected.roles.items() if role == "ignored" and name.lower() in _LIKELY_PROMPT]
    prompt, completion = detected.parts["prompt"].lone, detected.parts["completion"].lone
    if likely and prompt is not None and completion is not None:
        changes = {"map": {"prompt": f"{{{likely[0]}}}\n\n{{{prompt}}}", "completion": completion}}
        if result := _try_settings(rows, data, changes):
            text = f"to add column {likely[0]} to the prompt: {_as_options(changes)} ({result})"
            return replace(detected, warnings=[*detected.warnings, Notice("data.prompt_suggestion", text)])
    return detected


def recognize(rows: Iterable[RawRow], data: Data) -> DetectedFormat:
    """The format that `data` sets or that the columns suggest. Raises UserError (Undecided) as `detect`."""
    names = ["auto", *data_formats()]
    if data.format not in names:
        problem = f"unknown format {data.format!r}{did_you_mean(data.format, names)}"
        raise UserError(problem, "data.format", f"use one of {', '.join(names)}", code="data.unknown_format")
    summary = summary_of(rows)
    if not summary.filled:
        raise UserError("every row is empty", data.id, "add columns to the rows", code="data.empty_rows")
    roles = read_map(data.map, list(summary.columns))
    if set(roles) - _EXTRA_ROLES:
        detected = _mapped(roles, ColumnLookup(summary, data), data)
    else:
        detected = _detected(rows, summary, data)
    data_format = data_formats()[detected.name]
    if data_format.ambiguity and data.format != detected.name:
        hint, changes = "write the rows to train on to a separate file", {"format": detected.name}
        raise Undecided(data_format.ambiguity, data.id, hint, "data.preference_data", changes, data_format.offer)
    if detected.is_guess and data.format == "auto":
        mapped = {"map": {role: detected.parts[role].source for role in ("prompt", "completion")}}
        what = f"the columns do not say which of them is the answer (columns {list_columns(summary.filled)})"
        raise Undecided(what, data.id, f"set {_as_options(mapped)}", "data.guessed_map", mapped, _GUESS)

    if detected.name == "text" and data.format == "auto" and not data.map and data.separator is None:
        _refuse_lost_answers(ColumnLookup(summary, data), detected, data)

    # What data.map adds to the format.
    if data.separator is not None and detected.name != "text":
        problem = f"data.separator is for the format text, and the format is {detected.name}"
        where = f"data.separator = {data.separator!r}"
        raise UserError(problem, where, "remove it, or set data.format", code="data.separator_unread")
    extras = {role: part for role, part in roles.items() if role in _EXTRA_ROLES}
    if extras and detected.name == "text":
        role = next(iter(extras))
        hint = "insert it into the template of data.map.text"
        raise UserError(f"the format text has no {role}", f"data.map.{role}", hint, code="data.map_unread")
    detected = replace(detected, parts=detected.parts | extras)

    # The text refers to media columns, so they are refused unless data.map selects the text explicitly.
    media = [] if data.map else _media_columns(summary)
    if media:
        name = media[0]
        asked = {role: part.source for role, part in detected.parts.items() if role in _SELECTING}
        rows_with = f"{summary.columns[name].rows:,} of {summary.rows:,} rows"
        what = f"column {name} contains images, audio or video in {rows_with}, but only text is supported"
        intro = f"remove the column {name}, or train on the text alone:"
        raise Undecided(what, data.id, f"remove the column {name}", "data.media_column", {"map": asked}, intro)

    group = _group_column(summary, data) or (TREE if TREE in summary.filled else "")
    reasons = [detected.why, *reading_decisions(rows)]
    used = detected.reported_roles(list(summary.columns))
    if group:
        as_read = ", numbers read as text" if "a number" in summary.columns[group].kinds else ""
        reasons.append(
            f"{f'data.group = {group!r}' if data.group else f'column {group}'}: its rows stay in one split{as_read}"
        )
        used[group] = ", ".join(filter(None, [used.get(group, ""), "group"]))
    columns = {name: used.get(name, "ignored") if column.rows else "empty" for name, column in summary.columns.items()}
    warnings = [*detected.warnings]
    for name in (name for name, role in columns.items() if role == "ignored"):
        column = summary.columns[name]
        examples = ", ".join(f"'{text}'" for text in column.examples)
        rows_with = f"{column.rows:,} of {summary.rows:,} rows have a value"
        warnings.append(
            Notice("data.ignored_column", f"column {name} is ignored ({rows_with}, for example {examples})")
        )
    detected = replace(detected, group=group, why="; ".join(reasons), roles=columns, warnings=warnings)
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
    if len({tuple(sorted(filled)) for filled in summary.parts.values()}) > 1:
        raise _differ("", summary, None)
    what = "unknown format" if data.format == "auto" else f"no columns of the format {data.format}"
    what = "; ".join([*reading_decisions(rows), what]) + f" (columns {list_columns(summary.filled)})"
    guess = guess_map(summary)
    hint = (
        "map the columns with --set data.map.prompt=COLUMN --set data.map.completion=COLUMN; if none has the answers, "
    )
    hint += "add a column of them"
    if guess.mapping:
        intro = f"a guess to confirm, because of {guess.reason}:" if "completion" in guess.mapping else _GUESS
        raise Undecided(what, data.id, hint, "data.no_format", {"map": guess.mapping, "format": "auto"}, intro)
    if guess.likely:
        example = _as_options({"map": {"prompt": guess.prompt, "completion": guess.likely[0]}})
        hint = f"say which column is the answer, the most likely first: {list_columns(guess.likely)}; such as {example}"
    raise UserError(what, data.id, hint, code="data.no_format")


def _refuse_lost_answers(columns: ColumnLookup, detected: DetectedFormat, data: Data) -> None:
    """Raise UserError if a column looks like the answer to the texts, or rows are single messages of conversations."""
    alone = "--set data.format=text trains on the texts only"
    if all(columns.optional(name) for name in _TREE):
        problem = f"each row is one message of a conversation (columns {', '.join(_TREE)})"
        hint = f"add message_id, which parent_id of other rows refers to, or write one row per conversation; {alone}"
        raise UserError(problem, data.id, hint, code="data.flat_messages")
    text = detected.parts["text"].source
    answer = columns.find(*(name for name in _BESIDE_TEXT if name != text.lower()))
    if answer:
        is_text = columns.kinds(answer) <= {"text", "a number", "a boolean"} and answer.lower() not in ANSWER_LISTS
        mapped = {"map": {"prompt": text, "completion": answer if is_text else f"{{{answer}}}"}}
        problem = f"column {answer} looks like the answer to column {text}"
        hint = f"set {_as_options(mapped)}; {alone}"
        raise Undecided(problem, data.id, hint, "data.text_and_answer", mapped, f"{alone}; {_GUESS}")


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

    # A list of texts as answer: several accepted answers, or one. A template with braces trains its text.
    answer = roles["completion"].source if "completion" in roles else ""
    is_clear = answer.lower() in ANSWER_LISTS or ("references" in roles and roles["references"].lone == answer)
    for raw in [] if is_clear else columns.summary.sample:
        value = raw.values.get(answer)
        if isinstance(value, list) and value and all(isinstance(item, str | int | float) for item in value):
            problem = "the answer is a list: several accepted answers, or one answer"
            literal = _as_options({"map": {"completion": f"{{{answer}}}"}})
            several = _as_options({"map": {"references": answer}})
            hint = f"{several} accepts any of them; {literal} trains the list as JSON text"
            raise UserError(problem, f"{raw.where} ({answer})", hint, code="data.list_answer")

    shown = ", ".join(f"{role} = {roles[role].source!r}" for role in sorted(given))
    parts = {role: part for role, part in roles.items() if role in given}
    return DetectedFormat(name, f"data.map sets {shown}: {name}", parts, data.separator)


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
    problem = "the files differ in their columns: " + "; ".join(shown[:4]) + (" …" if len(shown) > 4 else "")
    if detected is not None and len(shown) == 1:
        used = [name for name, role in detected.roles.items() if role not in ("ignored", "empty")]
        own = list_columns(summary.parts[part])
        problem = f"the columns are {own}, and those of the training rows {list_columns(used)}"
    hint = "use one of the files, or give all of them the same columns"
    return UserError(problem, part, hint, code="data.files_differ")


def _try_settings(rows: Iterable[RawRow], data: Data, changes: dict[str, Any]) -> str | None:
    """The result of changed settings ("299 of the first 300 rows usable"); None if no row is usable."""
    sample: list[RawRow] = []
    length = 0
    for raw in islice(rows, TRIED):
        sample.append(raw)
        length += sum(len(str(value)) for value in raw.values.values())
        if length > _TRIED_LENGTH:
            break
    try:
        detected = recognize(sample, msgspec.structs.replace(data, **changes))
        trained = sum(isinstance(to_example(raw, detected), Example) for raw in sample)
    except UserError:
        return None
    if not trained:
        return None
    first = "the first " if summary_of(rows).rows > len(sample) else ""
    return f"{trained:,} of {first}{len(sample):,} rows usable"


def _as_options(changes: dict[str, Any]) -> str:
    """The settings as shell options: `--set data.format=chosen`. A map becomes one option per role."""
    flat = {f"map.{role}": source for role, source in changes.get("map", {}).items()}
    flat |= {key: value for key, value in changes.items() if key != "map" and (key, value) != ("format", "auto")}
    options = []
    for key, value in flat.items():
        text = str(value)  # a TOML value; bare words are not quoted
        if not _BARE.fullmatch(text) or text in ("true", "false", "inf", "nan"):
            text = json.dumps(text, ensure_ascii=False)
        options.append(f"--set {shlex.quote(f'data.{key}={text}')}")
    return " ".join(options)


def _media_columns(summary: Summary) -> list[str]:
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


def training_examples(data: Data) -> list[Example]:
    """The first training rows. Raises UserError if the data cannot be read."""
    return list(islice(examples_of(data, ("train",)), SAMPLE_ROWS))


def examples_of(data: Data, splits: tuple[str, ...] | None = None) -> Iterator[Example]:
    """The usable rows of some given splits, or of all, in reading order."""
    source = read(data)
    detected = detect(source.train, data)
    for name, rows in source.splits.items():
        if splits is None or name in splits:
            for raw in rows:
                if isinstance(example := to_example(raw, detected), Example):
                    yield example


def system_prompt(examples: list[Example]) -> str:
    """The system prompt that all of these rows have; '' if they have none or different ones."""
    prompts = {
        example.messages[0]["content"] if example.messages and example.messages[0]["role"] == "system" else ""
        for example in examples
    }
    return str(prompts.pop()) if len(prompts) == 1 else ""


def preview(data: Data) -> dict[str, Any]:
    """Rows by given split, the format and its reason, unusable rows by kind with places. JSON-able.

    Where the format is unclear and settings of `data` are known that make it clear, the error with these settings and
    the first rows as they would then be trained. Raises UserError for other unreadable or unknown data.
    """
    source = read(data)
    try:
        detected = detect(source.train, data)
    except UserError as error:
        if not isinstance(undecided := error.__cause__, Undecided):
            raise
        recognized = recognize(source.train, msgspec.structs.replace(data, **undecided.changes))
        usable = (example for raw in source.train if isinstance(example := to_example(raw, recognized), Example))
        return {
            "error": error.line,
            "columns": [{"name": name, "role": ""} for name in source.train.summary.columns],
            "suggested": {key: value for key, value in undecided.changes.items() if (key, value) != ("format", "auto")},
            "examples": [
                [[str(message["role"]), str(message.get("content") or "")] for message in example.messages]
                if example.messages is not None
                else [["prompt", example.prompt or ""], ["completion", example.completion or ""]]
                for example in islice(usable, SHOWN_ROWS)
            ],
        }
    given = source.splits
    for rows in given.values():
        check_columns(rows, detected)
    kinds: dict[str, dict[str, Any]] = {}
    for raw in chain.from_iterable(given.values()):
        if isinstance(problem := to_example(raw, detected), Problem):
            entry = kinds.setdefault(problem.kind, {"rows": 0, "where": []})
            entry["rows"] += 1
            if len(entry["where"]) < SHOWN:
                entry["where"].append(f"{problem.where}: {problem.what}")
    return {
        "rows": {name: rows.summary.rows for name, rows in given.items()},
        "format": detected.name,
        "why": detected.why,
        "columns": [{"name": name, "role": role} for name, role in detected.roles.items()],
        "unusable": sum(kind["rows"] for kind in kinds.values()),
        "kinds": kinds,
        "warnings": [msgspec.to_builtins(notice) for notice in detected.warnings],
    }
