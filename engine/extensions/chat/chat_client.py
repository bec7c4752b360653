"""A chat session (`chat_server.py`) from outside: its messages, its client, and conversations saved as data.

Messages are JSON objects, one per line, both ways.
"""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import Struct, field

from engine.config.errors import ErrorParts, Notice, RunFailed
from engine.config.files import write_atomically
from engine.runs.rpc_client import encoded_line, exit_reason, message_lines, send_line, start_server

NOT_FINISHED = "chat.not_finished"
Ending = Literal["end token", "length", "stopped"]
"""How an answer ended: by an end token, after `max_new_tokens` or at the model's last position, or by a Stop."""
ItemKind = Literal["disagree", "failure", "other"]
"""The recorded answers to a test item: different between runs and not all right; all the same and wrong; all right."""


class Sampling(Struct, frozen=True, kw_only=True):
    """How the next token is selected."""

    temperature: float = 0.0
    """0: greedy, the most likely token, as in evaluation."""
    top_p: float = 1.0
    """Sample from the most likely tokens whose probabilities add up to this."""
    seed: int = 0
    max_new_tokens: int = 128


class Conversation(Struct, frozen=True, kw_only=True):
    """What is answered: messages, or plain text for models without a chat template."""

    messages: list[dict[str, Any]]
    """OpenAI's schema; the last message is the user's."""
    tools: list[Any] | None = None
    prompt: str | None = None
    """The prompt as plain text, for tokenizers without a chat template."""


class OpenSession(Struct, frozen=True, kw_only=True, tag=True):
    """Load the models of finished runs. The first request."""

    runs: list[str]
    """Run directories."""
    base: bool = True
    """Whether the base model answers too."""
    wait: bool = True
    """Whether to wait in the device queue."""
    device: int | str = "auto"
    """As `hardware.device`."""


class AnswerRequest(Struct, frozen=True, kw_only=True, tag=True):
    """Answer one conversation with each of these columns, one after the other."""

    number: int
    """Repeated in the messages about this request."""
    conversations: dict[str, Conversation]
    """Column -> its conversation: earlier answers differ between columns."""
    sampling: Sampling = Sampling()


class Stop(Struct, frozen=True, tag=True):
    """Stop generating; the remaining columns of the request are not answered."""


class ListItems(Struct, frozen=True, kw_only=True, tag=True):
    """List the test items in replay order."""

    limit: int


Request: TypeAlias = OpenSession | AnswerRequest | Stop | ListItems


class QueueWait(Struct, frozen=True, tag=True):
    """Waiting in the device queue."""

    note: str
    """Place and holder: `next on GPU 0; in use by 2026…-3f2a (process 17)`."""
    device: str
    """`GPU 0` or `the CPU`."""


class LoadingProgress(Struct, frozen=True, tag=True):
    """Loading libraries, data or weights."""

    text: str


class ChatColumn(Struct, frozen=True, kw_only=True):
    """A model that answers."""

    key: str
    title: str
    """`base`, `QLoRA`, `LoRA 3f2a`."""
    model: str
    """The base model's id."""
    run: str = ""
    """Name of the run; '' for a base model."""
    chat: bool = True
    """Whether the model has a chat template; without one it answers single prompts."""
    system: str = ""
    """The system prompt of the training rows; '' if they have none or several."""
    max_new_tokens: int = 128
    """`evaluation.max_new_tokens` of the run."""


class WeightsMemory(Struct, frozen=True, kw_only=True):
    """Memory of one copy of weights: a base shared by its adapters, or a model of a full fine-tuning."""

    name: str
    """`base`, `4-bit base`, or the title of a full model."""
    bytes: int
    adapters: int = 0
    """Number of adapters on this base."""
    adapter_bytes: int = 0


class MemoryUse(Struct, frozen=True, kw_only=True):
    """Memory of the session."""

    parts: list[WeightsMemory]
    process: int
    """Resident set of the process in bytes."""
    gpu: int | None = None
    """Reserved on the GPU by torch's caching allocator; None on the CPU."""


class Ready(Struct, frozen=True, kw_only=True, tag=True):
    """The models are loaded and verified."""

    columns: list[ChatColumn]
    memory: MemoryUse
    device: str
    notices: list[Notice] = field(default_factory=list)
    """Failed verification and other warnings."""


class AnswerStarted(Struct, frozen=True, kw_only=True, tag=True):
    """A column starts to answer."""

    number: int
    column: str


class AnswerText(Struct, frozen=True, kw_only=True, tag=True):
    """The next characters of an answer."""

    number: int
    column: str
    text: str


class AnswerFinished(Struct, frozen=True, kw_only=True, tag=True):
    """A complete answer."""

    number: int
    column: str
    text: str
    tokens: int
    """Generated tokens, without the end token."""
    ended: Ending
    first_token: float
    """Seconds from the start of this column to its first token."""
    seconds: float
    """From the first token to the last."""

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens after the first one, per second; None for shorter answers."""
        return (self.tokens - 1) / self.seconds if self.tokens > 1 and self.seconds > 0 else None


class RequestFinished(Struct, frozen=True, kw_only=True, tag=True):
    """All columns of a request have answered, or it was stopped."""

    number: int
    memory: MemoryUse


class RecordedAnswer(Struct, frozen=True, kw_only=True):
    """What a run's evaluation recorded."""

    text: str
    right: bool | None
    """Whether it has the best possible score; None if the run's metric needs no answers."""


