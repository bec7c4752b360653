"""SIGINT ends a command, and the process of a ladder, while a server holds one of its requests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command import FTBENCH, MICRO, ON_SMALL
from hostile_server import BEHAVIORS, HostileServer
from made_ladder import made_ladder
from planted_judge import plant_answers

from engine.runs.ladder.ladder_dir import LadderDir

END_SECONDS = 2.0
LOAD_SECONDS = 20.0
"""More for a machine that is busy with other tests; without a bound, the command continues as long as the server."""
COMMANDS = {
    "pull": ["pull", "team/small"],
    "data check": ["data", "check", "team/rows"],
    "export --push": ["export", "LADDER", "--push", "team/small"],
    "judge": ["judge", "LADDER", "--judge", "URL/v1#model", "--pair", "full,base", "--timeout", "600"],
    "ladder": ["ladder", "demo", "--rung", "lora", "--rung", "URL/v1#model", "--detach", *MICRO, *ON_SMALL],
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
        if "LADDER" in COMMANDS[command]:
            ladder, _ = made_ladder(tmp_path / "runs", seeds=(0, 1))
            plant_answers(ladder, {"base": 0.0, "qlora": 0.6, "lora": 0.7, "full": 1.2})
            places["LADDER"] = str(ladder.path)
        words = [FTBENCH, *COMMANDS[command]]
        for name, text in places.items():
            words = [word.replace(name, text) for word in words]
        environment = {name: text for name, text in os.environ.items() if not name.lower().endswith("_proxy")}
        environment |= {"HF_ENDPOINT": server.url, "HF_TOKEN": "hf_token"}
        pipe = subprocess.PIPE
        process = subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True, env=environment)
        if command == "ladder":  # the command only follows the process that asks
            assert process.wait(120) == 0
            (ladder,) = LadderDir.iterate(tmp_path / "runs")
        wait_for(lambda: bool(server.connections), 120)
        began = time.monotonic()
        if command == "ladder":
            os.kill(ladder.pid() or 0, signal.SIGINT)
            wait_for(lambda: not ladder.is_active(), 60)
        else:
            assert process.poll() is None
            process.send_signal(signal.SIGINT)
        try:
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
        print(f"{command}, {behavior}: {time.monotonic() - began:.2f} s")
        assert time.monotonic() - began < END_SECONDS + LOAD_SECONDS
        assert "Traceback" not in errors


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
