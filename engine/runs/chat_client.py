"""Client of a chat session: starts its process, sends requests, and yields its messages."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator

import msgspec

from engine.config.errors import RunFailed, UserError
from engine.runs.chat_messages import Message, OpenSession, Ready, Request, RequestRefused, SessionFailed, Stop
from engine.runs.rpc_client import encoded_line, exit_reason, message_lines

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
        with tempfile.TemporaryFile() as errors:
            try:
                if not self._start(errors.fileno()):
                    return
                yield from self._read()
                if not self._closed:
                    assert self._process is not None
                    status = self._process.wait()
                    reason = exit_reason(status, errors)
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
        self._write(encoded_line(msgspec.to_builtins(request)))

    def stop(self) -> None:
        """Stop generating."""
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

    def _start(self, errors: int) -> bool:
        """Start the process and send the first request; False if the session was closed before."""
        environment = {**os.environ, "HF_HUB_DISABLE_TELEMETRY": "1"} | (
            {"CUDA_VISIBLE_DEVICES": ""} if self._on_cpu else {}
        )
        content = encoded_line(msgspec.to_builtins(self._request))
        with self._lock:
            if self._closed:
                return False
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "engine.worker.chat_server", str(os.getpid())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=environment,
            )
        self._write(content)
        return True

    def _write(self, content: bytes) -> None:
        process = self._process
        if process is None or process.stdin is None:
            return
        with contextlib.suppress(OSError, ValueError):  # closed, or the process has ended: `messages` tells
            process.stdin.write(content)
            process.stdin.flush()

    def _read(self) -> Iterator[Message]:
        assert self._process is not None
        ready = False
        for line in message_lines(self._process):
            try:
                message = msgspec.json.decode(line, type=Message)
            except msgspec.DecodeError as error:
                raise RunFailed(f"invalid message of the chat process: {error}", "engine.failed") from error
            if isinstance(message, SessionFailed):
                raise RunFailed(message.reason, message.code)
            if isinstance(message, RequestRefused) and not ready:
                raise UserError(message.what, message.where, message.do, message.code)
            ready = ready or isinstance(message, Ready)
            yield message
