"""A server that does to HTTP clients what no server should: one behavior at a time, over real sockets."""

from __future__ import annotations

import contextlib
import functools
import gzip
import itertools
import socket
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import brotli

PAUSE = 0.05
"""Seconds between the pieces of what trickles: far below every timeout of a read."""
FLOOD_BYTES = 200 << 20
"""Sent where a server sends without an end; then it closes the connection."""
BOMB_BYTES = 100 << 20
CLOSE = b"Connection: close\r\n"
"""A client that asked for headers alone would else send its next request into a body that it did not want."""
OK = b"HTTP/1.1 200 OK\r\n" + CLOSE
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def forever(piece: bytes) -> Iterable[bytes]:
    return itertools.repeat(piece)


@functools.cache
def bomb(encoding: str) -> bytes:
    """BOMB_BYTES of zeros, compressed once or, as `gzip, gzip`, several times."""
    content = bytes(BOMB_BYTES)
    for name in encoding.split(", "):
        content = {"gzip": gzip.compress, "deflate": zlib.compress, "br": _brotli}[name](content)
    return content


def _brotli(content: bytes) -> bytes:
    return brotli.compress(content, quality=1)


def encoded(encoding: str, status: bytes = OK) -> Callable[[], Iterable[bytes]]:
    content = bomb(encoding)

    def reply() -> Iterable[bytes]:
        yield status + f"Content-Encoding: {encoding}\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        yield content

    return reply


def whole(content: bytes) -> Iterable[bytes]:
    yield OK + f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    yield content


def redirect() -> Iterable[bytes]:
    time.sleep(4 * PAUSE)
    yield b"HTTP/1.1 302 Found\r\nLocation: /again\r\nContent-Length: 0\r\n" + CLOSE + b"\r\n"


@dataclass(frozen=True)
class Behavior:
    """How a server replies to a request, once it has read the request."""

    pieces: Callable[[], Iterable[bytes]]
    pause: float = 0.0
    reads: bool = True


BEHAVIORS: dict[str, Behavior] = {
    "says nothing": Behavior(lambda: (b"" for _ in forever(b"")), PAUSE),
    "never reads": Behavior(lambda: (b"" for _ in forever(b"")), PAUSE, reads=False),
    "trickles a status line": Behavior(lambda: itertools.chain([b"HTTP/1.1 200 "], forever(b"O")), PAUSE),
    "trickles headers": Behavior(lambda: itertools.chain([OK], forever(b"X-Header: value\r\n")), PAUSE),
    "trickles one header": Behavior(lambda: itertools.chain([OK, b"X-Header: "], forever(b"v")), PAUSE),
    "trickles 100 Continue": Behavior(lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n"), PAUSE),
    "trickles a body": Behavior(lambda: itertools.chain([OK + b"Content-Length: 9999\r\n\r\n"], forever(b" ")), PAUSE),
    "trickles a body without a length": Behavior(lambda: itertools.chain([OK + b"\r\n"], forever(b" ")), PAUSE),
    "trickles chunks": Behavior(lambda: itertools.chain([CHUNKED], forever(b"1\r\n \r\n")), PAUSE),
    "trickles a chunk extension": Behavior(lambda: itertools.chain([CHUNKED, b"1;"], forever(b"e")), PAUSE),
    "trickles trailers": Behavior(lambda: itertools.chain([CHUNKED, b"0\r\n"], forever(b"X-Trailer: v\r\n")), PAUSE),
    "floods 100 Continue": Behavior(lambda: forever(b"HTTP/1.1 100 Continue\r\n\r\n" * 1000)),
    "floods headers": Behavior(lambda: itertools.chain([OK], forever(b"X-Header: value\r\n" * 1000))),
    "floods one header": Behavior(lambda: itertools.chain([OK, b"X-Header: "], forever(bytes([97]) * 65536))),
    "floods a body": Behavior(lambda: itertools.chain([OK + b"\r\n"], forever(bytes([32]) * 65536))),
    "floods chunks": Behavior(lambda: itertools.chain([CHUNKED], forever(b"2\r\n  \r\n" * 10000))),
    "floods chunk extensions": Behavior(
        lambda: itertools.chain([CHUNKED], forever(b"1;" + b"e" * 9000 + b"\r\n \r\n"))
    ),
    "floods one chunk extension": Behavior(lambda: itertools.chain([CHUNKED, b"1;"], forever(bytes([101]) * 65536))),
    "sends gzip": Behavior(encoded("gzip")),
    "sends gzip in gzip": Behavior(encoded("gzip, gzip")),
    "sends gzip in gzip in gzip": Behavior(encoded("gzip, gzip, gzip")),
    "sends deflate": Behavior(encoded("deflate")),
    "sends brotli": Behavior(encoded("br")),
    "sends gzip with a redirect": Behavior(
        encoded("gzip, gzip", b"HTTP/1.1 302 Found\r\nLocation: /again\r\n" + CLOSE)
    ),
    "sends gzip with an error": Behavior(encoded("gzip, gzip", b"HTTP/1.1 500 Error\r\n" + CLOSE)),
    "floods an error": Behavior(
        lambda: itertools.chain([b"HTTP/1.1 500 Error\r\n" + CLOSE + b"\r\n"], forever(bytes([32]) * 65536))
    ),
    "sends many objects": Behavior(lambda: whole(b"[" + b"{}," * 300_000 + b"{}]")),
    "sends many lists": Behavior(lambda: whole(b'{"choices": [' + b"[]," * 1_000_000 + b"[]]}")),
    "redirects slowly": Behavior(redirect),
}


class HostileServer:
    """`behavior` can change between requests; each connection ends with one reply."""

    def __init__(self) -> None:
        self.behavior = BEHAVIORS["says nothing"]
        self.connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._ended = threading.Event()
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @contextlib.contextmanager
    def running(self) -> Iterator[HostileServer]:
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            self._ended.set()
            self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # closed
            while not self._ended.is_set():
                connection, _ = self._listener.accept()
                self.connections.append(connection)
                threading.Thread(target=self._reply, args=(connection, self.behavior), daemon=True).start()

    def _reply(self, connection: socket.socket, behavior: Behavior) -> None:
        sent = 0
        with connection, contextlib.suppress(OSError):
            if behavior.reads:
                connection.recv(1 << 16)
            for piece in behavior.pieces():
                connection.sendall(piece)
                sent += len(piece)
                if self._ended.is_set() or sent > FLOOD_BYTES:
                    return
                time.sleep(behavior.pause)
