"""Every client of ours against every hostile behavior of a server: requests end in time and in bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from hostile_server import BEHAVIORS, HostileServer
from network_client import SECONDS
from places import TESTS

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


def replies(clients: Sequence[str], folder: Path) -> dict[tuple[str, str], Reply]:
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
            for behavior in ("says nothing", *BEHAVIORS):  # twice: at first it imports the libraries
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
