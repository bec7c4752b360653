"""`try` without a screen: answer a prompt or test items with finished runs, print the answers, and end."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from engine.config.errors import Notice, UserError
from engine.config.text import visible
from engine.extensions.chat.chat_client import (
    NOT_FINISHED,
    AnswerFinished,
    AnswerRequest,
    ChatClient,
    ListItems,
    LoadingProgress,
    OpenSession,
    QueueWait,
    Ready,
    ReplayItems,
    RequestFinished,
    RequestRefused,
    Sampling,
)
from engine.hardware.devices import CPU, THE_CPU
from engine.runs.home import runs_home
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.run_dir import RunDir, finished_result
from tui.cli import completion, options
from tui.cli.errors import show_notices
from tui.cli.lookup import RUN_OR_LADDER, find_named
from tui.cli.progress import shown_progress
from tui.extensions.chat.chat_state import (
    ChatState,
    answer_facts,
    default_sampling,
    item_text,
    items_line,
    memory_text,
    recorded_text,
    sampling_text,
)
from tui.output import streams
from tui.output.console import print_json, say

if TYPE_CHECKING:
    from tui.extensions.chat.screen import TryScreen

DEFECTS = ("chat.base_changed", "chat.adapter_inactive", "chat.full_is_base")
"""Notices of a failed verification: the exit status is 1."""


def try_runs(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            help="Runs or ladders: name, part of it, path, or 'last'.",
            autocompletion=completion.runs_and_ladders,
        ),
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
    for folder in [find_named(runs, name, RUN_OR_LADDER) for name in names]:
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
            from tui.extensions.chat.screen import TryScreen  # Textual is not needed to print answers

            return TryScreen(session, sampling, system, where == CPU)

        return open_bench(runs_home(runs), ascii_only, True, opened=screen)

    if prompt is None and not items:
        prompt = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.read().strip()
        if not prompt:
            hint = "use --prompt or --items, pipe a prompt to stdin, or start it on a terminal"
            raise UserError("no prompt", "ftbench try", hint, "chat.no_prompt")
    state = ChatState(sampling, system)
    with shown_progress(json) as (progress, _):
        answers = PrintedAnswers(ChatClient(session, where == CPU), state, prompt, items, json)
        answers.run(progress)
    ready = state.ready
    assert ready is not None
    if json:
        about = {"columns": ready.columns, "device": ready.device, "memory": state.memory, "sampling": state.sampling}
        print_json({**msgspec.to_builtins({**about, "notices": ready.notices}), "answers": answers.printed})
    return int(any(notice.code in DEFECTS for notice in ready.notices))


class PrintedAnswers:
    """Sends the requests of one command and prints each answer when it is complete."""

    def __init__(self, client: ChatClient, state: ChatState, prompt: str | None, items: int, json: bool) -> None:
        self._client, self._state, self._prompt, self._items, self._json = client, state, prompt, items, json
        self.printed: list[dict[str, Any]] = []
        """What `--json` prints of each item and prompt."""

    def run(self, progress: Callable[[str], None]) -> None:
        """Answer everything. Raises UserError for a refused request, RunFailed as `ChatClient.messages`."""
        requests, told_waiting = self._requests(), False
        for message in self._client.messages():
            self._state.apply(message)
            match message:
                case QueueWait():
                    if not told_waiting:  # once: who uses the device, and how not to wait
                        cpu = "" if message.device == THE_CPU.title else "--device cpu answers on the CPU (slow), "
                        text = f"waiting in the device queue: {message.note}; {cpu}--now starts immediately"
                        show_notices([Notice("chat.waiting", text)], self._json)
                    told_waiting = True
                    progress(f"waiting: {message.note}")
                case LoadingProgress(text):
                    progress(text)
                case AnswerFinished():
                    self._show_answer(message)
                case RequestRefused():
                    self._client.close()
                    raise message.error()
                case Ready() | ReplayItems() | RequestFinished():
                    progress("answering")
                    if request := next(requests, None):
                        self._client.send(request)
                    else:
                        self._client.close()

    def _requests(self) -> Iterator[ListItems | AnswerRequest]:
        """The items first, then the prompt. Take a request when the session is ready or has answered the last one."""
        state = self._state
        assert state.ready is not None and state.memory is not None
        show_notices(state.ready.notices, self._json)
        state.sampling = default_sampling(state.sampling, state.ready.columns)
        self._say(f"memory: {memory_text(state.memory)}")
        self._say(f"sampling: {sampling_text(state.sampling)}")
        if self._items:
            yield ListItems(limit=self._items)
            assert state.items is not None
            self._say(items_line(state.items))
            for index, item in enumerate(state.items.items):
                messages, kept = item.conversation.messages, msgspec.to_builtins(item.recorded)
                about = {"item": item.where, "kind": item.kind, "target": item.target, "recorded": kept}
                self.printed.append({**about, "answers": {}})
                self._say(f"\nitem {index + 1}: {visible(item.where)} ({item_text(item)})", "bold")
                self._say(str(messages[-1]["content"] if messages else item.conversation.prompt))
                self._say(f"target: {item.target}", "green")
                yield state.replay(index)
        if self._prompt is not None:
            self.printed.append({"prompt": self._prompt, "answers": {}})
            state.clear()
            yield state.ask(self._prompt)

    def _show_answer(self, answer: AnswerFinished) -> None:
        plain = msgspec.to_builtins(answer)
        kept = {key: value for key, value in plain.items() if key not in ("type", "number", "column")}
        self.printed[-1]["answers"][answer.column] = {**kept, "tokens_per_second": answer.tokens_per_second}
        title, replayed = self._state.columns[answer.column].column.title, self._state.replayed
        self._say(f"\n{visible(title)} · {answer_facts(answer)}", "bold cyan")
        self._say(answer.text)
        if note := recorded_text(replayed.recorded.get(answer.column) if replayed else None, answer.text):
            self._say(note, "dim")

    def _say(self, text: str, style: str = "") -> None:
        """Print text, which may come from a model or file, with its line feeds; nothing with `--json`."""
        for line in () if self._json else text.split("\n"):
            say(line, style)
