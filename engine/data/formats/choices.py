"""Multiple choice: a question, its options, and which of them is right, as a letter, a number or the option's text.

Options are a list, an object of labels and texts, text such as `a ) 38 , b ) 27`, or a column each (`A` to `D`,
`option1`, `sol1`). The options are part of the prompt with their letters, and the answer is a letter.
"""

from __future__ import annotations

import re
import string
from typing import Any

from engine.data.columns import as_text, column, is_empty
from engine.data.conversation import Answer, prompt_and_answer, text_of
from engine.data.formats import SYSTEMS, ColumnLookup, DataFormat, DetectedFormat
from engine.data.rows import Example, RawRow, UnusableRow, from_json

_QUESTIONS = (
    "question", "problem", "question_stem", "query", "sentence", "goal", "ctx", "stem", "prompt", "premise", "input",
)  # fmt: skip
_PASSAGES = ("passage", "article", "context", "story")
_OPTIONS = ("choices", "options", "endings", "candidates", "alternatives")
_ANSWERS = (
    "answerkey", "answer_key", "answer_idx", "answer_index", "answer_letter", "correct_option", "correct_answer",
    "correct", "cop", "answer", "label", "gold", "target",
)  # fmt: skip
_NUMBERED = re.compile(r"(?i)(option|opt|op|choice|answer|ending|solution|sol)?[ _-]?([a-f]|[0-5])")
"""The name of a column with one option: its label is the second group."""
_MARKED = re.compile(r"(?:^|(?<=[\s,;]))\(?([A-Fa-f]|[1-6])\s?[).:]\s*")
"""The label before an option in a text: `a ) 38`, `B. two`, `(C) 3`."""
LETTERS = string.ascii_uppercase

READINGS = ("label", "0", "1")
"""What numbers as answers mean, decided once from all rows: labels of options, or places counted from 0 or 1."""
Options = list[tuple[str, str]]
"""(label, text) of each option of a row; a label is '' if the option has none of its own."""


def detect(columns: ColumnLookup) -> DetectedFormat | None:
    question, answer = columns.find(*_QUESTIONS), columns.find(*_ANSWERS)
    names = _option_columns(columns)
    if question is None or answer is None or not names or {question, answer} & set(names):
        return None
    options = {f"option {label}": column(name) for name, label in names.items()}
    passage = columns.find(*(name for name in _PASSAGES if name != question.lower()))
    parts = {"question": column(question), **options, "completion": column(answer)}
    parts |= {"passage": column(passage)} if passage else {}
    sample = [raw for raw in columns.summary.sample if not is_empty(raw.values.get(answer))]
    found = DetectedFormat("choices", "", parts)
    fitting = {by: sum(_right(raw, found, by) is not None for raw in sample) for by in READINGS}
    by = max(READINGS, key=lambda reading: fitting[reading])  # the first one that fits most rows
    if 2 * fitting[by] < len(sample):
        return None
    why = (
        f"columns {question}, {', '.join(names)}, {answer}: choices (question and options -> prompt, letter -> answer)"
    )
    why += "; options are counted from 1" if by == "1" else ""
    return DetectedFormat("choices", why, parts | columns.optional_parts(system=SYSTEMS), base=by)


def _option_columns(columns: ColumnLookup) -> dict[str, str]:
    """Column -> label of its option; of a column with all options, ''."""
    if name := columns.find(*_OPTIONS):
        return {name: ""}
    stems: dict[str, dict[str, str]] = {}
    for name in columns.summary.filled:
        if match := _NUMBERED.fullmatch(name):
            stems.setdefault((match[1] or "").lower(), {})[name] = match[2].upper()
    groups = [names for stem, names in stems.items() if _are_consecutive(sorted(names.values()))]
    return max(groups, key=len, default={})


def _are_consecutive(labels: list[str]) -> bool:
    first = [ord(label) - number for number, label in enumerate(labels)]
    return len(labels) > 1 and len(set(first)) == 1 and labels[0] in ("A", "0", "1")


