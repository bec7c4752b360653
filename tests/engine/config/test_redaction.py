"""No credential that a library prints or raises is in a log, in events or shown."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

import engine
from engine.config.errors import error_text
from engine.config.redaction import Redactor, secrets_of_this_machine
from engine.config.text import REDACTED, without_credentials
from engine.runs.run.event_log import EventLog, exit_message
from engine.runs.run.events import End, Error, Warning
from tui.live.log_lines import OutputReader

CREDENTIALS = (
    "GET https://ann:s3cretpart@host/x failed",
    "HTTPSConnectionPool(host='x', port=443): Max retries exceeded with url: /a?b=1&api_key=s3cretpart",
    "https://storage.example/x?X-Amz-Signature=s3cretpart&a=1 and http://x/y?sig=s3cretpart",
    "{'Authorization': 'Bearer s3cretpart.s3cretpart'}",
    "authorization: basic czNjcmV0cGFydA==",
    "(b'x-api-key', b's3cretpart')",
    "token hf_s3cretparts3cretpart is invalid",
    "the password is s3cret of this machine",
)
"""What libraries print, each with a credential."""
PRINTING = """
import logging, os, sys, threading, traceback, warnings
from engine.config.redaction import redact_output
redact_output()
for text in sys.argv[1:]:
    print(text)
    logging.getLogger("library").error("%s", text)
    warnings.warn(text)
    sys.stderr.write(text[:15]); print(text[15:30], file=sys.stderr, end=""); sys.stderr.write(text[30:] + "\\n")
    thread = threading.Thread(target=lambda: 1 / int(text))
    thread.start(); thread.join()
    try:
        raise RuntimeError(text)
    except RuntimeError:
        traceback.print_exc()
    print(text, end="\\r", flush=True)
    if os.fork() == 0:
        sys.exit(text)
    os.wait()
print("end of what Python prints", flush=True)
os.write(2, "\\n".join(sys.argv[1:-1]).encode() + b"\\n")
"""
"""A worker whose libraries print; at last code in C prints, whose lines only readers of the file can redact."""


def test_no_credential_that_a_library_prints_is_in_a_log_or_shown(tmp_path: Path) -> None:
    path = tmp_path / "engine.log"
    environment = {**os.environ, "LIBRARY_PASSWORD": "s3cret of this machine"}
    with path.open("wb") as log:
        command = [sys.executable, "-c", PRINTING, *CREDENTIALS]
        assert subprocess.run(command, stdout=log, stderr=log, env=environment).returncode == 0
    printed, _, from_c = path.read_text().partition("end of what Python prints")
    assert not [word for word in ("s3cret", "czNj") if word in printed]
    assert printed.count(REDACTED) >= 8 * len(CREDENTIALS) and "Max retries exceeded with url: /a?b=1&" in printed
    chunk = OutputReader(path).read()
    assert chunk and "s3cret" in from_c
    shown = "\n".join([*chunk.lines, chunk.unfinished, exit_message(path)])
    assert not [word for word in ("s3cret", "czNj") if word in shown] and "Max retries exceeded" in shown


def test_events_quote_no_credential(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for text in CREDENTIALS[:-1]:
        log.write(Warning(code="x.y", text=text))
        log.write(Error(text=error_text(OSError(text))))
        log.write(End(status="failed", reason=text))
    written = (tmp_path / "events.jsonl").read_text()
    assert not [word for word in ("s3cret", "czNj") if word in written] and written.count(REDACTED) >= 21


def test_every_process_that_logs_redacts_its_output() -> None:
    """All programs of the engine; others print nothing of libraries, or run another program."""
    root = Path(engine.__file__).parent
    programs = [path for path in root.rglob("*.py") if '\nif __name__ == "__main__":' in path.read_text()]
    silent = {"slurm_job.py", "gguf_tools.py", "stopping.py"}
    unredacted = [path for path in programs if "    redact_output()\n" not in path.read_text()]
    assert len(programs) > 8 and {path.name for path in unredacted} <= silent


@pytest.mark.parametrize(
    "text",
    ["Basic information on bearer bonds", "engine/data/x.py:12: in f", "loss 1.5 [12:30:10] key=1",
     "see https://host/a:b/c?page=2&design=x", "tokens: 137,000", "pad_token='<s>'", "bearer tokens",
     "model hf-internal-testing/tiny-random-llama", "no api_key, settings ignored"],
)  # fmt: skip
def test_what_is_no_credential_is_kept(text: str) -> None:
    assert without_credentials(text) == text


def test_a_long_word_takes_no_quadratic_time() -> None:
    """A log may contain an encoded file."""
    started = time.process_time()
    assert Redactor([])("a" * 20_000) == "a" * 20_000
    assert time.process_time() - started < 3


def test_credentials_in_any_url_are_redacted() -> None:
    redact = Redactor([])
    for text in ("http://ann:pw@host/v1#m", "https://token-alone@host/x", "see http://a:b@c and http://t@d"):
        shown = redact(text)
        assert "pw" not in shown and "token-alone" not in shown and "b@c" not in shown and "t@d" not in shown


@pytest.mark.parametrize("place", ["XDG_CACHE_HOME", "HF_TOKEN_PATH"])
def test_tokens_of_the_hub_are_secret_wherever_its_library_stores_them(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "huggingface"
    folder.mkdir()
    (folder / "token").write_text("stored-by-login\n")
    (folder / "stored_tokens").write_text("[work]\nhf_token = stored-by-name\n")
    environment = {place: str(tmp_path if place == "XDG_CACHE_HOME" else folder / "token")}
    assert {"stored-by-login", "stored-by-name"} <= set(secrets_of_this_machine(environment))


def test_a_token_path_that_names_no_file_is_ignored() -> None:
    for path in ("/", ".", "~no-such-user/token"):
        assert list(secrets_of_this_machine({"HF_TOKEN_PATH": path}))  # the path, whose variable has a secret's name


def test_passwords_that_git_stores_in_its_configuration_are_secret(tmp_path: Path) -> None:
    (tmp_path / "git").mkdir()
    (tmp_path / "git" / "credentials").write_text("https://me:stored-by-git@example.org\n")
    assert "stored-by-git" in secrets_of_this_machine({"XDG_CONFIG_HOME": str(tmp_path)})
