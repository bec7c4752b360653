"""A request to the engine is answered, refused or failed within a second of the end of the server process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config.errors import RunFailed, UserError
from engine.config.preset_library import resolve_preset
from engine.extensions.chat.chat_client import CLOSE_SECONDS, ChatClient, OpenSession
from engine.runs.rpc_client import Cancelled, CancelToken, KeptServer, ask

PYTHON = sys.executable
SECONDS = 1.0
Answerer = Callable[[str], None]


@pytest.fixture
def answerer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Answerer:
    """Replaces the server program by another one, which calls `ended()` as its last action."""

    def put(body: str) -> None:
        program = tmp_path / "answerer"
        head = f"#!{PYTHON}\nimport json, os, signal, subprocess, sys, threading, time\n"
        ended = f"def ended(): open({str(tmp_path / 'ended')!r}, 'w').write(str(time.monotonic()))\n"
        program.write_text(head + ended + textwrap.dedent(body))
        program.chmod(0o755)
        monkeypatch.setattr("engine.runs.rpc_client.sys.executable", str(program))

    return put


@pytest.fixture
def quick(tmp_path: Path) -> Callable[[], float]:
    """Seconds since the server's last action."""
    return lambda: time.monotonic() - float((tmp_path / "ended").read_text())


ENGINE = """
sys.argv = ["answer", "question", str(os.getppid())]
from engine.worker import requests, rpc_server
def question(arguments, progress):
    ended()
    {body}
requests.REQUESTS["question"] = question
sys.exit(rpc_server.main())
"""
"""The real server with a request handler for tests."""

DEATHS = {
    "at once": "ended(); sys.exit(3)",
    "killed": "ended(); os.kill(os.getpid(), signal.SIGKILL)",
    "aborted": "ended(); os.abort()",
    "garbage": "ended(); print('Segmentation fault', flush=True); time.sleep(60)",
    "garbage that is JSON": "ended(); print('[1, 2]', flush=True); time.sleep(60)",
    "half an answer": "ended(); print('{\"answer\": [1,', end='', flush=True); sys.exit(0)",
    "another message": "ended(); print('{\"anwser\": 1}', flush=True); time.sleep(60)",
    "a child holds the pipe": "subprocess.Popen(['sleep', '5']); ended(); sys.exit(1)",
    "closed its output": "ended(); os.close(1); time.sleep(60)",
    "raised": ENGINE.format(body="raise KeyError('x')"),
    "raised beside a thread that stays": ENGINE.format(
        body="threading.Thread(target=time.sleep, args=[60]).start(); raise KeyError('x')"
    ),
    "out of memory": ENGINE.format(body="raise MemoryError"),
    "an answer that is no JSON": ENGINE.format(body="return object()"),
    "left by sys.exit": ENGINE.format(body="sys.exit(4)"),
}


@pytest.mark.parametrize("death", DEATHS)
def test_a_killed_server_is_an_error_within_a_second(
    death: str, answerer: Answerer, quick: Callable[[], float]
) -> None:
    answerer(DEATHS[death])
    with pytest.raises(RunFailed) as failed:
        ask("question", {"model": "x"})
    assert quick() < SECONDS
    assert "question" in str(failed.value)


def test_a_chat_process_that_only_closes_its_output_is_an_error(answerer: Answerer, quick: Callable[[], float]) -> None:
    answerer(DEATHS["closed its output"])
    with pytest.raises(RunFailed, match="exited unexpectedly"):
        list(ChatClient(OpenSession(runs=[])).messages())
    assert quick() < CLOSE_SECONDS + SECONDS


