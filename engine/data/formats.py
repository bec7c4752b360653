"""What the columns of a data set mean: which format its rows have, and why we think so."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from engine.contract.errors import Notice, UserError
from engine.contract.schema import Data
from engine.data.conversation import Example, Problem, converse
from engine.data.mapping import Template, column, listed, read_map
from engine.data.messages import turns_of
from engine.data.raw import Raw, described

__all__ = ["Example", "Format", "Problem", "agree", "converse", "detect"]

_CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "chat")
_PAIRS = (
    *(("prompt", answer) for answer in ("completion", "response", "answer", "output", "target", "chosen")),
    *(("question", answer) for answer in ("answer", "response", "solution", "completion", "output", "sql", "query")),
    *(("instruction", answer) for answer in ("response", "completion", "answer", "target")),
    ("instruction", "output"),
    *(("query", answer) for answer in ("response", "answer", "completion", "output")),
    *(("problem", answer) for answer in ("solution", "answer")),
    *(("input", answer) for answer in ("output", "target", "response", "answer")),
    ("source", "target"),
    ("user", "assistant"),
)
_TEXTS = (
    "text",
    "sentence",
    "utterance",
    "content",
    "review",
    "tweet",
    "message",
    "query",
    "question",
    "comment",
    "input",
)
_LABELS = ("label_text", "label_name", "category", "intent", "label", "class", "sentiment", "topic", "target", "tag")
_SYSTEMS = ("system", "system_prompt")
_TOLD = ("context", "passage", "document", "schema", "input", "choices", "options", "rejected")
"""Columns that usually belong to the prompt: leaving one out deserves a warning."""


@dataclass(frozen=True)
class Format:
    """How rows become conversations or text."""

    name: str
    """messages, prompt-completion, alpaca, sharegpt or text."""
    why: str
    parts: dict[str, Template]
    """Role (prompt, completion, system, text, messages, instruction, input, tools, history) -> what fills it."""
    separator: str | None = None
    warnings: list[Notice] = field(default_factory=list)


def detect(rows: list[Raw], data: Data) -> Format:
    """The format that `data` asks for or that the columns show.

    Raises UserError when they show none, or when data.format, data.map and data.separator contradict them.
    """
    counts = Counter(key for raw in rows for key, value in raw.values.items() if value is not None)
    columns = list(counts)
    if not columns:
        raise UserError("every row is empty", data.id, "give the rows columns")
    roles = read_map(data.map, columns)
    found = _mapped(roles, rows, data) if set(roles) - {"system"} else _detected(counts, rows, data)
    if data.separator is not None and found.name != "text":
        where = f"data.separator = {data.separator!r}"
        raise UserError(
            f"only text has a separator, and these rows are {found.name}", where, "drop it, or set data.format"
        )
    if "system" in roles:
        if found.name == "text":
            raise UserError(
                "text has no system message", "data.map.system", "put it into the template of data.map.text"
            )
        found.parts["system"] = roles["system"]
    agree(rows, found)
    return found


def agree(rows: list[Raw], found: Format) -> None:
    """Hold every used column to one type. UserError names the first row that differs from most."""
    for name in {name for part in found.parts.values() for name in part.columns}:
        kinds = Counter(_kind(raw.values.get(name)) for raw in rows if raw.values.get(name) is not None)
        if len(kinds) < 2:
            continue
        usual = kinds.most_common(1)[0][0]
        odd = next(raw for raw in rows if raw.values.get(name) is not None and _kind(raw.values[name]) != usual)
        what = f"{described(odd.values[name])} where most rows have {usual}"
        raise UserError(what, f"{odd.where} ({name})", "give the column one type")


def _kind(value: Any) -> str:
    return described(value)


def _mapped(roles: dict[str, Template], rows: list[Raw], data: Data) -> Format:
    """The format that the roles of data.map make up."""
    given = set(roles) - {"system"}
    names = {frozenset({"prompt", "completion"}): "prompt-completion", frozenset({"text"}): "text"}
    name = names.get(frozenset(given))
    if given == {"messages"}:
        name = _chat_style(roles["messages"], rows)
    if name is None:
        what = f"{' and '.join(sorted(given))} make no format"
        raise UserError(what, "data.map", "map prompt and completion, or text alone, or messages alone")
    if data.format not in ("auto", name):
        raise UserError(f"data.map makes {name}", f"data.format = {data.format!r}", "drop one of the two")
    shown = ", ".join(f"{role} = {roles[role].source!r}" for role in sorted(given))
    return Format(name, f"data.map says {shown}: {name}", {role: roles[role] for role in given}, data.separator)


def _detected(counts: Counter[str], rows: list[Raw], data: Data) -> Format:
    """The first format whose columns most rows have, or the one that data.format names."""
    usable = [name for name, count in counts.items() if count * 2 > len(rows)]
    by_lower = {name.lower(): name for name in reversed(usable)}
    finders = (_find_chat, _find_alpaca, _find_pair, _find_labels, _find_text)
    for finder in finders:
        found = finder(by_lower, rows)
        if found is None or data.format not in ("auto", found.name):
            continue
        if found.name in ("prompt-completion", "alpaca") and data.separator is not None and "text" in by_lower:
            continue  # a separator can only be meant for text
        return _finished(found, by_lower, list(counts), data)
    wanted = "no known format" if data.format == "auto" else f"no columns for {data.format}"
    do = f"say in the preset or with --set what they are: {_example(usable or list(counts), rows)}"
    raise UserError(f"{wanted} in columns {listed(counts)}", data.id, do)


def _example(columns: list[str], rows: list[Raw]) -> str:
    """A data.map that is likely meant: the first two columns of text, else the first and the last."""
    texts = [name for name in columns if any(isinstance(raw.values.get(name), str) for raw in rows)]
    if len(texts) == 1 or len(columns) == 1:
        return f'data.map = {{ text = "{(texts or columns)[0]}" }}'
    prompt, completion = texts[:2] if texts else (columns[0], columns[-1])
    return f'data.map = {{ prompt = "{prompt}", completion = "{completion}" }}'


def _finished(found: Format, by_lower: dict[str, str], columns: list[str], data: Data) -> Format:
    """Add a system column, the reason's tail about unused columns, and warnings for those that are likely missed."""
    parts = dict(found.parts)
    if found.name != "text":
        for name in _SYSTEMS:
            if name in by_lower:
                parts.setdefault("system", column(by_lower[name]))
    used = {name for part in parts.values() for name in part.columns}
    unused = [name for name in columns if name not in used]
    why = found.why + (f"; not used: {listed(unused)}" if unused else "")
    warnings = [
        Notice(
            "data.ignored_column",
            f"column {name} is not used; "
            f'data.map = {{ prompt = "{{{name}}}\\n\\n{{…}}", … }} would put it into the prompt',
        )
        for name in unused
        if name.lower() in _TOLD and found.name == "prompt-completion"
    ]
    return Format(found.name, why, parts, data.separator, found.warnings + warnings)


