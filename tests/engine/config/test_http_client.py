"""Every client of ours against every hostile behavior of a server: requests end in time and in bounded memory."""

from __future__ import annotations

import contextlib
import http.server
import itertools
import json
import os
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hostile_server import BEHAVIORS, Behavior, HostileServer
from network_client import SECONDS
from places import TESTS

from engine.config import http_client
from engine.config.http_client import bounded_client

MARGIN_SECONDS = 3.0
"""For a machine that is busy with other tests; without a bound, a request takes forever."""
LIMIT_SECONDS = 300.0
"""For all requests of a process."""
MARGIN_BYTES = 64 << 20
PROCESSES = (("judge", "models"), ("pull", "dataset", "push"), ("configuration", "file", "upload"))
"""The clients, by the process in which they are tried."""
REDIRECTED = "redirects slowly"
ENDLESS_FILES = ("floods a body", "floods chunks", "floods chunk extensions")
"""For a download they are files that make progress, until the disk is full."""


class Reply(NamedTuple):
    """Of `network_client.py`."""

    seconds: float
    grown: int
    error: str


def replies(
    clients: Sequence[str], folder: Path, behaviors: Sequence[str] = tuple(BEHAVIORS)
) -> dict[tuple[str, str], Reply]:
    """What these clients do with each behavior."""
    inherited = {name: text for name, text in os.environ.items() if not name.lower().endswith(("_proxy", "_offline"))}
    environment = inherited | {"PYTHONPATH": str(TESTS.parent), "HF_HOME": str(folder), "HF_TOKEN": "hf_token"}
    command, pipe = [sys.executable, str(TESTS / "network_client.py")], subprocess.PIPE
    results = {}
    with (
        HostileServer().running() as server,
        subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment) as process,
    ):
        assert process.stdin and process.stdout
        limit = threading.Timer(LIMIT_SECONDS, process.kill)  # then there is no reply
        limit.start()
        for client in clients:
            for behavior in ("says nothing", *behaviors):  # twice: at first it imports the libraries
                server.behavior = BEHAVIORS[behavior]
                print(client, server.url, file=process.stdin, flush=True)
                results[client, behavior] = Reply(**json.loads(process.stdout.readline()))
        process.stdin.close()
        limit.cancel()
    return results


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Reply]:
    """All replies by client and behavior; the processes mostly wait."""
    folders = [tmp_path_factory.mktemp("hub") for _ in PROCESSES]
    with ThreadPoolExecutor() as pool:
        results = list(pool.map(replies, PROCESSES, folders))
    return {key: reply for result in results for key, reply in result.items()}


@pytest.mark.parametrize("behavior", BEHAVIORS)
@pytest.mark.parametrize("client", [client for clients in PROCESSES for client in clients])
def test_a_request_ends_in_time_and_in_bounded_memory(
    met: dict[tuple[str, str], Reply], client: str, behavior: str
) -> None:
    reply = met[client, behavior]
    assert reply.grown < MARGIN_BYTES
    if client == "file" and behavior in ENDLESS_FILES:
        return
    if client == "configuration" and behavior == REDIRECTED:
        assert "TooManyRedirects" in reply.error  # huggingface_hub follows them itself, as requests of their own
        return
    assert reply.seconds < SECONDS + MARGIN_SECONDS
    assert reply.error or client in ("configuration", "file")  # without a body, or with any


def test_memory_does_not_grow_with_the_number_of_long_requests(tmp_path: Path) -> None:
    met = replies(["judges"], tmp_path, ["says nothing", "trickles a body"])
    for reply in met.values():
        assert reply.error and reply.grown < MARGIN_BYTES


@pytest.fixture(params=["httpx", "httpx2"])
def library(request: pytest.FixtureRequest) -> Any:
    return pytest.importorskip(request.param)


def client_of(library: Any, seconds: float = 60.0, **options: Any) -> Any:
    return bounded_client(library, 1 << 20, seconds, **options)


