"""Run a command as a fork of a process that has imported the libraries (`fork_server`), for tests of what it computes.

`ftbench` is used as `command.ftbench` is. Tests of starting, ending and killing processes use that one.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
from command import FTBENCH

from engine.executors import local
from engine.runs import rpc_client

SERVER = "FTBENCH_TEST_FORK_SERVER"
"""Environment variable with the server's name."""
MAX_REQUEST = 200_000
"""Bytes; a SOCK_SEQPACKET message is sent whole (net.core.wmem_default is 212,992)."""
PYTHON = [sys.executable, "-P", "-m"]
Stream = int | IO[Any] | None


class ForkedProcess:
    """The part of `subprocess.Popen` that ftbench uses, for a fork of the fork server."""

    def __init__(
        self,
        args: Sequence[str],
        *,
        stdin: Stream = None,
        stdout: Stream = None,
        stderr: Stream = None,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        umask: int = -1,
        start_new_session: bool = False,
    ) -> None:
        self.args = list(args)
        self.returncode: int | None = None
        self.stdin: IO[bytes] | None = None
        self.stdout: IO[bytes] | None = None
        self._lock = threading.Lock()
        self._opened: list[int] = []
        """Descriptors that only the fork needs."""
        module, *arguments = args[3:] if self.args[:3] == PYTHON else ["ftbench", *args[1:]]
        request = {
            "module": module,
            "arguments": arguments,
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
            "umask": umask,
            "new_session": start_new_session,
        }
        try:
            streams = [self._descriptor(number, stream) for number, stream in enumerate((stdin, stdout, stderr))]
            self._fork(request, streams)
        finally:
            for descriptor in self._opened:
                os.close(descriptor)

    def _fork(self, request: dict[str, Any], streams: list[int]) -> None:
        """Start the fork, with these descriptors as its streams, and set `pid`."""
        self._status = self._pipe_from()
        self.pid = ask_server(request, [*streams, self._opened[-1]])

    def _pipe_from(self) -> IO[bytes]:
        """The end of a pipe into which the fork or the server writes."""
        reader, writer = os.pipe()
        self._opened.append(writer)
        return os.fdopen(reader, "rb", buffering=0)

    def _descriptor(self, number: int, stream: Stream) -> int:
        """What the fork gets as descriptor `number`, 0 to 2."""
        if stream == subprocess.PIPE and number == 0:
            reader, writer = os.pipe()
            self._opened.append(reader)
            self.stdin = os.fdopen(writer, "wb")
        elif stream == subprocess.PIPE:
            self.stdout = self._pipe_from()
        elif stream == subprocess.DEVNULL:
            self._opened.append(os.open(os.devnull, os.O_RDWR))
        else:
            return number if stream is None else stream if isinstance(stream, int) else stream.fileno()
        return self._opened[-1]

    def poll(self) -> int | None:
        """The exit status, None while the process runs."""
        with self._lock:  # the thread of a request waits while another one cancels it
            if self.returncode is None and _is_readable(self._status, 0):
                self.returncode = int(self._status.read(16) or -signal.SIGKILL)  # none: the server was killed
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        _is_readable(self._status, timeout)
        status = self.poll()
        if status is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return status

    def kill(self) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended, and its status is about to arrive
                os.kill(self.pid, signal.SIGKILL)


def _is_readable(file: IO[bytes], timeout: float | None) -> bool:
    poll = select.poll()  # not `select.select`, which refuses descriptors above 1,023
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if timeout is None else timeout * 1000))


def fork_processes(patch: pytest.MonkeyPatch) -> None:
    """Have workers, ladders and requests that this process starts forked, for the time of `patch`."""
    replaced = SimpleNamespace(**{**vars(subprocess), "Popen": ForkedProcess})
    for module in (local, rpc_client):
        patch.setattr(module, "subprocess", replaced)


def hold_requests(patch: pytest.MonkeyPatch) -> threading.Event:
    """Have requests of this process begin only once the returned event is set: a test can see the screen until then."""
    started = threading.Event()
    converse = rpc_client._converse

    def start(*arguments: Any) -> Any:
        assert started.wait(600)
        return converse(*arguments)

    patch.setattr(rpc_client, "_converse", start)
    return started


def ask_server(request: dict[str, Any], descriptors: list[int]) -> int:
    """Send a request with its open descriptors; returns the process id of the fork."""
    name = os.environ.get(SERVER) or start_server()
    request["env"][SERVER] = name
    content = json.dumps(request).encode()
    assert len(content) < MAX_REQUEST, f"{len(content):,} bytes do not fit in one message"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as connection:
        connection.connect(f"\0{name}")
        socket.send_fds(connection, [content], descriptors)
        answer = connection.recv(16)
    assert answer, "the fork server has ended"
    return int(answer)


def start_server() -> str:
    """Start the server of this process; returns its name, an abstract Unix socket's. It ends with this process."""
    name = f"ftbench-tests-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(f"\0{name}")
        listener.listen(64)
        server = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py")), str(listener.fileno())],
            stdin=subprocess.PIPE,
            env={**local.DEFAULT_ENVIRONMENT, **os.environ},
            pass_fds=[listener.fileno()],
            cwd=Path(__file__).parent,  # not that of the test that needs it first, whose folder is deleted
            start_new_session=True,
        )
    assert server.stdin
    atexit.register(server.stdin.close)  # also keeps the pipe open until then
    os.environ[SERVER] = name
    return name


def ftbench(
    *arguments: str, timeout: float = 1200, encoding: str = "utf-8", **how: Any
) -> subprocess.CompletedProcess[str]:
    """Run `ftbench ARGUMENTS` without a terminal and wait."""
    with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
        process = ForkedProcess([FTBENCH, *arguments], stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, **how)
        try:
            status = process.wait(timeout)
        finally:
            process.kill()
        stdout.seek(0)
        stderr.seek(0)
        output, errors = (file.read().decode(encoding) for file in (stdout, stderr))
        return subprocess.CompletedProcess(process.args, status, output, errors)
