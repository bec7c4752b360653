"""pip, which downloads wheels, ends within its timeout and memory limit, also for a faulty package index."""

from __future__ import annotations

import time
from pathlib import Path

import psutil
import pytest
from hostile_server import BEHAVIORS, HostileServer

from engine.config.errors import UserError
from engine.methods import pull

INDEX_SECONDS = 3.0
"""pip needs one to start."""
LOAD_SECONDS = 20.0
"""More for a machine that is busy with other tests."""


@pytest.mark.parametrize(
    "behavior", ["trickles headers", "trickles a body", "sends gzip in gzip", "sends many objects"]
)
def test_pip_ends_when_the_index_does_not(behavior: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pull, "PYPI_SECONDS", INDEX_SECONDS)
    before = psutil.Process().children()  # those of other tests
    with HostileServer().running() as server:
        server.behavior = BEHAVIORS[behavior]
        for name, text in {"INDEX_URL": f"{server.url}/simple", "RETRIES": "0", "CONFIG_FILE": "/dev/null"}.items():
            monkeypatch.setenv(f"PIP_{name}", text)
        monkeypatch.setenv("NO_PROXY", "*")
        began = time.monotonic()
        with pytest.raises(UserError) as raised:
            pull.download_wheel("one-package", "1.0", tmp_path)
        assert server.connections
    assert time.monotonic() - began < INDEX_SECONDS + LOAD_SECONDS
    assert raised.value.code == pull.PYPI_UNREACHABLE
    assert not set(psutil.Process().children()) - set(before)