class Origin(BaseHTTPRequestHandler):
    """Answers with what it was sent, or with its headers; a range of a file of 8 MiB."""

    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *values: Any) -> None: ...

    def do_GET(self) -> None:
        if self.headers["Range"]:
            first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
            self.reply(206, b"," * (last + 1 - first))
        elif self.path == "/busy":
            self.reply(429, b"", {"Retry-After": "86400", "RateLimit": '"api";r=0;t=86400'})
        else:
            self.reply(200, json.dumps(dict(self.headers)).encode(), {"Set-Cookie": f"a{self.path[1:]}=b"})

    def do_POST(self) -> None:
        self.reply(200, self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, status: int, content: bytes, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        self.send_response(status)
        for name, text in (headers | {"Content-Length": str(len(content))}).items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(content)


class Proxy(socketserver.BaseRequestHandler):
    """A tunnel to where CONNECT asks for."""

    def handle(self) -> None:
        asked = self.request.recv(1 << 16).split()[1].decode()
        with socket.create_connection(asked.split(":")) as far:
            self.request.sendall(b"HTTP/1.1 200 Connected\r\n\r\n")
            thread = threading.Thread(target=pass_on, args=(far, self.request), daemon=True)
            thread.start()
            pass_on(self.request, far)
            thread.join()


def pass_on(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(1 << 16):
            target.sendall(block)
        target.shutdown(socket.SHUT_RDWR)


@contextlib.contextmanager
def serving(server: socketserver.TCPServer, certificate: Path | None = None) -> Iterator[str]:
    """Its address while it runs, with TLS if there is a certificate."""
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"{'https' if certificate else 'http'}://localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Key and certificate of localhost in one file."""
    file = tmp_path_factory.mktemp("tls") / "localhost.pem"
    words = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run([*words.split(), "-keyout", file, "-out", file.with_suffix(".crt")], check=True, capture_output=True)
    file.write_bytes(file.read_bytes() + file.with_suffix(".crt").read_bytes())
    return file


@pytest.mark.parametrize("through", ["directly", "http", "https"])
def test_tls_and_proxies_serve_an_honest_server(library: Any, certificate: Path, through: str) -> None:
    """Both directions with more bytes than buffers hold, twice over a connection that is kept."""
    trusted = ssl.create_default_context(cafile=str(certificate))
    origin = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    proxy = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy)
    proxy.daemon_threads = True
    content = os.urandom(900_000)
    with serving(origin, certificate) as url, serving(proxy, certificate if through == "https" else None) as place:
        told = {"ssl_context": trusted} if through == "https" else {}
        options = {} if through == "directly" else {"proxy": library.Proxy(place, **told)}
        with client_of(library, verify=trusted, **options) as client:
            for _ in range(2):
                assert client.post(url, content=content).content == content
            with client.stream("POST", url, content=content * 9) as response:  # a file may be larger
                assert sum(map(len, response.iter_bytes())) == len(content) * 9
        with client_of(library, **options) as client, pytest.raises(library.ConnectError, match="certificate"):
            client.get(url)


def test_requests_ask_for_plain_bytes_and_keep_no_cookies(library: Any) -> None:
    with serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)) as url, client_of(library) as client:
        for number in range(3):
            sent = client.get(f"{url}/{number}", headers={"Accept-Encoding": "gzip"}).json()
            assert sent["Accept-Encoding"] == "identity" and "Cookie" not in sent
        busy = client.get(f"{url}/busy")
        assert busy.headers["Retry-After"] == "60" and "RateLimit" not in busy.headers
        asked = {"Range": f"bytes=1000-{(5 << 20) + 999}"}  # as huggingface_hub reads parts of files
        assert len(client.get(url, headers=asked).content) == 5 << 20


def test_a_request_ends_while_names_and_keys_are_exchanged(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server takes part in neither: the name is never resolved, the handshake never complete."""
    with HostileServer().running() as server, client_of(library, SECONDS, verify=False) as client:
        address = server.url.replace("http", "https")
        server.behavior = Behavior(lambda: itertools.chain([b"\x16\x03\x03\xff\x00"], itertools.repeat(b"a")), 0.05)
        for behavior in (BEHAVIORS["says nothing"], server.behavior):
            server.behavior = behavior
            began = time.monotonic()
            with pytest.raises(library.TransportError):
                client.get(address)
            assert time.monotonic() - began < SECONDS + MARGIN_SECONDS
        release = threading.Event()
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [release.wait(60)][:0])
        began = time.monotonic()
        with pytest.raises(library.ConnectTimeout):
            client.get("http://name.example/")
        assert time.monotonic() - began < SECONDS + MARGIN_SECONDS
        release.set()


def test_a_client_that_has_ended_ends_its_requests(library: Any) -> None:
    with HostileServer().running() as server, ThreadPoolExecutor() as pool:
        for behavior in ("says nothing", "never reads", "trickles headers", "trickles a body"):
            server.behavior, client = BEHAVIORS[behavior], client_of(library, 600.0)
            request = pool.submit(client.post, server.url, content=bytes(16 << 20))
            while not server.connections:
                time.sleep(0.01)
            server.connections.clear()
            client.ended.set()
            assert isinstance(request.exception(MARGIN_SECONDS), library.TransportError)


def test_a_slow_file_goes_on_while_it_makes_progress(library: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than PROGRESS_BYTES within the timeout, for longer than the timeout."""
    monkeypatch.setattr(http_client, "PROGRESS_BYTES", 1 << 10)
    with HostileServer().running() as server, client_of(library, SECONDS) as client:
        pieces = [b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 131072\r\n\r\n", *[bytes(1 << 12)] * 32]
        server.behavior = Behavior(lambda: pieces, 0.05)
        with client.stream("GET", server.url) as response:
            assert sum(map(len, response.iter_bytes())) == 1 << 17
        with pytest.raises(library.ReadTimeout):  # it is no file
            client.get(server.url)


def test_libraries_without_the_place_of_the_backend_are_refused(monkeypatch: pytest.MonkeyPatch, library: Any) -> None:
    """A new version must not make clients unbounded without a word."""
    created = library.HTTPTransport.__init__

    def without(transport: Any, *arguments: Any, **options: Any) -> None:
        created(transport, *arguments, **options)
        transport._pool = object()

    monkeypatch.setattr(library.HTTPTransport, "__init__", without)
    with pytest.raises(RuntimeError, match="cannot be bounded"):
        client_of(library)
