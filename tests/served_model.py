"""A model served by `transformers serve`, for tests."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def chat_request(url: str, content: dict[str, Any]) -> urllib.request.Request:
    headers = {"Content-Type": "application/json"}
    return urllib.request.Request(f"{url}/v1/chat/completions", json.dumps(content).encode(), headers)


@contextlib.contextmanager
def served(folder: Path, log: Path) -> Iterator[str]:
    """`transformers serve FOLDER` on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder), "--port", str(port)]
    with log.open("w") as file:
        server = subprocess.Popen([*command, "--device", "cpu"], stdout=file, stderr=file)
    url = f"http://localhost:{port}"
    try:
        while True:
            assert server.poll() is None, log.read_text()
            with contextlib.suppress(OSError), urllib.request.urlopen(f"{url}/health", timeout=60):
                break
            time.sleep(0.2)
        yield url
    finally:
        server.kill()
        server.wait()
