"""Replace secrets in text and in a process's output: values that this machine keeps secret, and what looks like a
credential.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TextIO
from urllib.parse import quote

from engine.config.files import read_small
from engine.config.home import hub_home
from engine.config.text import CREDENTIALS, REDACTED

MIN_SECRET = 6
"""Shorter values are not replaced: `1` or `true` would be replaced everywhere."""
SECRET_NAME = re.compile(
    r"token|secret|passw|credential|api_?key|access_?key|private_?key|auth(?!or)|cookie", re.IGNORECASE
)
"""Names of environment variables and settings whose value is secret."""
PATTERNS = (
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL),
    *CREDENTIALS,
)
ASSIGNMENT = re.compile(
    r"""(?<![A-Za-z0-9_.-])(?P<name>[A-Za-z0-9_.-]*(?:token|secret|passw(?:or)?d|credential|api[_-]?key|access[_-]?key|authorization|cookie)s?)"""
    r"""(?P<between>["']?\s*[=:]\s*)(?P<value>"[^"\n]*"|'[^'\n]*'|[^\s"',;}\]]+)""",
    re.IGNORECASE,
)
"""`api_key = "…"`, `"password": "…"`, `HF_TOKEN=…`. The lookbehind tries a match only where a name begins, which takes
a fifth of the time."""
NUMBER = re.compile(r"[\"']?[-+0-9.e_]*[\"']?|true|false|null|None")
"""A value that is no secret: `tokens: 137000`."""


class Redactor:
    """Replaces secrets, and counts them; with `assignments` also the values of settings with a secret's name."""

    def __init__(self, secrets: Iterable[str], assignments: bool = True) -> None:
        self._assignments = assignments
        known: set[str] = set()
        for secret in secrets:
            if len(secret) >= MIN_SECRET:  # also find it where JSON or a URL escapes it
                in_json = (json.dumps(secret, ensure_ascii=ascii_only)[1:-1] for ascii_only in (True, False))
                known |= {secret, *in_json, quote(secret, safe="")}
        self._known = sorted(known, key=len, reverse=True)  # a secret may contain another one
        self.count = 0

    def __call__(self, text: str) -> str:
        for secret in self._known:
            self.count += text.count(secret)
            text = text.replace(secret, REDACTED)
        for pattern in PATTERNS:
            text, number = pattern.subn(REDACTED, text)
            self.count += number
        return ASSIGNMENT.sub(self._assigned, text) if self._assignments else text

    def leaks(self, text: str) -> bool:
        return any(secret in text for secret in self._known)

    def _assigned(self, match: re.Match[str]) -> str:
        value = match["value"]
        if NUMBER.fullmatch(value) or REDACTED in value:
            return match[0]
        self.count += 1
        quote = value[0] if value[0] in "\"'" else ""
        return f"{match['name']}{match['between']}{quote}{REDACTED}{quote}"


class RedactedOutput(io.TextIOWrapper):
    """A text stream that replaces secrets, line by line; a line without an end is written when it is flushed."""

    def __init__(self, stream: TextIO, redact: Redactor) -> None:
        # A file object of its own: that of a stream keeps in mind what its descriptor was before a dup2.
        file = io.BufferedWriter(io.FileIO(stream.fileno(), "w", closefd=False))
        super().__init__(file, encoding="utf-8", errors="backslashreplace", line_buffering=True)
        self._stream = stream  # the descriptor would be closed with it
        self._redact = redact
        self._unfinished: dict[int, str] = {}
        """Thread -> the start of its line: lines of threads are not mixed, and no lock is held when a process forks."""

    def write(self, text: str) -> int:
        done, end, rest = (self._unfinished.pop(threading.get_ident(), "") + text).rpartition("\n")
        if rest:
            self._unfinished[threading.get_ident()] = rest
        if end:
            super().write(self._redact(done) + end)
        return len(text)

    def flush(self) -> None:
        if rest := self._unfinished.pop(threading.get_ident(), ""):
            super().write(self._redact(rest))
        super().flush()


def redact_output() -> None:
    """Replace secrets in what this process and its libraries print to stdout and stderr from now on.

    Lines are written to the same file at once: a pipe to a process that redacts would lose what a crash prints. Code in
    C, which writes to the file itself, is not covered: readers of the file call `without_credentials`.
    """
    redact = Redactor(secrets_of_this_machine(), assignments=False)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        stream.flush()
        setattr(sys, name, RedactedOutput(stream, redact))


def secrets_of_this_machine(environment: Mapping[str, str] = os.environ) -> Iterator[str]:
    """Values of variables with a secret's name, and the credentials that the Hub, wandb, git and netrc have stored."""
    for name, value in environment.items():
        if SECRET_NAME.search(name):
            yield value
    home = Path(os.path.expanduser("~"))  # noqa: PTH111 - Path.home() raises where it is unknown
    token = Path(os.path.expanduser(environment.get("HF_TOKEN_PATH") or hub_home(environment) / "token"))  # noqa: PTH111
    for path in (token, home / ".huggingface" / "token"):
        yield _content(path).strip()
    yield from re.findall(r"=\s*(\S+)", _content(token.parent / "stored_tokens"))
    yield from re.findall(r"password\s+(\S+)", _content(Path(environment.get("NETRC") or home / ".netrc")))
    git = Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "git" / "credentials"
    for path in (home / ".git-credentials", git):
        yield from re.findall(r"://[^:\s/]*:([^@\s]+)@", _content(path))


def _content(path: Path) -> str:
    """The text of a small file, '' where it is missing or cannot be read."""
    try:
        return read_small(path).decode("utf-8", "replace")
    except OSError:
        return ""
