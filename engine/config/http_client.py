"""HTTP clients whose requests end in time and in bounded memory, also with servers that never finish a response.

The timeouts of httpx hold for one operation of a socket: a server that sends a header a second keeps a request waiting
forever, and what it compresses is decompressed completely. Here every request is an `Attempt` with a deadline and a
maximum of bytes, and the sockets ask it before each operation: while they resolve a name, connect, negotiate TLS, send,
and receive headers or body. huggingface_hub's own client is httpx in version 1 and httpx2 in version 2.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import queue
import re
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from types import ModuleType
from typing import Any, Protocol, TypeVar

POLL_SECONDS = 0.1
"""Longest wait of a socket until it asks again whether its attempt has ended."""
READ_BYTES = 1 << 16
PROGRESS_BYTES = 1 << 20
"""A transfer that moves fewer bytes than this within the timeout is ended."""
BYTES_PER_VALUE = 64
"""JSON with more values than one per so many bytes of the largest response is refused: Python needs up to 230 each."""
HUB_RESPONSE_BYTES = 4 << 20
"""Largest response of the Hub that is not a file: the list of 30,000 files of a repository."""
HUB_SECONDS = 120.0
"""Timeout of requests to the Hub for which huggingface_hub has none, for example a commit."""
DOWNLOAD_SECONDS = 60
"""Timeout of a download: 18 kB/s keep it going. huggingface_hub's own are 10 s."""
DOWNLOAD_CHUNK_BYTES = 1 << 18
"""Held in memory by each of eight downloads at a time; huggingface_hub's own are 10 MiB."""
RANGE = re.compile(r"bytes=(\d+)-(\d+)")
LONG_WAIT, MAX_RETRY_AFTER = re.compile(r"\d{3,}"), "60"
"""Seconds for which a client waits because a server says so (Retry-After), and at most."""
Given = TypeVar("Given")
Result = TypeVar("Result")


class Attempt:
    """A request from its start to the end of its response. The sockets get it from httpx as their timeout."""

    def __init__(self, seconds: float, max_bytes: float, client_ended: threading.Event, sends_files: bool) -> None:
        """`max_bytes`: of the response. `sends_files`: each PROGRESS_BYTES that are sent extend the time."""
        self.seconds, self.max_bytes, self.sends_files = seconds, max_bytes, sends_files
        self.receives_file = False
        """Whether each PROGRESS_BYTES that are received extend the time."""
        self._client_ended, self._deadline = client_ended, time.monotonic() + seconds
        self._received = self._progress = 0

    def wait_seconds(self) -> float:
        """How long a socket may wait until it asks again. Raises TimeoutError at the end of the attempt."""
        if self._client_ended.is_set():
            raise ConnectionAbortedError("the client was closed")
        left = self._deadline - time.monotonic()
        if left <= 0:
            progress = f" and less than {PROGRESS_BYTES >> 20} MiB" if self.sends_files or self.receives_file else ""
            raise TimeoutError(f"no complete response{progress} within {self.seconds:g} s")
        return min(left, POLL_SECONDS)

    def count_sent(self, count: int) -> None:
        self._count_progress(count if self.sends_files else 0)

    def count_received(self, count: int) -> None:
        """Raises ConnectionError for a response that is too large."""
        self._count_progress(count if self.receives_file else 0)
        self._received += count
        if self._received > self.max_bytes:
            raise ConnectionError(f"the response is larger than {int(self.max_bytes) >> 10:,} KiB")

    def _count_progress(self, count: int) -> None:
        self._progress += count
        if self._progress >= PROGRESS_BYTES:
            self._progress, self._deadline = 0, time.monotonic() + self.seconds


class _Stream(Protocol):
    """`httpcore.NetworkStream`."""

    def read(self, max_bytes: int, timeout: Any = None) -> bytes: ...
    def write(self, buffer: bytes, timeout: Any = None) -> None: ...
    def close(self) -> None: ...
    def get_extra_info(self, info: str) -> Any: ...


class _Streams:
    """What both kinds of streams share: errors of httpcore's classes, and the attempt that a connection now serves."""

    def __init__(self, core: Any, attempt: Attempt) -> None:
        self._core, self._attempt = core, attempt

    def _now(self, attempt: Attempt | None) -> Attempt:
        """The attempt of this operation; httpcore gives none to the operations of some proxies."""
        self._attempt = attempt or self._attempt
        return self._attempt

    def start_tls(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: Any = None) -> Any:
        with _httpcore_errors(self._core, "Connect"):
            return _TlsStream(self._core, self, ssl_context, server_hostname, self._now(timeout))  # type: ignore[arg-type]


