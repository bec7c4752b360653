"""The process of a chat session: it waits in the device queue, answers, stops, and ends with its client."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import psutil
import pytest
from command import SMALL
from forked import fork_processes
from made_models import conversation_of, made_model

from engine.config.errors import RunFailed, UserError
from engine.extensions.chat.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerText,
    ChatClient,
    Message,
    OpenSession,
    QueueWait,
    Ready,
    RequestFinished,
    RequestRefused,
    Sampling,
)
from engine.runs.queue import device_queue, locks
from engine.runs.run.folder import running_elsewhere
from engine.runs.run.run_dir import RunDir

M = TypeVar("M")
ENDLESS = Sampling(max_new_tokens=400, temperature=8.0)
"""Hardly any answer ends by an end token."""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunDir]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTBENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield made_model(tmp_path_factory.mktemp("runs"), "lora", **{"model.id": str(SMALL)})


def until(messages: Iterator[Message], kind: type[M]) -> M:
    """The next message of a kind."""
    return next(message for message in messages if isinstance(message, kind))


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def wait(condition: Callable[[], object], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_session_from_the_queue_to_its_end(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    fork_processes(monkeypatch)
    other = run.path.parent / "20260131-120102-demo-lora-lora-3f2a"
    held = locks.acquire(locks.device_lock("cpu"), f"{os.getpid()} {other}")
    assert held is not None
    client = ChatClient(OpenSession(runs=[str(run.path)]))
    messages = client.messages()
    waiting = until(messages, QueueWait)
    assert waiting.device == "the CPU" and other.name in waiting.note
    assert waiting.note.startswith("next ") and waiting.device in waiting.note
    place = next(place for place in device_queue.queue_places() if place.place == 1)
    assert place.run == run.path / "try" and place.pid == client.pid and place.home == run.path.parent
    os.close(held)
    ready = until(messages, Ready)
    assert [column.title for column in ready.columns] == ["base", "LoRA"] and ready.notices == []
    assert run.name[-9:] in running_elsewhere(Path("/elsewhere"))

    conversation = conversation_of(run)
    both = {column.key: conversation for column in ready.columns}
    client.send(AnswerRequest(number=1, conversations={"none": conversation}))
    assert until(messages, RequestRefused).code == "chat.unknown_column"  # and the session continues
    client.send(AnswerRequest(number=2, conversations=both, sampling=Sampling(max_new_tokens=3)))
    assert (
        until(messages, AnswerFinished).column == "base"
        and until(messages, AnswerFinished).column == ready.columns[1].key
    )
    assert until(messages, RequestFinished).memory.parts[0].adapters == 1
    client.send(AnswerRequest(number=3, conversations=both, sampling=ENDLESS))
    until(messages, AnswerText)
    client.stop()
    assert until(messages, AnswerFinished).ended == "stopped" and until(messages, RequestFinished).number == 3

    pid = client.pid
    assert pid is not None and not gone(pid)
    client.close()
    assert gone(pid) and list(messages) == []
    assert device_queue.queue_places() == []


CLIENT = """
import sys
from engine.extensions.chat.chat_client import ChatClient
from engine.extensions.chat.chat_client import AnswerRequest, AnswerText, Conversation, OpenSession, Ready, Sampling
client = ChatClient(OpenSession(runs=sys.argv[1:], wait=False))
for message in client.messages():
    if isinstance(message, Ready):
        hello = Conversation(messages=[{"role": "user", "content": "Hello"}])
        ask = {column.key: hello for column in message.columns}
        client.send(AnswerRequest(number=1, conversations=ask, sampling=Sampling(max_new_tokens=400, temperature=8.0)))
    if isinstance(message, AnswerText):
        print(client.pid, flush=True)
"""


def test_the_process_ends_with_a_killed_client(run: RunDir) -> None:
    client = subprocess.Popen([sys.executable, "-c", CLIENT, str(run.path)], stdout=subprocess.PIPE, text=True)
    assert client.stdout
    pid = int(client.stdout.readline())
    client.send_signal(signal.SIGKILL)
    client.wait()
    wait(lambda: gone(pid))
    client.stdout.close()


def test_a_killed_process_is_an_error(run: RunDir) -> None:
    client = ChatClient(OpenSession(runs=[str(run.path)], wait=False))
    messages = client.messages()
    next(messages)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    with pytest.raises(RunFailed, match="SIGKILL") as failed:
        list(messages)
    assert failed.value.code == "engine.died"


def test_a_refused_session_and_a_closed_one(run: RunDir) -> None:
    refused = ChatClient(OpenSession(runs=[str(run.path.parent / "absent")], wait=False))
    with pytest.raises(UserError):
        list(refused.messages())
    assert refused.pid is not None and gone(refused.pid)
    closed = ChatClient(OpenSession(runs=[str(run.path)]))
    closed.close()
    assert list(closed.messages()) == [] and closed.pid is None