def convert(raw: RawRow, detected: DetectedFormat) -> Example:
    right, options = _right(raw, detected, detected.base), _options(raw, detected)
    if right is None:
        said = as_text(detected.parts["completion"].fill(raw.values))
        raise UnusableRow(
            "data.no_choice", f"the answer {said!r} is none of the {len(options)} options" if said else "no answer"
        )
    before = [detected.parts[role].fill(raw.values) for role in ("passage", "question") if role in detected.parts]
    listed = "\n".join(f"{LETTERS[number]}. {text}" for number, (_, text) in enumerate(options))
    prompt = "\n\n".join(text for value in before if (text := text_of(value, raw, "question")).strip())
    return prompt_and_answer(f"{prompt}\n{listed}", Answer(LETTERS[right]), raw, detected)


def _options(raw: RawRow, detected: DetectedFormat) -> Options:
    """The options of a row in order; [] if there are none or too many."""
    parts = {role.partition(" ")[2]: part for role, part in detected.parts.items() if role.startswith("option ")}
    if list(parts) == [""]:
        value = parts[""].fill(raw.values)
        if isinstance(value, str) and value[:1] in ("[", "{"):
            value = from_json(value, f"{raw.where} (options)")
        options = _read(value)
    else:
        options = [(label, as_text(part.fill(raw.values)).strip()) for label, part in parts.items()]
    options = [(label, text) for label, text in options if text]
    return options if 2 <= len(options) <= len(LETTERS) else []


def _read(value: Any) -> Options:
    """The options in one value."""
    if isinstance(value, str):
        pieces = _MARKED.split(value)
        pairs = zip(pieces[1::2], pieces[2::2], strict=True)
        return [(label.upper(), text.strip(" ,;\n")) for label, text in pairs]
    if isinstance(value, dict):
        texts, labels = value.get("text"), value.get("label")
        if isinstance(texts, list):  # ARC: {text: […], label: […]}
            labels = labels if isinstance(labels, list) and len(labels) == len(texts) else [""] * len(texts)
            return [(as_text(label), as_text(text)) for label, text in zip(labels, texts, strict=True)]
        return [(str(label), as_text(text)) for label, text in value.items() if text is not None]
    if not isinstance(value, list):
        return []
    if value and all(isinstance(item, dict) for item in value):  # [{label, text}, …]
        return [
            (as_text(item.get("label", item.get("key", ""))), as_text(item.get("text", item.get("value", ""))))
            for item in value
        ]
    texts = [as_text(item).strip() for item in value]
    marks = [_MARKED.match(text) for text in texts]
    if [mark[1].upper() for mark in marks if mark] == list(LETTERS[: len(texts)]):  # "A)21"
        return [
            (LETTERS[number], text[mark.end() :])
            for number, (text, mark) in enumerate(zip(texts, marks, strict=True))
            if mark
        ]
    return [("", text) for text in texts]


def _right(raw: RawRow, detected: DetectedFormat, by: str) -> int | None:
    """The number of the right option; None if it is none of them. by: one of READINGS."""
    options, value = _options(raw, detected), detected.parts["completion"].fill(raw.values)
    said = as_text(value[0] if isinstance(value, list) and len(value) == 1 else value).strip()
    if not said or not options:
        return None
    labels, texts = [label.upper() for label, _ in options], [text for _, text in options]
    letter = said.strip("().: ").upper()
    if by == "label" and labels.count(letter) == 1:
        return labels.index(letter)
    if texts.count(said) == 1:
        return texts.index(said)
    if len(letter) == 1 and letter in LETTERS[: len(options)]:
        return LETTERS.index(letter)
    number = letter.removesuffix(".0")
    if by != "label" and number.isdecimal() and 0 <= int(number) - int(by) < len(options):
        return int(number) - int(by)
    return None


FORMAT = DataFormat("choices", 35, detect, convert)
