"""Headless Chromium controlled over its DevTools pipe, to test a page's requests, console and layout."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-quic",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--remote-debugging-pipe",
)  # fmt: skip
TIMEOUT = 60.0
"""Seconds to wait for a response; a browser starts slowly on a loaded machine."""


class Browser:
    """One page of one browser."""

    def __init__(self, process: subprocess.Popen[bytes], commands: int, responses: int) -> None:
        self.process, self._commands, self._responses = process, commands, responses
        self._id, self._buffer, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """Send a command and return its result. Events received before it are stored."""
        self._id += 1
        message: dict[str, Any] = {"id": self._id, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            response = self._read()
            if response.get("id") != self._id:
                self.events.append(response)
            elif "error" in response:
                raise RuntimeError(f"{method}: {response['error']}")
            else:
                return response["result"]

    def open(self, url: str, width: int, dark: bool = False, media: str = "") -> None:
        """Load a page and wait until it is laid out."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        limit = time.monotonic() + TIMEOUT
        while self.value("document.readyState") != "complete" or self.value("location.href") == "about:blank":
            assert time.monotonic() < limit, "the page did not load"
            time.sleep(0.05)
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        response = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in response, response
        return response["result"].get("value")

    def requests(self) -> list[str]:
        """URLs requested since the page was opened, including its own, without data: URLs."""
        sent = [event["params"]["request"]["url"] for event in self._events_of("Network.requestWillBeSent")]
        return [url for url in sent if not url.startswith("data:")]

    def console(self) -> list[str]:
        """Everything on the console, including exceptions."""
        logged = [event["params"]["entry"]["text"] for event in self._events_of("Log.entryAdded")]
        thrown = [str(event["params"]["exceptionDetails"]) for event in self._events_of("Runtime.exceptionThrown")]
        called = [str(event["params"]["args"]) for event in self._events_of("Runtime.consoleAPICalled")]
        return logged + thrown + called

    def screenshot(self, path: Path, clip: dict[str, float] | None = None) -> None:
        """Save the page, or a part of it, as PNG."""
        clipped = {"clip": {**clip, "scale": 1}} if clip else {}
        response = self.call("Page.captureScreenshot", captureBeyondViewport=True, **clipped)
        path.write_bytes(base64.b64decode(response["data"]))

    def pdf(self, path: Path) -> None:
        response = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(response["data"]))

    def _events_of(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]

    def _read(self) -> dict[str, Any]:
        limit = time.monotonic() + TIMEOUT
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._responses], [], [], max(0.0, limit - time.monotonic()))
            part = os.read(self._responses, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser exited" if ready else "the browser does not respond")
            self._buffer += part
        message, _, self._buffer = self._buffer.partition(b"\0")
        received: dict[str, Any] = json.loads(message)
        return received


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with this profile folder, terminated at the end."""
    assert CHROMIUM, "check CHROMIUM first"
    command_read, command_write = os.pipe()
    response_read, response_write = os.pipe()
    # Chromium uses descriptors 3 and 4 for the pipe; Debian's start script passes them on.
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (command_read, response_write)]
    script = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]} {high[0]}<&- {high[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", script, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=high, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for descriptor in (command_read, response_write, *high):
        os.close(descriptor)
    try:
        yield Browser(process, command_write, response_read)
    finally:
        os.close(command_write)
        os.close(response_read)
        process.terminate()
        process.wait(30)
