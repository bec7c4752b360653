"""Debian's headless Chromium over its DevTools pipe, for tests of pages: what it asks for, logs and lays out."""

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
PATIENCE = 60.0
"""Seconds to wait for an answer; a loaded machine is slow to start a browser."""


class Browser:
    """One page of one browser."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, answers: int) -> None:
        self.process, self._to, self._answers = process, to, answers
        self._number, self._rest, self._session = 0, b"", ""
        self.events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> Any:
        """The answer to one command; events on the way are kept."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") != self._number:
                self.events.append(answer)
            elif "error" in answer:
                raise RuntimeError(f"{method}: {answer['error']}")
            else:
                return answer["result"]

    def open(self, url: str, width: int, dark: bool = False, media: str = "") -> None:
        """Load a page anew and wait until it is laid out."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        limit = time.monotonic() + PATIENCE
        while self.value("document.readyState") != "complete" or self.value("location.href") == "about:blank":
            assert time.monotonic() < limit, "the page did not load"
            time.sleep(0.05)
        self.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def requests(self) -> list[str]:
        """Addresses the page asked for since it was opened, its own included; data: addresses ask nobody."""
        sent = [event["params"]["request"]["url"] for event in self._seen("Network.requestWillBeSent")]
        return [url for url in sent if not url.startswith("data:")]

    def complaints(self) -> list[str]:
        """Everything on the console, exceptions included."""
        logged = [event["params"]["entry"]["text"] for event in self._seen("Log.entryAdded")]
        thrown = [str(event["params"]["exceptionDetails"]) for event in self._seen("Runtime.exceptionThrown")]
        called = [str(event["params"]["args"]) for event in self._seen("Runtime.consoleAPICalled")]
        return logged + thrown + called

    def screenshot(self, path: Path, clip: dict[str, float] | None = None) -> None:
        """The whole page, or a part of it, as PNG."""
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True, **more)
        path.write_bytes(base64.b64decode(found["data"]))

    def pdf(self, path: Path) -> None:
        found = self.call("Page.printToPDF", preferCSSPageSize=True, printBackground=True)
        path.write_bytes(base64.b64decode(found["data"]))

    def _seen(self, method: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event.get("method") == method]

    def _read(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, limit - time.monotonic()))
            part = os.read(self._answers, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("the browser is gone" if ready else "the browser does not answer")
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(message)
        return found


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile folder of its own, ended afterwards."""
    assert CHROMIUM, "ask for CHROMIUM first"
    commands, to = os.pipe()
    answers, from_it = os.pipe()
    # The pipe has to be its descriptors 3 and 4; Debian's starter is a script that hands them on.
    high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (commands, from_it)]
    words = f'exec "$0" "$@" 3<&{high[0]} 4>&{high[1]} {high[0]}<&- {high[1]}>&-'
    process = subprocess.Popen(
        ["bash", "-c", words, CHROMIUM, *FLAGS, f"--user-data-dir={profile}"],
        pass_fds=high, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    for descriptor in (commands, from_it, *high):
        os.close(descriptor)
    try:
        yield Browser(process, to, answers)
    finally:
        os.close(to)
        os.close(answers)
        process.terminate()
        process.wait(30)