class _SocketStream(_Streams):
    """A connected socket."""

    def __init__(self, core: Any, connected: socket.socket, attempt: Attempt) -> None:
        super().__init__(core, attempt)
        self._socket = connected

    def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        attempt = self._now(timeout)
        with _httpcore_errors(self._core, "Read"):
            received = self._wait_for(self._socket.recv, max_bytes)
            attempt.count_received(len(received))
        return received

    def write(self, buffer: bytes, timeout: Any = None) -> None:
        attempt, left = self._now(timeout), memoryview(buffer)
        with _httpcore_errors(self._core, "Write"):
            while left:
                sent = self._wait_for(self._socket.send, left[:READ_BYTES])
                attempt.count_sent(sent)
                left = left[sent:]

    def _wait_for(self, operation: Callable[[Given], Result], given: Given) -> Result:
        while True:
            self._socket.settimeout(self._attempt.wait_seconds())
            with contextlib.suppress(TimeoutError):
                return operation(given)

    def close(self) -> None:
        self._socket.close()

    def get_extra_info(self, info: str) -> Any:
        if info == "is_readable":  # an idle connection that the server has closed
            if self._socket.fileno() < 0:
                return True
            poll = select.poll()
            poll.register(self._socket, select.POLLIN)
            return bool(poll.poll(0))
        return self._socket if info == "socket" else None


class _TlsStream(_Streams):
    """TLS over a stream, also over that of a proxy: the stream below bounds its bytes."""

    def __init__(
        self, core: Any, below: _Stream, context: ssl.SSLContext, hostname: str | None, attempt: Attempt
    ) -> None:
        super().__init__(core, attempt)
        self._below, self._incoming, self._outgoing = below, ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=hostname)
        self._exchange(self._tls.do_handshake)

    def _exchange(self, operation: Callable[[], Result]) -> Result:
        """The result of an operation of TLS, with what it sends and what it waits for."""
        while True:
            result: list[Result] = []
            with contextlib.suppress(ssl.SSLWantReadError):
                result.append(operation())
            if pending := self._outgoing.read():
                self._below.write(pending, self._attempt)
            if result:
                return result[0]
            if received := self._below.read(READ_BYTES, self._attempt):
                self._incoming.write(received)
            else:
                self._incoming.write_eof()

    def read(self, max_bytes: int, timeout: Any = None) -> bytes:
        self._now(timeout)
        with _httpcore_errors(self._core, "Read"):
            try:
                return self._exchange(lambda: self._tls.read(max_bytes))
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):  # closed, with or without saying so
                return b""

    def write(self, buffer: bytes, timeout: Any = None) -> None:
        self._now(timeout)
        with _httpcore_errors(self._core, "Write"):
            self._exchange(lambda: self._tls.write(buffer))

    def close(self) -> None:
        self._below.close()

    def get_extra_info(self, info: str) -> Any:
        return self._tls if info == "ssl_object" else self._below.get_extra_info(info)


class _Backend:
    """`httpcore.NetworkBackend`."""

    def __init__(self, core: Any) -> None:
        self._core = core

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: Any = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _SocketStream:
        with _httpcore_errors(self._core, "Connect"):
            connected = _connect(timeout, (host, port), (local_address, 0) if local_address else None)
            for option in ((socket.IPPROTO_TCP, socket.TCP_NODELAY, 1), *(socket_options or ())):
                connected.setsockopt(*option)
        return _SocketStream(self._core, connected, timeout)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _connect(attempt: Attempt, address: tuple[str, int], source: tuple[str, int] | None) -> socket.socket:
    """In a thread: nothing else ends the resolution of a name. If the attempt ends before, the thread is abandoned."""
    outcome: queue.SimpleQueue[socket.socket | OSError] = queue.SimpleQueue()

    def connect() -> None:
        try:
            outcome.put(socket.create_connection(address, attempt.seconds, source))
        except (OSError, UnicodeError) as error:  # UnicodeError: no name of a host
            outcome.put(error if isinstance(error, OSError) else OSError(str(error)))

    threading.Thread(target=connect, daemon=True, name="connecting").start()
    while True:
        with contextlib.suppress(queue.Empty):
            result = outcome.get(timeout=attempt.wait_seconds())
            if isinstance(result, OSError):
                raise result
            return result


@contextlib.contextmanager
def _httpcore_errors(core: Any, operation: str) -> Iterator[None]:
    """Raise OSError and TimeoutError as httpcore's errors of an operation, which httpx translates into its own."""
    try:
        yield
    except TimeoutError as error:
        raise getattr(core, f"{operation}Timeout")(str(error)) from error
    except OSError as error:
        raise getattr(core, f"{operation}Error")(str(error)) from error


