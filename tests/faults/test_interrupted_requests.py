"""SIGINT ends a command while a server holds one of its requests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from command import FTBENCH
from hostile_server import BEHAVIORS, HostileServer
from made_ladder import made_ladder
from planted_judge import plant_answers

END_SECONDS = 2.0
LOAD_SECONDS = 20.0
"""More for a machine that is busy with other tests; without a bound, the command continues as long as the server."""
COMMANDS = {
    "pull": ["pull", "team/small"],
    "data check": ["data", "check", "team/rows"],
    "judge": ["judge", "LADDER", "--judge", "URL/v1#model", "--pair", "full,base", "--timeout", "600"],
}


@pytest.mark.parametrize("behavior", ["says nothing", "trickles headers", "trickles a body"])
@pytest.mark.parametrize("command", COMMANDS)
def test_sigint_ends_a_command_that_waits_for_a_server(
    command: str, behavior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with HostileServer().running() as server:
        server.behavior = BEHAVIORS[behavior]
        places = {"URL": server.url}
        if command == "judge":
            ladder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
            plant_answers(ladder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2})
            places["LADDER"] = str(ladder.path)
        words = [FTBENCH, *COMMANDS[command]]
        for name, text in places.items():
            words = [word.replace(name, text) for word in words]
        environment = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
        environment["HF_ENDPOINT"] = server.url
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)
        deadline = time.monotonic() + 120
        while not server.connections:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        began = time.monotonic()
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        print(f"{command}, {behavior}: {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < END_SECONDS + LOAD_SECONDS
        assert "Traceback" not in errors