def test_the_error_has_the_last_line_and_the_signal(answerer: Answerer) -> None:
    answerer("print('x' * 100_000 + chr(10) + 'the disk melted', file=sys.stderr); sys.exit(1)")
    with pytest.raises(RunFailed, match="the disk melted"):
        ask("question", {})
    answerer("os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(RunFailed, match=r"SIGKILL\b.*\bmemory"):
        ask("question", {})


def test_a_program_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("engine.runs.rpc_client.sys.executable", str(tmp_path / "none"))
    with pytest.raises(RunFailed, match="No such file"):
        ask("question", {})


def test_a_refusal_keeps_its_code(answerer: Answerer) -> None:
    body = "from engine.config.errors import UserError; raise UserError('wrong', 'here', 'fix it', 'data.x')"
    answerer(ENGINE.format(body=body))
    with pytest.raises(UserError) as refused:
        ask("question", {})
    error = refused.value
    assert (error.problem, error.location, error.hint, error.code) == ("wrong", "here", "fix it", "data.x")


def test_names_that_are_not_utf8_are_escaped_or_refused(answerer: Answerer) -> None:
    answerer(ENGINE.format(body="return {'file': 'caf\\udce9', 'rows': [1.5, None, float('nan')]}"))
    assert ask("question", {}) == {"file": "caf\\udce9", "rows": [1.5, None, None]}
    with pytest.raises(UserError) as refused:
        ask("question", {"data": "caf\udce9"})
    assert refused.value.code == "name.not_utf8"


def test_progress_and_a_large_answer(answerer: Answerer) -> None:
    answerer(ENGINE.format(body="progress('half'); return 'é' * 3_000_000"))
    told: list[str] = []
    assert ask("question", {}, told.append) == "é" * 3_000_000
    assert told == ["half"]


def test_a_cancelled_request_ends_at_once(answerer: Answerer, tmp_path: Path) -> None:
    answerer("subprocess.Popen(['sleep', '5']); ended(); time.sleep(60)")
    cancel_token = CancelToken()

    def leave_when_it_works() -> None:
        while not (tmp_path / "ended").exists():
            time.sleep(0.01)
        cancel_token.cancel()

    threading.Thread(target=leave_when_it_works).start()
    with pytest.raises(Cancelled):
        ask("question", {}, cancel_token=cancel_token)


def test_a_kept_process_handles_several_requests_and_a_cancelled_one_is_replaced() -> None:
    config = resolve_preset("demo-lora", None, {}).config
    sections = {name: msgspec.to_builtins(getattr(config, name)) for name in ("model", "data", "evaluation")}
    arguments = {**sections, "max_length": 512, "rows": 2, "most": 30, "split": "test"}
    server, told = KeptServer(), list[str]()

    def request(cancel_token: CancelToken, question: str = "data.show") -> Any:
        def count(text: str, *_: object) -> None:
            told.append(text)

        return server.ask(question, arguments, told.append, cancel_token, count, count)

    first = CancelToken()
    assert len(request(first)) == 2
    process = server._server
    first.cancel()  # its screen is closed after the answer
    assert len(request(CancelToken())) == 2 and server._server is process
    arguments["split"] = "unknown"
    with pytest.raises(UserError):
        request(CancelToken())
    arguments["split"] = "test"
    assert len(request(CancelToken())) == 2 and server._server is process
    cancelled = CancelToken()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        request(cancelled)
    assert len(request(CancelToken())) == 2 and server._server is not process
    server.close()


def test_a_kept_process_with_an_invalid_response_answers_no_other_request(answerer: Answerer) -> None:
    garbage, answer = "{", '{"answer": 1}'
    answerer(f"for line in ({garbage!r}, {answer!r}): sys.stdin.readline(); print(line, flush=True)")
    arguments = {"model": {"id": "tiny"}}
    server = KeptServer()
    for _ in range(2):
        with pytest.raises(RunFailed) as failed:
            server.ask("data.show", arguments, print, CancelToken(), print, print)
        assert failed.value.code == "engine.failed"
    server.close()


ASKER = """
import sys
from engine.runs import rpc_client
rpc_client.sys.executable = sys.argv[1]
rpc_client.ask("question", {})
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("busy", ["exec('while True: pass')", "9 ** 9 ** 9", "time.sleep(60)"])
def test_the_server_ends_with_its_client(number: signal.Signals, busy: str, answerer: Answerer, tmp_path: Path) -> None:
    """Also while it is busy in C code."""
    pid_file = tmp_path / "pid"
    answerer(ENGINE.format(body=f"open({str(pid_file)!r}, 'w').write(str(os.getpid())); number = 9; {busy}"))
    body = (tmp_path / "answerer").read_text().replace("9 ** 9 ** 9", "number ** number ** number")
    (tmp_path / "answerer").write_text(body)
    asker = subprocess.Popen(
        [PYTHON, "-c", ASKER, str(tmp_path / "answerer")],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    wait_until(lambda: pid_file.exists() and pid_file.read_text() != "", asker)
    asker.send_signal(number)
    asker.wait(120)
    wait_until(lambda: not is_running(int(pid_file.read_text())))


def wait_until(condition: Callable[[], object], process: subprocess.Popen[Any] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert process is None or process.poll() is None
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_helper_module_ends_with_its_parent(number: signal.Signals, tmp_path: Path) -> None:
    """Such as pip, which a request starts."""
    module = tmp_path / "forever.py"
    module.write_text("import os, sys, time\nopen(sys.argv[1], 'w').write(str(os.getpid()))\ntime.sleep(60)\n")
    code = (
        "import os, subprocess, sys; subprocess.run([sys.executable, '-m', 'engine.runs.stopping', str(os.getpid()), "
        f"'forever', {str(tmp_path / 'pid')!r}])"
    )
    starter = subprocess.Popen([PYTHON, "-c", code], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text() != "", starter)
    starter.send_signal(number)
    starter.wait(120)
    wait_until(lambda: not is_running(int((tmp_path / "pid").read_text())))
