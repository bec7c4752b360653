"""Requests to the engine in a background thread, so that the screen stays responsive; a request can be cancelled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from engine.config.errors import RunFailed, UserError, error_text
from engine.runs.rpc_client import Cancelled, CancelToken, KeptServer, bytes_done, rows_done

if TYPE_CHECKING:  # for annotations only: answers are also printed without Textual
    from textual.message_pump import MessagePump

SERVER = KeptServer()
"""Handles the requests about data while the bench is open."""


class BackgroundThread(threading.Thread):
    """Calls back in the event loop of `node`, a screen or widget; no longer once it is cancelled."""

    what: ClassVar[str]
    """What an unexpected error is said to be of."""

    def __init__(self, node: MessagePump, name: str, failed: Callable[[str], object]) -> None:
        """`failed`: takes an error line."""
        super().__init__(daemon=True, name=name)
        self._node, self._failed, self._cancelled = node, failed, False
        self.start()

    def cancel(self) -> None:
        self._cancelled = True

    def work(self) -> None:
        raise NotImplementedError

    def run(self) -> None:
        try:
            self.work()
        except Cancelled:
            return
        except (UserError, RunFailed) as error:
            self.call(self._failed, str(error))
        except Exception as error:  # noqa: BLE001 - top level of a thread: the screen must show the error
            self.call(self._failed, f"{self.what} failed: {error_text(error)}")

    def call(self, callback: Callable[..., object], *arguments: object) -> None:
        self._node.call_later(lambda: None if self._cancelled else callback(*arguments))


class RequestProgress(NamedTuple):
    text: str
    counted: tuple[str, int, int | None] | None = None
    """(activity, done, total) where rows are counted, or the bytes of a download."""


class BackgroundRequest(BackgroundThread):
    """One request. `answered` takes the response and '', or None and an error line."""

    what = "request"

    def __init__(
        self,
        node: MessagePump,
        question: str,
        arguments: dict[str, Any],
        answered: Callable[[Any, str], object],
        progressed: Callable[[RequestProgress], object] = lambda progress: None,
    ) -> None:
        self.question, self.arguments = question, arguments
        self._answered, self._progressed, self._cancel_token = answered, progressed, CancelToken()
        super().__init__(node, question, lambda error: answered(None, error))

    def cancel(self) -> None:
        """Cancel the request; its process is killed."""
        super().cancel()
        self._cancel_token.cancel()

    def work(self) -> None:
        def show(text: str, counted: tuple[str, int, int | None] | None = None) -> None:
            self.call(self._progressed, RequestProgress(text, counted))

        answer = SERVER.ask(
            self.question,
            self.arguments,
            show,
            self._cancel_token,
            lambda text, done, total: show(f"{text} {rows_done(done, total)}", (text, done, total)),
            lambda text, done, total: show(f"{text}: {bytes_done(done, total)}", (text, done, total)),
        )
        self.call(self._answered, answer, "")
