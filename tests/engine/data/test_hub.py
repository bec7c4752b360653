"""An unreachable Hub causes one short request and one line; a cached copy is used without further requests."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.readers import arrow_files as hub
from engine.data.source import read

ASK = """
import sys
from engine.config.errors import UserError
from engine.config.schema import Data
from engine.data.readers import arrow_files as hub
from engine.data.source import read
hub.TRY_SECONDS = 2.0
try:
    read(Data(id="owner/name"))
except UserError as error:
    print(error.code)
"""


def test_a_hub_that_never_responds_is_requested_once(tmp_path: Path) -> None:
    """The server accepts connections but never responds, like a firewall that drops packets."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        came: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    came.append(server.accept()[0])
            except OSError:
                return  # closed: the test is over

        threading.Thread(target=accept, daemon=True).start()
        env = os.environ | {"HF_ENDPOINT": f"http://127.0.0.1:{server.getsockname()[1]}", "HF_HOME": str(tmp_path)}
        env = {key: value for key, value in env.items() if not key.lower().endswith(("_proxy", "_offline"))}
        done = subprocess.run([sys.executable, "-c", ASK], env=env, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["data.hub_unreachable"]
    assert len(came) == 1
    for connection in came:
        connection.close()


def test_a_cached_copy_is_used_without_further_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    offline = []

    def load(*_args: object, **_options: object) -> datasets.DatasetDict:
        offline.append(datasets.config.HF_HUB_OFFLINE)
        return datasets.DatasetDict(train=datasets.Dataset.from_dict({"text": ["a"]}))

    monkeypatch.setattr(hub, "_ask", lambda _name: TimeoutError("no answer"))
    monkeypatch.setattr(datasets, "load_dataset", load)
    before = datasets.config.HF_HUB_OFFLINE
    assert [raw.values for raw in read(Data(id="owner/name")).train] == [{"text": "a"}]
    assert offline == [True]
    assert before == datasets.config.HF_HUB_OFFLINE


def test_a_name_that_is_not_on_the_hub_is_not_called_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    class RepositoryNotFoundError(Exception):
        pass

    monkeypatch.setattr(hub, "_ask", lambda _name: RepositoryNotFoundError("404 Client Error"))
    with pytest.raises(UserError) as caught:
        read(Data(id="owner/name"))
    assert caught.value.code == "data.hub_not_found"