def bounded_client(
    library: Any, max_bytes: int, seconds: float, sends_files: bool = False, bounds_wait: bool = True, **options: Any
) -> Any:
    """A client of `library`, httpx or httpx2, created with these options.

    A request ends after its timeout, `seconds` if it has none; one that receives a file (streams it, or asks for a
    range), or with `sends_files` sends one, when less than PROGRESS_BYTES are transferred within the timeout. Responses
    that are not streamed have at most `max_bytes`. With `bounds_wait`, for libraries that wait as long as Retry-After
    says, it says at most MAX_RETRY_AFTER. `client.ended.set()` ends all requests.
    Raises RuntimeError for an unknown version of the library.
    """
    core: ModuleType = import_module(library.__name__.replace("httpx", "httpcore"))

    class Client(library.Client):  # type: ignore[misc]
        ended = threading.Event()

        def send(self, request: Any, *, stream: bool = False, **more: Any) -> Any:
            """One attempt, with all redirects: they take over the extensions of the request."""
            timeout = request.extensions.get("timeout", {}).get("read") or seconds
            attempt = Attempt(timeout, max_bytes, self.ended, sends_files)
            if asked := RANGE.fullmatch(request.headers.get("Range", "")):
                attempt.max_bytes += int(asked[2]) - int(asked[1]) + 1
                attempt.receives_file = True
            ends = {"connect": attempt, "read": attempt, "write": attempt, "pool": timeout}
            request.extensions = {**request.extensions, "timeout": ends}
            request.headers["Accept-Encoding"] = "identity"
            response = super().send(request, stream=stream, **more)
            if stream and response.is_success:  # until here, and for the text of an error, as any other response
                attempt.receives_file, attempt.max_bytes = True, math.inf
            elif not (stream or asked) and _count_values(response.content) > max_bytes // BYTES_PER_VALUE:
                raise library.DecodingError("the response has too many values", request=request)
            return response

    def check(response: Any) -> None:
        """Before the body of any response is read, also of a redirect or an error."""
        client.cookies.clear()  # which would grow with each response
        encodings = response.headers.get("Content-Encoding", "").lower().strip()
        if encodings not in ("", "identity") and response.request.method != "HEAD":
            text = f"the response is encoded ({encodings[:40]}), although identity was requested"
            raise library.DecodingError(text, request=response.request)
        response.headers.pop("RateLimit", None)  # from it huggingface_hub computes how long it sleeps
        if bounds_wait and LONG_WAIT.fullmatch(response.headers.get("Retry-After", "").strip()):
            response.headers["Retry-After"] = MAX_RETRY_AFTER

    client = Client(timeout=None, **options)  # so that `seconds` holds for requests without a timeout
    client.event_hooks = {**client.event_hooks, "response": [*client.event_hooks["response"], check]}
    for transport in (client._transport, *client._mounts.values()):  # the latter are those of proxies
        if transport is not None:
            if not hasattr(transport._pool, "_network_backend"):
                raise RuntimeError(f"unknown version of {library.__name__}: its connections cannot be bounded")
            transport._pool._network_backend = _Backend(core)
    return client


def _count_values(content: bytes) -> int:
    """At least the number of values of JSON text."""
    return sum(map(content.count, (b",", b"[", b"{")))


@functools.cache
def bound_hub_client() -> None:
    """Let huggingface_hub, and all libraries that use it, send requests by a bounded client in this process.

    Xet, which has a client of its own, is not used unless HF_HUB_DISABLE_XET is set to 0.
    """
    from huggingface_hub import constants, set_client_factory
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.utils._http import hf_request_event_hook

    constants.DOWNLOAD_CHUNK_SIZE = DOWNLOAD_CHUNK_BYTES
    if "HF_HUB_DISABLE_XET" not in os.environ:
        constants.HF_HUB_DISABLE_XET = True
    if "HF_HUB_DOWNLOAD_TIMEOUT" not in os.environ:
        constants.HF_HUB_DOWNLOAD_TIMEOUT = DOWNLOAD_SECONDS
    library = import_module(HfHubHTTPError.__bases__[0].__module__.partition(".")[0])
    options: dict[str, Any] = {"event_hooks": {"request": [hf_request_event_hook]}, "follow_redirects": True}
    set_client_factory(lambda: bounded_client(library, HUB_RESPONSE_BYTES, HUB_SECONDS, sends_files=True, **options))
