"""A Hub on this machine that serves the files of one folder as a model."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = "team/small"
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """The endpoints of the Hub that a download uses.

    With `token` it is gated, except for those who send it. `gate` holds back files that end with `held` until it is
    set; the next `dropped` requests for them are cut.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.folder = folder
        self.gate = threading.Event()
        self.held = ".safetensors"
        self.dropped = 0
        self.sent: list[str] = []
        self.gone = False
        self.gated = False
        self.token = ""


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, head: bool = False) -> None:
        path = self.path.split("?")[0]
        known = self.headers["Authorization"] == f"Bearer {self.server.token}"
        gated = self.server.gated or bool(self.server.token and not known)
        if self.server.gone or gated:
            self.send_response(404 if not gated else 403 if self.headers["Authorization"] else 401)
            self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("/api/models/"):
            sizes = {file.name: file.stat().st_size for file in self.server.folder.iterdir()}
            tree = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in sizes.items()]
            files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            about = {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": files}
            self.send(json.dumps(tree if "/tree/" in path else about).encode(), "application/json", head)
            return
        file = self.server.folder / path.rpartition("/")[2]
        if file.name.endswith(self.server.held) and not head:
            if self.server.dropped > 0:
                self.server.dropped -= 1
                self.connection.close()
                return
            self.server.gate.wait(60)
        if not head:
            self.server.sent.append(file.name)
        self.send(file.read_bytes(), "application/octet-stream", head)

    def send(self, content: bytes, kind: str, head: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not head:
            self.wfile.write(content)
