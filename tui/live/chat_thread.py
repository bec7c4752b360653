"""A chat session in a thread, whose messages reach the screen that started it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from textual.message import Message

from engine.config.errors import RunFailed, UserError, error_text
from engine.runs.chat_client import ChatClient, OpenSession, Request
from engine.runs.chat_client import Message as SessionMessage


@dataclass
class SessionMessageReceived(Message):
    """A message of the session."""

    thread: ChatThread
    content: SessionMessage


@dataclass
class SessionEnded(Message):
    """The session ended by an error."""

    thread: ChatThread
    error: str


class ChatThread(threading.Thread):
    """One session. `post` receives its messages from this thread, none after `close`."""

    def __init__(self, request: OpenSession, on_cpu: bool, post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name="chat session")
        self.client = ChatClient(request, on_cpu)
        self._post, self._closed = post, False
        self.start()

    def send(self, request: Request) -> None:
        self.client.send(request)

    def stop(self) -> None:
        """Stop generating."""
        self.client.stop()

    def close(self) -> None:
        """End the session's process; all its memory is free when this returns."""
        self._closed = True
        self.client.close()

    def run(self) -> None:
        try:
            for message in self.client.messages():
                self._post_if_open(SessionMessageReceived(self, message))
        except UserError as error:
            self._post_if_open(SessionEnded(self, error.line))
        except RunFailed as error:
            self._post_if_open(SessionEnded(self, str(error)))
        except Exception as error:  # noqa: BLE001 - top level of a thread: the screen must show the error
            self._post_if_open(SessionEnded(self, f"the session failed: {error_text(error)}"))

    def _post_if_open(self, message: Message) -> None:
        if not self._closed:
            self._post(message)
