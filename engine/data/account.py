"""The account of a preparation: what was read, kept, cut, left out and noticed, in counts with places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from engine.contract.errors import Notice
from engine.contract.text import amount
from engine.data.conversation import EMPTY_TURN
from engine.data.format import Format, unread_keys
from engine.data.rendering import has_template
from engine.data.tokens import IGNORED

if TYPE_CHECKING:
    from engine.data.prepare import Survey

SPLITS = ("train", "validation", "test")
SHOWN = 5
"""Places that a count comes with."""


def about(done: Survey, tokenizer: Any) -> dict[str, Any]:
    """The counts of a preparation, JSON-able."""
    rows = done.rows
    notes = {name: counted([(note, row.where) for row in rows[name] for note in row.notes]) for name in SPLITS}
    problems = {name: counted([(bad.kind, bad.where) for bad in done.problems[name]]) for name in SPLITS}
    return {
        "source": done.source.about,
        "source_fingerprint": done.source.fingerprint,
        "files": done.source.files,
        "notes": done.source.notes,
        "format": done.format.name,
        "why": done.format.why,
        "template": _template(done.format, tokenizer),
        "split": done.split.about,
        "rows": {name: len(rows[name]) for name in SPLITS},
        "tokens": {name: sum(len(row.input_ids) for row in rows[name]) for name in SPLITS},
        "learnt": {name: sum(len(row.labels) - row.labels.count(IGNORED) for row in rows[name]) for name in SPLITS},
        "cut": {name: sum(row.cut for row in rows[name]) for name in SPLITS},
        "dropped": {name: found for name, found in problems.items() if found},
        "noticed": {name: found for name, found in notes.items() if found},
    }


def warnings(done: Survey, tokenizer: Any) -> list[Notice]:
    """What a person should know before the run, one sentence each."""
    told = [*done.format.warnings, *done.split.warnings]
    for name in SPLITS:
        for kind, found in counted([(bad.kind, bad.where) for bad in done.problems[name]]).items():
            text = f"{amount(found['rows'], f'{name} row')} left out: {kind} (first: {found['where'][0]})"
            told.append(Notice("data.rows_left_out", text))
        cut = [row.where for row in done.rows[name] if row.cut]
        if cut:
            text = f"{len(cut):,} of {len(done.rows[name]):,} {name} rows cut at max_length (first: {cut[0]})"
            told.append(Notice("data.rows_cut", text))
    noticed = counted([(note, row.where) for name in SPLITS for row in done.rows[name] for note in row.notes])
    for kind, found in noticed.items():
        code, meaning = _MEANINGS[kind]
        told.append(Notice(code, f"{amount(found['rows'], 'row')}: {meaning} (first: {found['where'][0]})"))
    template = str(getattr(tokenizer, "chat_template", None) or "")
    told += unread_keys(done.format, template)
    if "strftime_now" in str(getattr(tokenizer, "chat_template", "")):
        text = "the chat template writes today's date into every prompt: a rerun on another day differs"
        told.append(Notice("data.template_writes_date", text))
    return told


_MEANINGS = {
    EMPTY_TURN: (
        EMPTY_TURN,
        "an answer in the middle of the conversation is empty: it is not in the loss",
    ),
    "no end token": (
        "data.no_end_token",
        "no end-of-turn token after the answer: the model may not learn to stop",
    ),
    "two beginning-of-text tokens": (
        "data.double_bos",
        "two beginning-of-text tokens: the text or the template adds a second one",
    ),
    "history rewritten by the template": (
        "data.history_rewritten",
        "the template rewrites earlier turns: only the last answer is in the loss",
    ),
    "opens with an answer": (
        "data.opens_with_answer",
        "the conversation starts with an assistant message: it is not in the loss",
    ),
    "special token in the text": (
        "data.special_token_in_text",
        "the text itself contains a special token of the model",
    ),
    "token across the answer's beginning": (
        "data.token_across_boundary",
        "a token would span the end of the prompt and the start of the answer: they are tokenized separately",
    ),
}
"""Note on a row -> code and text of its warning."""


def counted(found: list[tuple[str, str]]) -> dict[str, dict[str, Any]]:
    """(kind, where) pairs -> kind -> {"rows": n, "where": the first five}."""
    counts: dict[str, dict[str, Any]] = {}
    for kind, where in found:
        entry = counts.setdefault(kind, {"rows": 0, "where": []})
        entry["rows"] += 1
        if len(entry["where"]) < SHOWN:
            entry["where"].append(where)
    return counts


def _template(found: Format, tokenizer: Any) -> str:
    if found.name == "text":
        return "plain text, closed by the end token"
    if has_template(tokenizer):
        return "the tokenizer's chat template"
    return "no chat template: prompt and completion joined as plain text, closed by the end token"
