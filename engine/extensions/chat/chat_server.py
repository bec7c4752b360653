"""Chat session: `python -m engine.extensions.chat.chat_server PID` answers one client until its stdin closes.

Requests and messages are JSON lines (`chat_client.py`). The process is in the device queue while it waits
and as long as it runs; it ends with its client, which frees all memory.
"""

from __future__ import annotations

import contextlib
import queue
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from engine.config.errors import UserError
from engine.config.files import used_folder
from engine.config.redaction import redact_output
from engine.extensions.chat.chat_client import (
    NOT_FINISHED,
    AnswerRequest,
    ListItems,
    LoadingProgress,
    OpenSession,
    QueueWait,
    Request,
    RequestRefused,
    SessionFailed,
    Stop,
)
from engine.hardware.devices import select_devices
from engine.methods.library_imports import import_libraries
from engine.runs.queue.device_queue import wait_for_device
from engine.runs.run.run_dir import RunDir, finished_result
from engine.worker.rpc_server import Channel, tell_outcome

if TYPE_CHECKING:
    from engine.extensions.chat.session import ChatSession


class ChatServer:
    """Reads requests in the channel's thread, so that a Stop arrives while an answer is generated."""

    def __init__(self, client: int) -> None:
        """`client`: process id of the client."""
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._latest = self._stopped = -1
        """Numbers of the latest AnswerRequest that was read, and of the latest one that was stopped."""
        self.tell = Channel(client, self._take).send

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
            devices = select_devices(request.device)
            device = devices[0]
            if request.wait:
                place = paths[0] / "try"
                device = wait_for_device(devices, place, lambda note: self.tell(QueueWait(note, devices[0].title)))
            device.apply()
            self.tell(LoadingProgress("loading libraries"))
            import_libraries()  # after the wait: it takes seconds
            from engine.extensions.chat.session import ChatSession

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
            number = request.number if isinstance(request, AnswerRequest) else None
            self.tell(RequestRefused.of(error, number=number))

    def _take(self, line: bytes) -> None:
        request = msgspec.json.decode(line, type=Request)
        if isinstance(request, Stop):
            self._stopped = self._latest
            return
        if isinstance(request, AnswerRequest):
            self._latest = request.number
        self._requests.put(request)


def main() -> int:
    """Serve one client; the last message of a session that cannot continue tells why."""
    server = ChatServer(int(sys.argv[1]))
    return tell_outcome(
        server.run,
        lambda error: server.tell(RequestRefused.of(error)),
        lambda reason, code: server.tell(SessionFailed(reason=reason, code=code)),
    )


if __name__ == "__main__":
    redact_output()
    sys.exit(main())
