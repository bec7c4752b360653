"""What a judge is asked about one pair of answers, and who answers: a served model, or one on this machine.

A model on this machine has a worker of its own (`engine.worker.judge_server`). Messages are JSON objects, one per line,
both ways. The worker takes its turn in the device queue, loads the model once, and answers what has arrived together.
It ends with the judge's process.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from engine.config.errors import RunFailed
from engine.config.reasoning import REASONING_TAGS, without_reasoning
from engine.runs.chat_client import RequestRefused, SessionFailed
from engine.runs.endpoint import ChatAnswer, EndpointClient, EndpointRefusal, parse_endpoint
from engine.runs.ladder.preferences import JudgePlan
from engine.runs.preference.answers import readable, text_hash
from engine.runs.preference.judge_dir import JudgeDir
from engine.runs.queue.device_queue import JUDGE
from engine.runs.rpc_client import encoded_line, exit_reason, message_lines, send_line, start_server
from engine.runs.run.predictions import PredictionLine
from engine.runs.stopping import StopRequest

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
POLL_SECONDS = 0.1


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


class ServedJudge:
    """A judge behind an endpoint; several threads call `ask`."""

    def __init__(self, plan: JudgePlan) -> None:
        self._client = EndpointClient(parse_endpoint(plan.judge, "--judge"), plan.timeout, plan.concurrency)
        self._mutex = threading.Lock()
        self.retries, self.failure = 0, ""
        """Attempts that failed and were repeated; why the latest one failed, '' after an answer."""

    def open(self, stopping: StopRequest, waiting: Callable[[str], None]) -> None:
        """Check the endpoint. Raises UserError for a wrong key or model, RunFailed if the server does not answer."""
        self._client.check()

    def ask(self, prompt: str, max_tokens: int) -> ChatAnswer:
        """Raises EndpointRefusal for this prompt only; UserError and RunFailed end the judgment."""

        def tried(why: str) -> None:
            with self._mutex:
                self.retries += 1
            self.failure = f"{why} (see --timeout and --concurrency)"
            print(why, flush=True)

        answer = self._client.chat([{"role": "user", "content": prompt}], max_tokens, tried)
        self.failure = ""
        return answer

    def stop(self) -> None:
        self._client.stop()

    def close(self) -> None:
        self._client.close()


class OpenJudge(Struct, frozen=True, kw_only=True, tag=True):
    """Load the model. The first request."""

    model: str
    """As `model.id`."""
    device: int | str
    """As `hardware.device`."""
    place: str
    """Path under which the worker is in the device queue."""
    batch: int
    """Prompts that are answered at a time."""
    answer_tokens: int
    """Maximum tokens of an answer."""


class JudgePrompt(Struct, frozen=True, kw_only=True, tag=True):
    """Answer one prompt."""

    number: int
    """Repeated in its answer."""
    prompt: str


class JudgeNote(Struct, frozen=True, tag=True):
    """Waiting in the device queue, or loading."""

    text: str


class JudgeReady(Struct, frozen=True, tag=True):
    """The model is loaded."""

    device: str


class JudgeAnswer(Struct, frozen=True, kw_only=True, tag=True):
    """The answer to one prompt, or why there is none."""

    number: int
    answer: ChatAnswer | None = None
    refused: str = ""


JudgeRequest: TypeAlias = OpenJudge | JudgePrompt
JudgeMessage: TypeAlias = JudgeNote | JudgeReady | JudgeAnswer | RequestRefused | SessionFailed


class LocalJudge:
    """A judge in a worker of its own; several threads call `ask`."""

    retries, failure = 0, ""

    def __init__(self, folder: JudgeDir, plan: JudgePlan) -> None:
        self._opening = OpenJudge(
            model=plan.judge,
            device=plan.device,
            place=str(folder.subject.path / JUDGE),
            batch=plan.concurrency,
            answer_tokens=plan.answer_tokens,
        )
        self._log = folder.log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()
        self._pending: dict[int, Future[ChatAnswer]] = {}
        self._mutex = threading.Lock()
        self._ended: Exception | None = None
        """Why no more answers will come."""
        self._ready = threading.Event()
        self._note = ""
        """What the worker waits for."""
        self._reader = threading.Thread(target=self._read, daemon=True, name="judge's answers")

    def open(self, stopping: StopRequest, waiting: Callable[[str], None]) -> None:
        """Start the worker and wait until the model is loaded; in the main thread, with which the worker ends.

        Raises UserError for a model that cannot be loaded, RunFailed if the worker fails, and StopRequested.
        """
        try:
            with self._log.open("ab") as log:
                self._process = start_server("engine.worker.judge_server", log)
        except OSError as error:
            raise RunFailed(f"cannot start the judge's worker: {error.strerror}", "system.no_process") from error
        self._send(self._opening)
        self._reader.start()
        shown = ""
        while not self._ready.wait(POLL_SECONDS):
            if self._ended is not None:
                raise self._ended
            stopping.check()
            if shown != self._note:
                waiting(shown := self._note)
        waiting("")

    def ask(self, prompt: str, max_tokens: int) -> ChatAnswer:
        """Raises EndpointRefusal for a prompt that is too long for the model, and what ended the worker."""
        answer: Future[ChatAnswer] = Future()
        with self._mutex:
            if self._ended is not None:
                raise self._ended
            number = next(self._numbers)
            self._pending[number] = answer
            self._send(JudgePrompt(number=number, prompt=prompt))
        return answer.result()

    def stop(self) -> None:
        """End the worker: prompts that it has not answered yet fail."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """Wait for the end of the worker: its memory is free."""
        if self._process is None:
            return
        self._process.kill()
        self._process.wait()
        if self._reader.is_alive():
            self._reader.join()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with contextlib.suppress(OSError):
                stream.close()

    def _send(self, request: JudgeRequest) -> None:
        assert self._process is not None
        send_line(self._process, encoded_line(msgspec.to_builtins(request)))

    def _read(self) -> None:
        """Pass on the worker's messages until it ends; then fail what it has not answered."""
        assert self._process is not None
        ended: Exception | None = None
        try:
            for line in message_lines(self._process):
                message = msgspec.json.decode(line, type=JudgeMessage)
                if isinstance(message, RequestRefused):
                    ended = message.error()
                elif isinstance(message, SessionFailed):
                    ended = RunFailed(message.reason, message.code)
                elif isinstance(message, JudgeAnswer):
                    with self._mutex:
                        answer = self._pending.pop(message.number)
                    if message.answer is None:
                        answer.set_exception(EndpointRefusal("too_long", message.refused))
                    else:
                        answer.set_result(message.answer)
                elif isinstance(message, JudgeReady):
                    print(f"the judge's model is loaded on {message.device}", flush=True)
                    self._ready.set()
                else:
                    print(message.text, flush=True)
                    self._note = message.text
        except msgspec.DecodeError as error:
            ended = RunFailed(f"invalid message of the judge's worker: {error}", "engine.failed")
            self._process.kill()
        if ended is None:
            with self._log.open("rb") as log:
                reason = exit_reason(self._process.wait(), log)
            ended = RunFailed(f"the judge's worker ended: {reason}", "judge.worker_died")
        with self._mutex:
            self._ended = ended
            left, self._pending = list(self._pending.values()), {}
        for answer in left:
            answer.set_exception(ended)