def _find_chat(columns: dict[str, str], rows: list[Raw]) -> Format | None:
    for name in _CHATS:
        if name in columns and not _is_plain(columns[name], rows):
            part = column(columns[name])
            style = _chat_style(part, rows)
            parts = {"messages": part} | ({"tools": column(columns["tools"])} if "tools" in columns else {})
            keys = "from, value" if style == "sharegpt" else "role, content"
            return Format(style, f"column {columns[name]} with {keys}: {style}", parts)
    return None


def _find_alpaca(columns: dict[str, str], rows: list[Raw]) -> Format | None:
    if not {"instruction", "output"} <= set(columns):
        return None
    names = [name for name in ("instruction", "input", "output", "history") if name in columns]
    parts = {("completion" if name == "output" else name): column(columns[name]) for name in names}
    return Format("alpaca", f"columns {', '.join(columns[name] for name in names)}: alpaca", parts)


def _find_pair(columns: dict[str, str], rows: list[Raw]) -> Format | None:
    for prompt, completion in _PAIRS:
        if prompt in columns and completion in columns:
            return _pair(columns[prompt], columns[completion])
    return None


def _find_labels(columns: dict[str, str], rows: list[Raw]) -> Format | None:
    text = next((columns[name] for name in _TEXTS if name in columns), None)
    label = next((columns[name] for name in _LABELS if name in columns and columns[name] != text), None)
    if text is None or label is None:
        return None
    found = _pair(text, label)
    seen = [raw.values.get(label) for raw in rows[:50]]
    if all(value is None or str(value).isdigit() for value in seen):
        text = f"the labels in {label} are numbers: names would teach the model more"
        found.warnings.append(Notice("data.numeric_labels", text))
    return found


def _find_text(columns: dict[str, str], rows: list[Raw]) -> Format | None:
    if "text" not in columns:
        return None
    return Format("text", f"column {columns['text']}: text", {"text": column(columns["text"])})


def _pair(prompt: str, completion: str) -> Format:
    why = f"columns {prompt}, {completion}: prompt-completion ({prompt} -> prompt, {completion} -> completion)"
    return Format("prompt-completion", why, {"prompt": column(prompt), "completion": column(completion)})


def _is_plain(name: str, rows: list[Raw]) -> bool:
    """Whether a column that might hold chats holds ordinary text instead."""
    value = next((raw.values[name] for raw in rows if raw.values.get(name) is not None), None)
    return not isinstance(value, list) and not (isinstance(value, str) and value.lstrip().startswith("["))


def _chat_style(part: Template, rows: list[Raw]) -> str:
    """messages or sharegpt, by the keys of the first turn there is."""
    for raw in rows:
        turns = turns_of(part.fill(raw.values), raw.where, part.source)
        if turns:
            return "sharegpt" if "from" in turns[0] and "role" not in turns[0] else "messages"
    raise UserError("every conversation is empty", f"column {part.source}", "give the rows messages")
