"""The prompt of a judge for one pair of answers, and the verdict that its answer contains."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Literal

from engine.runs.preference.answers import readable, text_hash
from engine.runs.run.predictions import PredictionLine

Verdict = Literal["first", "second", "tie"]
FOLDER = Path(__file__).parent
MAX_CHARACTERS = 24_000
"""Longest answer or question that a judge reads in full; of a longer one the end is left out, and the judge is told."""
SPECIAL = re.compile(r"<(?=[|｜/]?[a-z_]+[|｜]?>|[|｜]|start_of_turn|end_of_turn)|\[(?=/?INST\])", re.IGNORECASE)
"""Starts of the tokens of chat templates: a server would read them as the end of the prompt."""
VERDICT_LINE = re.compile(
    r"[*_#>\s]*(?:final )?verdict\s*[*_]*\s*:?\s*[*_\[\"'(]*\s*(A|B|tie)\b\s*[*_\])\"'.!]*", re.IGNORECASE
)
ANY_VERDICT = re.compile(r"verdict\s*[*_]*\s*:", re.IGNORECASE)


@cache
def default_rubric() -> str:
    """The rubric that is used without `--rubric`."""
    return (FOLDER / "rubric.txt").read_text("utf-8").strip()


@cache
def prompt_template() -> str:
    """The prompt with places for rubric, question, references and answers."""
    return (FOLDER / "prompt.txt").read_text("utf-8").strip()


def comparison_prompt(rubric: str, item: PredictionLine, first: str, second: str) -> str:
    """The prompt for one order of two answers.

    Its marks contain a hash of all texts, so no text can contain them and pretend to end its part.
    """
    texts = {
        "rubric": rubric.strip(),
        "question": _data(readable(item.prompt)),
        "references": _references(item),
        "first": _data(first),
        "second": _data(second),
    }
    mark = text_hash(*texts.values())[:12]
    texts["references"] = _references(item, mark)
    pattern = re.compile(r"\{(rubric|question|references|first|second|mark)\}")
    return pattern.sub(lambda field_match: (texts | {"mark": mark})[field_match[1]], prompt_template())


def read_verdict(text: str) -> Verdict | None:
    """The verdict on the last line of a judge's answer that has one; None if it is not in the requested form.

    Different verdicts on several lines are none: such an answer can be a quote of what it was told to say. Reasoning
    before the answer is not read, and an answer that ends within its reasoning has no verdict.
    """
    text = text.rpartition("</think>")[2]
    if "<think>" in text:
        return None
    verdict_words: dict[str, None] = {}
    for line in text.strip().splitlines():
        if match := VERDICT_LINE.fullmatch(line.strip()):
            verdict_words[match[1].lower()] = None
        elif ANY_VERDICT.match(line.strip(" *_#>")):
            verdict_words[line.strip()] = None  # `Verdict: C`, `Verdict: A and B`
    verdicts: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}
    return verdicts.get(next(iter(verdict_words))) if len(verdict_words) == 1 else None


def _references(item: PredictionLine, mark: str = "") -> str:
    """The accepted answers, '' without any."""
    texts = [_data(text) for text in item.targets if text.strip()]
    head = "reference answer" if len(texts) == 1 else "reference answers, each correct"
    return f"\n[{head} {mark}]\n" + "\n\n".join(texts) + f"\n[end of reference {mark}]\n" if texts else ""


def _data(text: str) -> str:
    """A text of data or model: without control characters and tokens of chat templates, at most MAX_CHARACTERS."""
    shown = "".join(character for character in text if character in "\n\t" or character.isprintable())
    shown = SPECIAL.sub(lambda token: f"{token[0]} ", shown).strip()
    if len(shown) > MAX_CHARACTERS:
        shown = f"{shown[:MAX_CHARACTERS]}\n[{len(shown) - MAX_CHARACTERS} more characters are not shown]"
    return shown or "[empty]"
