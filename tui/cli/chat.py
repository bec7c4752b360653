"""`try` without a screen: answer a prompt or test items with finished runs, print the answers, and end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from engine.config.errors import Notice, UserError
from engine.config.text import visible
from engine.hardware.devices import CPU, THE_CPU
from engine.runs.chat_client import (
    NOT_FINISHED,
    AnswerFinished,
    ChatClient,
    ListItems,
    LoadingProgress,
    Message,
    OpenSession,
    QueueWait,
    Ready,
    ReplayItem,
    ReplayItems,
    RequestFinished,
    RequestRefused,
    Sampling,
)
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir, finished_result
from tui.cli.data import shown_progress
from tui.cli.errors import show_notices
from tui.live.chat import (
    KINDS,
    ChatState,
    answer_facts,
    default_sampling,
    items_line,
    memory_text,
    recorded_text,
    sampling_text,
)
from tui.output import streams
from tui.output.console import print_json, say

if TYPE_CHECKING:
    from tui.screens.trying import TryScreen

DEFECTS = ("chat.base_changed", "chat.adapter_inactive", "chat.full_is_base")
"""Notices of a failed verification: the exit status is 1."""


@dataclass(frozen=True)
class TryOptions:
    """The options of `ftbench try`."""

    prompt: str | None
    items: int
    system: str | None
    sampling: Sampling
    """With `max_new_tokens` 0 for that of the runs' evaluations."""
    base: bool
    device: str
    now: bool
    json: bool

    @property
    def interactive(self) -> bool:
        """Whether the screen opens: on a terminal, with nothing to print."""
        return not self.json and self.prompt is None and not self.items and streams.is_terminal()


def runs_of(folders: list[RunDir | LadderDir]) -> list[RunDir]:
    """The runs to try, each once; of a ladder one finished run per rung. Raises UserError for an unfinished run."""
    runs: dict[RunDir, None] = {}
    for folder in folders:
        runs |= dict.fromkeys(folder.finished_runs() if isinstance(folder, LadderDir) else [folder])
    for run in runs:
        finished_result(run, NOT_FINISHED)
    return list(runs)


def request(runs: list[RunDir], options: TryOptions) -> OpenSession:
    """The first request of the session."""
    return OpenSession(
        runs=[str(run.path) for run in runs], base=options.base, wait=not options.now, device=options.device
    )


def screen(runs: list[RunDir], options: TryOptions) -> TryScreen:
    """The screen that these options describe."""
    from tui.screens.trying import TryScreen  # Textual is not needed to print answers

    return TryScreen(request(runs, options), options.sampling, options.system, options.device == CPU)


def prompt_of(options: TryOptions) -> str | None:
    """The prompt of the command line, else of stdin; None for test items only. Raises UserError without one."""
    if options.prompt is not None or options.items:
        return options.prompt
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
    if not text:
        hint = "use --prompt or --items, pipe a prompt to stdin, or start it on a terminal"
        raise UserError("no prompt", "ftbench try", hint, "chat.no_prompt")
    return text


def answer_once(runs: list[RunDir], options: TryOptions) -> int:
    """Print the answers. Returns 1 if a model failed its verification."""
    prompt = prompt_of(options)
    with shown_progress(options.json) as (progress, _):
        answers = PrintedAnswers(ChatClient(request(runs, options), options.device == CPU), options, prompt, progress)
        answers.run()
    if options.json:
        print_json(answers.as_json())
    return 1 if any(notice.code in DEFECTS for notice in answers.notices) else 0


