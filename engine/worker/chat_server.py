"""Chat session: `python -m engine.worker.chat_server PID` answers the requests of one client until its stdin closes.

Requests and messages are JSON lines (`engine.runs.chat_client`). The process is in the device queue while it waits
and as long as it runs; it ends with its client, which frees all memory.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config.errors import RunFailed, UserError, error_text
from engine.config.files import used_folder
from engine.config.redaction import redact_output
from engine.hardware.devices import SelectedDevice, select_devices
from engine.methods.library_imports import import_libraries
from engine.runs import stopping
from engine.runs.chat_client import (
    NOT_FINISHED,
    AnswerRequest,
    ListItems,
    LoadingProgress,
    Message,
    OpenSession,
    QueueWait,
    Request,
    RequestRefused,
    SessionFailed,
    Stop,
)
from engine.runs.queue import device_queue
from engine.runs.queue.device_queue import wait_for_devices
from engine.runs.run.run_dir import RunDir, finished_result
from engine.worker.rpc_server import MAX_REASON, encoded

if TYPE_CHECKING:
    from engine.chat.session import ChatSession


class ChatServer:
    """Reads requests in a thread, so that a Stop arrives while an answer is generated."""

    def __init__(self, requests: int, channel: int) -> None:
        """File descriptors to read requests from and to write messages to."""
        self._channel = channel
        self._requests: queue.Queue[Request] = queue.Queue()
        self._latest = self._stopped = -1
        """Numbers of the latest AnswerRequest that was read, and of the latest one that was stopped."""
        threading.Thread(target=self._read, args=[requests], daemon=True, name="requests").start()

    def tell(self, message: Message) -> None:
        """Send one message; a client that has gone ends this process."""
        line = memoryview(encoded(msgspec.to_builtins(message)))
        try:
            while line:
                line = line[os.write(self._channel, line) :]
        except BrokenPipeError:
            os._exit(1)

    def run(self) -> None:
        """Open the session, then answer requests. Ends when the client closes stdin."""
        request = self._requests.get()
        assert isinstance(request, OpenSession), request
        paths = [Path(run) for run in request.runs]
        for path in paths:
            finished_result(RunDir(path), NOT_FINISHED)  # before waiting for the device
        with contextlib.ExitStack() as stack:
            for path in paths:
                stack.enter_context(used_folder(path))
            self._serve(request, paths)

    def _serve(self, request: OpenSession, paths: list[Path]) -> None:
        devices = select_devices(request.device)
        device = self._wait_for_device(devices, paths) if request.wait else devices[0]
        device.apply()
        self.tell(LoadingProgress("loading libraries"))
        import_libraries()  # after the wait: it takes seconds
        from engine.chat.session import ChatSession

        session = ChatSession(paths, request.base, lambda text: self.tell(LoadingProgress(text)))
        self.tell(session.ready())
        while True:
            self._respond(session, self._requests.get())

    def _respond(self, session: ChatSession, request: Request) -> None:
        try:
            if isinstance(request, AnswerRequest):
                session.answer(request, self.tell, lambda: self._stopped >= request.number)
            elif isinstance(request, ListItems):
                self.tell(session.items(request.limit))
        except UserError as error:
            self.tell(refused(error, request.number if isinstance(request, AnswerRequest) else None))

    def _wait_for_device(self, devices: list[SelectedDevice], runs: list[Path]) -> SelectedDevice:
        def tell(note: str) -> None:
            self.tell(QueueWait(note, devices[0].title))

        taken = wait_for_devices(devices, time.time(), runs[0] / device_queue.TRY, tell, lambda: False)
        assert taken is not None  # it is never cancelled: the process ends with its client
        return taken[0]

    def _read(self, descriptor: int) -> None:
        """Queue requests until stdin closes; then end the process, even while it generates."""
        buffer = b""
        try:
            while block := os.read(descriptor, 1 << 16):
                *lines, buffer = (buffer + block).split(b"\n")
                for line in lines:
                    self._take(msgspec.json.decode(line, type=Request))
        finally:
            os._exit(0)

    def _take(self, request: Request) -> None:
        if isinstance(request, Stop):
            self._stopped = self._latest
            return
        if isinstance(request, AnswerRequest):
            self._latest = request.number
        self._requests.put(request)


def refused(error: UserError, number: int | None = None) -> RequestRefused:
    """The message for a UserError."""
    return RequestRefused.of(error, number=number)


def main() -> int:
    """Serve one client; the last message of a session that cannot continue is Refused or Failed."""
    # Libraries may print to stdout: messages use a duplicate of it, and stdout itself becomes stderr.
    channel = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    stopping.die_with_parent(int(sys.argv[1]))
    server = ChatServer(os.dup(sys.stdin.fileno()), channel)
    try:
        server.run()
    except UserError as error:
        server.tell(refused(error))
        return 2
    except RunFailed as error:
        server.tell(SessionFailed(reason=str(error), code=error.code))
    except Exception as error:  # noqa: BLE001 - top level: report every error to the client
        server.tell(SessionFailed(reason=error_text(error, MAX_REASON)))
        traceback.print_exc()
    return 1


if __name__ == "__main__":
    redact_output()
    sys.exit(main())
