"""What a judge is asked about one pair of answers, and who answers: a served model, or one on this machine."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, Protocol

from engine.config.reasoning import REASONING_TAGS, without_reasoning
from engine.extensions.judge.pairs import readable
from engine.extensions.judge.preferences import JudgePlan
from engine.runs.endpoint import ChatAnswer, EndpointClient, EndpointRefusal, parse_endpoint
from engine.runs.ladder.answers import text_hash
from engine.runs.run.predictions import PredictionLine

FOLDER = Path(__file__).parent
MAX_CHARACTERS = 24_000
"""Longest answer or question that a judge reads in full; of a longer one the end is left out, and the judge is told."""
SPECIAL = re.compile(r"<(?=[|｜/]?[a-z_]+[|｜]?>|[|｜]|start_of_turn|end_of_turn)|\[(?=/?INST\])", re.IGNORECASE)
"""Starts of the tokens of chat templates: a server would read them as the end of the prompt."""
Verdict = Literal["first", "second", "tie"]
VERDICT_LINE = re.compile(
    r"[*_#>\s]*(?:final )?verdict\s*[*_]*\s*:?\s*[*_\[\"'(]*\s*(A|B|tie)\b\s*[*_\])\"'.!]*", re.IGNORECASE
)
ANY_VERDICT = re.compile(r"verdict\s*[*_]*\s*:", re.IGNORECASE)
CHARACTERS_PER_TOKEN = 3.0
"""To estimate tokens: English text has about 4, code and other languages fewer."""


@cache
def default_rubric() -> str:
    """The rubric that is used without `--rubric`."""
    return (FOLDER / "rubric.txt").read_text("utf-8").strip()


@cache
def prompt_template() -> str:
    """The prompt with places for rubric, question, references and answers."""
    return (FOLDER / "prompt.txt").read_text("utf-8").strip()


def comparison_prompt(
    rubric: str, item: PredictionLine, first: str, second: str, tags: Sequence[str] = REASONING_TAGS
) -> str:
    """The prompt for one order of two answers.

    Its marks contain a hash of all texts, so no text can contain them and pretend to end its part.

    Args:
        tags: What precedes and follows reasoning, which is removed from the reference answers.
    """
    texts = {
        "rubric": rubric.strip(),
        "question": _data(readable(item.prompt)),
        "references": _references(item, tags),
        "first": _data(first),
        "second": _data(second),
    }
    mark = text_hash(*texts.values())[:12]
    texts["references"] = _references(item, tags, mark)
    pattern = re.compile(r"\{(rubric|question|references|first|second|mark)\}")
    return pattern.sub(lambda field_match: (texts | {"mark": mark})[field_match[1]], prompt_template())


def _references(item: PredictionLine, tags: Sequence[str], mark: str = "") -> str:
    """The accepted answers, '' without any."""
    texts = [_data(text) for target in item.targets if (text := without_reasoning(target, tags)).strip()]
    head = "reference answer" if len(texts) == 1 else "reference answers, each correct"
    return f"\n[{head} {mark}]\n" + "\n\n".join(texts) + f"\n[end of reference {mark}]\n" if texts else ""


def _data(text: str) -> str:
    """A text of data or model: without control characters and tokens of chat templates, at most MAX_CHARACTERS."""
    shown = "".join(character for character in text if character in "\n\t" or character.isprintable())
    shown = SPECIAL.sub(lambda token: f"{token[0]} ", shown).strip()
    if len(shown) > MAX_CHARACTERS:
        shown = f"{shown[:MAX_CHARACTERS]}\n[{len(shown) - MAX_CHARACTERS} more characters are not shown]"
    return shown or "[empty]"


def read_verdict(text: str) -> Verdict | None:
    """The verdict on the last line of a judge's answer that has one; None if it is not in the requested form.

    Different verdicts on several lines are none: such an answer can be a quote of what it was told to say. Reasoning
    before the answer is not read, and an answer that ends within its reasoning has no verdict.
    """
    verdict_words: dict[str, None] = {}
    for line in without_reasoning(text).strip().splitlines():
        if match := VERDICT_LINE.fullmatch(line.strip()):
            verdict_words[match[1].lower()] = None
        elif ANY_VERDICT.match(line.strip(" *_#>")):
            verdict_words[line.strip()] = None  # `Verdict: C`, `Verdict: A and B`
    verdicts: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}
    return verdicts.get(next(iter(verdict_words))) if len(verdict_words) == 1 else None


@dataclass(frozen=True)
class Question:
    """One prompt of the judge."""

    key: str
    """Hash of judge and prompt."""
    prompt: str

    @property
    def tokens(self) -> int:
        """Estimated tokens of the prompt."""
        return int(len(self.prompt) / CHARACTERS_PER_TOKEN) + 8


Reply = tuple[Question, ChatAnswer | EndpointRefusal]
"""A question with the judge's answer, or why it refused to give one."""
Replies = Generator[Reply, None, None]
"""In the order of arrival; closing it ends the work."""


class Judge(Protocol):
    """Who answers: a served model, or one on this machine."""

    def answers(self, questions: Iterable[Question], check: Callable[[], None]) -> Replies:
        """The replies as they arrive. `check` is called while the judge works; an error that it raises ends the work.

        UserError and RunFailed end the judgment.
        """


class ServedJudge:
    """A judge behind an endpoint."""

    def __init__(self, plan: JudgePlan) -> None:
        judge = parse_endpoint(plan.judge, "--judge")
        self._client = EndpointClient(judge, plan.timeout, plan.concurrency, plan.patience)
        self._max_tokens = plan.answer_tokens
        self._mutex = threading.Lock()
        self.retries, self.failure = 0, ""
        """Attempts that failed and were repeated; why the latest one failed, '' after an answer."""

    def answers(self, questions: Iterable[Question], check: Callable[[], None]) -> Replies:
        """As `Judge`. Raises UserError for a wrong key or model, RunFailed if the server does not answer."""
        with contextlib.closing(self._client):
            self._client.check(check)
            yield from self._client.ask_all(questions, self._ask, check)

    def _ask(self, question: Question) -> Reply:
        """In a thread."""

        def tried(why: str) -> None:
            with self._mutex:
                self.retries += 1
            self.failure = f"{why} (see --timeout and --concurrency)"
            print(why, flush=True)

        try:
            answer = self._client.chat([{"role": "user", "content": question.prompt}], self._max_tokens, tried)
        except EndpointRefusal as error:
            return question, error
        self.failure = ""
        return question, answer