class PrintedAnswers:
    """Sends the requests of one command and prints each answer when it is complete."""

    def __init__(
        self, client: ChatClient, options: TryOptions, prompt: str | None, progress: Callable[[str], None]
    ) -> None:
        self._client, self._options, self._prompt, self._progress = client, options, prompt, progress
        self._state = ChatState(system=options.system)
        self._next_item = 0
        self._told_waiting = False
        self._printed: list[dict[str, Any]] = []

    @property
    def notices(self) -> list[Any]:
        """What the session reported when it was ready."""
        return self._state.ready.notices if self._state.ready else []

    def run(self) -> None:
        """Answer everything. Raises UserError for a refused request, RunFailed as `ChatClient.messages`."""
        for message in self._client.messages():
            self._state.apply(message)
            self._handle(message)

    def _handle(self, message: Message) -> None:
        match message:
            case QueueWait():
                self._show_waiting(message)
            case LoadingProgress(text):
                self._progress(text)
            case Ready():
                self._show_ready(message)
                self._continue()
            case ReplayItems():
                if not self._options.json:
                    say(items_line(message))
                self._continue()
            case AnswerFinished():
                self._show_answer(message)
            case RequestFinished():
                self._continue()
            case RequestRefused():
                self._client.close()
                raise message.error()

    def _continue(self) -> None:
        """Send the next request: the items first, then the prompt; close the session after the last one."""
        state, items = self._state, self._state.items
        if self._options.items and items is None:
            self._client.send(ListItems(limit=self._options.items))
        elif items is not None and self._next_item < len(items.items):
            self._next_item += 1
            self._client.send(state.replay(self._next_item - 1))
            self._show_item(items.items[self._next_item - 1])
        elif self._prompt is not None:
            state.clear()
            self._client.send(state.ask(self._prompt))
            self._printed.append({"prompt": self._prompt, "answers": {}})
            self._prompt = None
        else:
            self._client.close()
        self._progress("answering")

    def _show_waiting(self, waiting: QueueWait) -> None:
        """Say once who uses the device and how not to wait; a progress bar shows changes."""
        if not self._told_waiting:
            cpu = "" if waiting.device == THE_CPU.title else "--device cpu answers on the CPU (slow), "
            text = f"waiting in the device queue: {waiting.note}; {cpu}--now starts immediately"
            show_notices([Notice("chat.waiting", text)], self._options.json)
        self._told_waiting = True
        self._progress(f"waiting: {waiting.note}")

    def _show_ready(self, ready: Ready) -> None:
        show_notices(ready.notices, self._options.json)
        self._state.sampling = default_sampling(self._options.sampling, ready.columns)
        if not self._options.json:
            say(f"memory: {memory_text(ready.memory)}")
            say(f"sampling: {sampling_text(self._state.sampling)}")

    def _show_item(self, item: ReplayItem) -> None:
        recorded = {key: msgspec.to_builtins(answer) for key, answer in item.recorded.items()}
        self._printed.append(
            {"item": item.where, "kind": item.kind, "target": item.target, "recorded": recorded, "answers": {}}
        )
        if self._options.json:
            return
        say("")
        say(f"item {self._next_item}: {item.where} ({KINDS[item.kind]})", "bold")
        question = item.conversation.messages[-1]["content"] if item.conversation.messages else item.conversation.prompt
        show_lines(str(question))
        show_lines(f"target: {item.target}", "green")

    def _show_answer(self, answer: AnswerFinished) -> None:
        plain = msgspec.to_builtins(answer)
        rate = {"tokens_per_second": answer.tokens_per_second}
        kept = {key: value for key, value in plain.items() if key not in ("type", "number", "column")}
        self._printed[-1]["answers"][answer.column] = kept | rate
        if self._options.json:
            return
        title = self._state.columns[answer.column].column.title
        replayed = self._state.replayed
        recorded = replayed.recorded.get(answer.column) if replayed else None
        say("")
        say(f"{visible(title)} · {answer_facts(answer)}", "bold cyan")
        show_lines(answer.text)
        if note := recorded_text(recorded, answer.text):
            say(note, "dim")

    def as_json(self) -> dict[str, Any]:
        """What `--json` prints."""
        ready, memory = self._state.ready, self._state.memory
        assert ready is not None and memory is not None
        return {
            "columns": msgspec.to_builtins(ready.columns),
            "device": ready.device,
            "memory": msgspec.to_builtins(memory),
            "sampling": msgspec.to_builtins(self._state.sampling),
            "notices": msgspec.to_builtins(ready.notices),
            "answers": self._printed,
        }


def show_lines(text: str, style: str = "") -> None:
    """Print text of a model or file, its line feeds kept."""
    for line in text.split("\n"):
        say(line, style)
