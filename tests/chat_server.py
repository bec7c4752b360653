"""A chat server without models, for tests of the screen: it answers with the column's title and the prompt."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import msgspec
from places import ROOT, TESTS

from engine.config.errors import Notice
from engine.extensions.chat.chat_client import (
    AnswerFinished,
    AnswerRequest,
    AnswerStarted,
    AnswerText,
    ChatColumn,
    Conversation,
    ListItems,
    LoadingProgress,
    MemoryUse,
    Message,
    OpenSession,
    QueueWait,
    Ready,
    RecordedAnswer,
    ReplayItem,
    ReplayItems,
    Request,
    RequestFinished,
    RequestRefused,
    Stop,
    WeightsMemory,
)
from engine.runs.rpc_client import start_server

if TYPE_CHECKING:
    import pytest

TITLES = {"base": "base", "qlora-5b98": "QLoRA", "lora-cbd3": "LoRA", "full-0165": "Full"}
HOSTILE = "\x1b]52;c;aGk=\x07 \x1b[2J [red]x[/red] \u202eabc"
"""Part of every answer."""
MEMORY = MemoryUse(
    parts=[WeightsMemory(name="base", bytes=269 << 20, adapters=2, adapter_bytes=12 << 20)], process=900 << 20
)


def stand_in(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Start this server instead of the real one from now on; `folder` tells it what to do, see `main`."""
    program = folder / "program"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path[:0] = [{str(TESTS)!r}, {str(ROOT)!r}]\n"
        "import chat_server\nchat_server.main()\n"
    )
    program.chmod(0o755)
    patch.setenv("CHAT_SERVER_FOLDER", str(folder))
    patch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def start(*arguments: Any, **environment: str) -> subprocess.Popen[bytes]:
        with patch.context() as changed:
            changed.setattr("engine.runs.rpc_client.sys", SimpleNamespace(executable=str(program)))
            changed.setattr("engine.runs.rpc_client.subprocess", subprocess)  # this program is not forked
            return start_server(*arguments, **environment)

    patch.setattr("engine.extensions.chat.chat_client.start_server", start)


def tell(message: Message) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


def requested() -> Request:
    line = sys.stdin.buffer.readline()
    if not line:
        os._exit(0)
    return msgspec.json.decode(line, type=Request)


def item(number: int) -> ReplayItem:
    recorded = {"lora-cbd3": RecordedAnswer(text="something else", right=False)}
    question = Conversation(messages=[{"role": "user", "content": f"question {number}"}])
    return ReplayItem(
        where=f"test.jsonl line {number}",
        kind="disagree" if number == 1 else "failure",
        conversation=question,
        target=f"target {number}",
        recorded=recorded,
    )


def answer(ask: AnswerRequest) -> None:
    stopped = False
    for key, conversation in ask.conversations.items():
        if stopped:
            break
        prompt = conversation.messages[-1]["content"]
        tell(AnswerStarted(number=ask.number, column=key))
        text = f"{TITLES[key]} heard {prompt} after {len(conversation.messages)} messages\n{HOSTILE}"
        tell(AnswerText(number=ask.number, column=key, text=text))
        while prompt == "endless" and not stopped:
            stopped = isinstance(requested(), Stop)
        ended = "stopped" if stopped else "end token"
        tell(
            AnswerFinished(
                number=ask.number, column=key, text=text, tokens=12, ended=ended, first_token=0.1, seconds=1.1
            )
        )
    tell(RequestFinished(number=ask.number, memory=MEMORY))


def main() -> None:
    """Serve one client. A file `refuse` in the folder refuses the session; `busy` lets it wait while it exists."""
    folder = Path(os.environ["CHAT_SERVER_FOLDER"])
    opened = requested()
    assert isinstance(opened, OpenSession)
    cpu = os.environ.get("CUDA_VISIBLE_DEVICES") == ""
    (folder / "opened").write_text(json.dumps({"pid": os.getpid(), "wait": opened.wait, "cpu": cpu}))
    if (folder / "refuse").exists():
        tell(
            RequestRefused(
                problem="the base model has changed", location="tiny", hint="restore it", code="export.base_changed"
            )
        )
        sys.exit(2)
    if (folder / "busy").exists() and opened.wait and not cpu:
        tell(QueueWait("next on GPU 0; in use by 20260131-120102-demo-lora-lora-3f2a (process 17)", "GPU 0"))
        while (folder / "busy").exists():
            time.sleep(0.02)
    tell(LoadingProgress("loading the base"))
    columns = [ChatColumn(key=key, title=title, model="tiny", max_new_tokens=96) for key, title in TITLES.items()]
    notices = [Notice("chat.adapter_inactive", "the adapter of LoRA is not active")]
    tell(Ready(columns=columns, memory=MEMORY, device="2 CPU cores", notices=notices))
    while True:
        request = requested()
        if isinstance(request, AnswerRequest):
            answer(request)
        elif isinstance(request, ListItems):
            tell(ReplayItems(items=[item(1), item(2)], total=2, disagree=1, failures=1))


if __name__ == "__main__":
    main()
