"""`try` without a screen: answer a prompt or test items with finished runs, print the answers, and end."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engine.config.errors import Notice, UserError
from engine.config.text import visible
from engine.hardware.devices import CPU, THE_CPU
from engine.runs.chat_client import (
    NOT_FINISHED,
    AnswerFinished,
    ChatClient,
    ListItems,
    LoadingProgress,
    OpenSession,
    QueueWait,
    Ready,
    ReplayItem,
    ReplayItems,
    RequestFinished,
    RequestRefused,
    Sampling,
)
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir, finished_result
from tui.cli import options
from tui.cli.errors import show_notices
from tui.cli.lookup import run_or_ladder
from tui.cli.progress import shown_progress
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


def try_runs(
    names: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Runs or ladders: name, part of it, path, or 'last'.")
    ],
    prompt: Annotated[str | None, typer.Option("--prompt", help="Answer this and print it (default: stdin).")] = None,
    items: Annotated[
        int,
        typer.Option("--items", min=0, metavar="N", help="Replay N test items, those with different answers first."),
    ] = 0,
    system: Annotated[
        str | None, typer.Option("--system", help="System prompt (default: that of the training rows).")
    ] = None,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, max=10, help="Sampling temperature; 0 is greedy.")
    ] = 0.0,
    top_p: Annotated[float, typer.Option("--top-p", min=0.01, max=1, help="Nucleus sampling.")] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 0,
    max_new_tokens: Annotated[
        int | None, typer.Option("--max-new-tokens", min=1, help="Tokens per answer (default: as evaluated).")
    ] = None,
    base: Annotated[bool, typer.Option("--base/--no-base", help="Let the base model answer too.")] = True,
    device: options.Device = None,
    now: options.Now = False,
    runs: options.Runs = None,
    ascii_only: options.Ascii = False,
    json: options.Json = False,
) -> int:
    """Open the screen on a terminal with nothing to print, else print the answers.

    Returns 1 if a model failed its verification. Raises UserError for an unfinished run, and without a prompt.
    """
    chosen: dict[RunDir, None] = {}  # each once; of a ladder one finished run per rung
    for folder in [run_or_ladder(runs, name) for name in names]:
        chosen |= dict.fromkeys(folder.finished_runs() if isinstance(folder, LadderDir) else [folder])
    for run in chosen:
        finished_result(run, NOT_FINISHED)
    where = device or "auto"
    session = OpenSession(runs=[str(run.path) for run in chosen], base=base, wait=not now, device=where)
    # max_new_tokens 0: the limit of the runs' evaluations, which is known once the models are loaded
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed, max_new_tokens=max_new_tokens or 0)

    if not json and prompt is None and not items and streams.is_terminal():
        from tui.cli.bench import open_bench

        def screen() -> TryScreen:
            from tui.screens.trying import TryScreen  # Textual is not needed to print answers

            return TryScreen(session, sampling, system, where == CPU)

        return open_bench(runs_home(runs), ascii_only, True, opened=screen)

    if prompt is None and not items:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
        if not prompt:
            hint = "use --prompt or --items, pipe a prompt to stdin, or start it on a terminal"
            raise UserError("no prompt", "ftbench try", hint, "chat.no_prompt")
    with shown_progress(json) as (progress, _):
        answers = PrintedAnswers(ChatClient(session, where == CPU), sampling, system, prompt, items, json, progress)
        answers.run()
    if json:
        print_json(answers.as_json())
    return int(any(notice.code in DEFECTS for notice in answers.notices))


class PrintedAnswers:
    """Sends the requests of one command and prints each answer when it is complete."""

    def __init__(
        self,
        client: ChatClient,
        sampling: Sampling,
        system: str | None,
        prompt: str | None,
        items: int,
        json: bool,
        progress: Callable[[str], None],
    ) -> None:
        self._client, self._sampling, self._progress = client, sampling, progress
        self._prompt, self._items, self._json = prompt, items, json
        self._state = ChatState(system=system)
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
            match message:
                case QueueWait():
                    if not self._told_waiting:  # once: who uses the device, and how not to wait
                        cpu = "" if message.device == THE_CPU.title else "--device cpu answers on the CPU (slow), "
                        text = f"waiting in the device queue: {message.note}; {cpu}--now starts immediately"
                        show_notices([Notice("chat.waiting", text)], self._json)
                    self._told_waiting = True
                    self._progress(f"waiting: {message.note}")
                case LoadingProgress(text):
                    self._progress(text)
                case Ready():
                    show_notices(message.notices, self._json)
                    self._state.sampling = default_sampling(self._sampling, message.columns)
                    if not self._json:
                        say(f"memory: {memory_text(message.memory)}")
                        say(f"sampling: {sampling_text(self._state.sampling)}")
                    self._continue()
                case ReplayItems():
                    if not self._json:
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
        if self._items and items is None:
            self._client.send(ListItems(limit=self._items))
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

    def _show_item(self, item: ReplayItem) -> None:
        recorded = {key: msgspec.to_builtins(answer) for key, answer in item.recorded.items()}
        self._printed.append(
            {"item": item.where, "kind": item.kind, "target": item.target, "recorded": recorded, "answers": {}}
        )
        if self._json:
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
        if self._json:
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
