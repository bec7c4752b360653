"""Requests to the engine in a background thread, so that the screen stays responsive; a request can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from textual.message import Message

from engine.config.errors import RunFailed, UserError, error_text
from engine.runs.rpc_client import Cancelled, CancelToken, KeptServer, bytes_done, rows_done

SERVER = KeptServer()
"""Handles the requests about data while the bench is open."""


@dataclass
class ProgressReported(Message):
    """Progress of a request."""

    request: BackgroundRequest
    text: str
    counted: tuple[str, int, int | None] | None = None
    """(activity, done, total) where rows are counted, or the bytes of a download."""


@dataclass
class ResponseReceived(Message):
    """The response, or an error line in `error`."""

    request: BackgroundRequest
    answer: Any
    error: str = ""


class BackgroundRequest(threading.Thread):
    """One request. `post` receives ProgressReported and ResponseReceived from this thread, nothing after `cancel`."""

    def __init__(self, question: str, arguments: dict[str, Any], post: Callable[[Message], object]) -> None:
        super().__init__(daemon=True, name=question)
        self.question, self.arguments, self._post = question, arguments, post
        self._cancel_token = CancelToken()
        self.start()

    def cancel(self) -> None:
        """Cancel the request; its process is killed."""
        self._cancel_token.cancel()

    def run(self) -> None:
        try:
            answer = SERVER.ask(
                self.question, self.arguments, self._tell, self._cancel_token, self._count, self._transfer
            )
        except Cancelled:
            return
        except UserError as error:
            self.post(ResponseReceived(self, None, error.line))
        except RunFailed as error:
            self.post(ResponseReceived(self, None, str(error)))
        except Exception as error:  # noqa: BLE001 - top level of a thread: the screen must show the error
            self.post(ResponseReceived(self, None, f"request failed: {error_text(error)}"))
        else:
            self.post(ResponseReceived(self, answer))

    def _tell(self, text: str) -> None:
        self.post(ProgressReported(self, text))

    def _count(self, text: str, done: int, total: int | None) -> None:
        self.post(ProgressReported(self, f"{text} {rows_done(done, total)}", (text, done, total)))

    def _transfer(self, text: str, done: int, total: int | None) -> None:
        self.post(ProgressReported(self, f"{text}: {bytes_done(done, total)}", (text, done, total)))

    def post(self, message: Message) -> None:
        if not self._cancel_token.cancelled:
            self._post(message)