class ReplayItem(Struct, frozen=True, kw_only=True):
    """A test item with the prompt of training."""

    where: str
    kind: ItemKind
    conversation: Conversation
    target: str
    recorded: dict[str, RecordedAnswer] = field(default_factory=dict)
    """Column -> its recorded answer."""


class ReplayItems(Struct, frozen=True, kw_only=True, tag=True):
    """The first test items in replay order."""

    items: list[ReplayItem]
    total: int
    disagree: int
    """Items to which the runs recorded different answers, not all right."""
    failures: int
    """Items to which all runs recorded the same wrong answer."""


class RequestRefused(ErrorParts, frozen=True, kw_only=True, tag=True):
    """A UserError. The session continues unless it was refused while opening."""

    number: int | None = None


class SessionFailed(Struct, frozen=True, kw_only=True, tag=True):
    """A failure that is not the user's, such as insufficient memory; the session ends."""

    reason: str
    code: str = "engine.failed"


Message: TypeAlias = (
    QueueWait
    | LoadingProgress
    | Ready
    | AnswerStarted
    | AnswerText
    | AnswerFinished
    | RequestFinished
    | ReplayItems
    | RequestRefused
    | SessionFailed
)


CLOSE_SECONDS = 2.0
"""Time for the process to end after its stdin was closed; then it is killed."""


class ChatClient:
    """One session and its process, which ends with `close`, and with this process."""

    def __init__(self, request: OpenSession, on_cpu: bool = False) -> None:
        """`on_cpu`: use the CPU although there is a GPU."""
        self._request = msgspec.structs.replace(request, device="cpu") if on_cpu else request
        self._on_cpu = on_cpu
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def pid(self) -> int | None:
        """Of the session's process, None before it is started."""
        return self._process.pid if self._process else None

    def messages(self) -> Iterator[Message]:
        """Start the process and yield its messages until `close`; blocks the calling thread, which must not end before
        the process: the kernel ends the process with the thread that started it.

        Raises UserError for a session that is refused before it is ready, RunFailed if it fails or its process ends.
        """
        environment, ready = {"CUDA_VISIBLE_DEVICES": ""} if self._on_cpu else {}, False
        with tempfile.TemporaryFile() as errors:
            try:
                with self._lock:
                    if self._closed:
                        return
                    self._process = start_server("engine.extensions.chat.chat_server", errors, **environment)
                self.send(self._request)
                for line in message_lines(self._process):
                    try:
                        message = msgspec.json.decode(line, type=Message)
                    except msgspec.DecodeError as error:
                        raise RunFailed(f"invalid message of the chat process: {error}", "engine.failed") from error
                    if isinstance(message, SessionFailed):
                        raise RunFailed(message.reason, message.code)
                    if isinstance(message, RequestRefused) and not ready:
                        raise message.error()
                    ready = ready or isinstance(message, Ready)
                    yield message
                if not self._closed:
                    self.close()  # it may have closed only its output
                    reason = exit_reason(self._process.returncode, errors)
                    raise RunFailed(f"the chat process exited unexpectedly: {reason}", "engine.died")
            except OSError as error:
                text = f"cannot start the chat process: {error.strerror}"
                raise RunFailed(text, "system.no_process") from error
            finally:
                self.close()
                if self._process and self._process.stdout:
                    self._process.stdout.close()

    def send(self, request: Request) -> None:
        """Send a request. Does nothing after the process has ended: `messages` reports that."""
        if self._process is not None:
            send_line(self._process, encoded_line(msgspec.to_builtins(request)))

    def stop(self) -> None:
        self.send(Stop())

    def close(self) -> None:
        """End the process and wait for its end: all its memory is free. Can be called from any thread."""
        with self._lock:
            self._closed = True
            process = self._process
            if process is None or process.returncode is not None:
                return
            assert process.stdin
            with contextlib.suppress(OSError):
                process.stdin.close()
            try:
                process.wait(CLOSE_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def save_conversations(folder: Path, conversations: Mapping[str, Sequence[Mapping[str, Any]]]) -> Path:
    """Write `conversation-<date>-<time>.jsonl` into the folder, one line per column, and return its path.

    conversations: column's title -> messages in OpenAI's schema. A file that exists is never replaced. Raises RunFailed
    if the file cannot be written.
    """
    stem = time.strftime("conversation-%Y%m%d-%H%M%S")
    names = chain([stem], (f"{stem}-{number}" for number in count(2)))
    path = next(path for name in names if not (path := folder / f"{name}.jsonl").exists())
    lines = [msgspec.json.encode({"messages": messages, "model": title}) for title, messages in conversations.items()]
    try:
        write_atomically(path, b"\n".join([*lines, b""]))
    except OSError as error:
        raise RunFailed(f"cannot write {path}: {error.strerror}", "chat.cannot_save") from error
    return path
