"""A Hub that refuses the connection is one line with a code, whichever HTTP client huggingface_hub uses."""

from __future__ import annotations

import json

import pytest
from command import ftbench


@pytest.mark.parametrize(
    ("name", "code"), [("smollm2-1.7b", "model.hub_unreachable"), ("someone/something", "model.offline")]
)
def test_a_refused_connection_is_a_user_error(name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")  # no service listens there
    done = ftbench("pull", name, "--json")
    assert (done.returncode, json.loads(done.stderr)["error"]["code"]) == (2, code)
