"""`ftbench doctor`: a verdict per method with an exit status; what is redacted."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from typer.testing import CliRunner

from engine.config.errors import RunFailed
from engine.config.redaction import Redactor, secrets_of_this_machine
from tui.cli.main import app
from tui.extensions.doctor import command as doctor

FACTS: dict[str, Any] = {
    "device": "cpu",
    "name": "2 CPU cores",
    "bf16": True,
    "attention": "sdpa",
    "quantized": "works",
}


def verdicts(monkeypatch: pytest.MonkeyPatch, methods: list[dict[str, Any]]) -> tuple[int, dict[str, tuple[str, str]]]:
    """Exit status, and state and text of each method."""
    monkeypatch.setattr(doctor, "ask", lambda *_: {**FACTS, "methods": methods})
    done = CliRunner().invoke(app, ["doctor", "--json"])
    return done.exit_code, {
        check["subject"]: (check["state"], check["text"]) for check in json.loads(done.stdout)[-len(methods) :]
    }


def method(title: str, why: str = "") -> dict[str, Any]:
    return {"method": title.lower(), "title": title, "ready": not why, "why": why, "optimizer": "adamw", "notes": []}


def test_every_method_gets_a_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    status, by_method = verdicts(monkeypatch, [method("QLoRA"), method("LoRA")])
    assert status == 0 and [state for state, _ in by_method.values()] == ["ok", "ok"]
    assert re.fullmatch(r"ready: .*\bCPU\b.* adamw", by_method["QLoRA"][1])


def test_a_method_that_does_not_work_sets_the_exit_status(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "RuntimeError: no kernel image"
    status, by_method = verdicts(monkeypatch, [method("LoRA"), method("QLoRA", why)])
    assert status == 1 and [state for state, _ in by_method.values()] == ["ok", "bad"]
    assert re.fullmatch(rf"not ready: .*\bCPU\b.*: {why}", by_method["QLoRA"][1])


def test_without_torch_no_method_is_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    why = "no module named torch"

    def fail(*_: object) -> None:
        raise RunFailed(why)

    monkeypatch.setattr(doctor, "ask", fail)
    done = CliRunner().invoke(app, ["doctor", "--json"])
    assert done.exit_code == 1
    *checks, qlora, lora, full = json.loads(done.stdout)
    assert any(check["state"] == "bad" and why in check["text"] for check in checks if check["subject"] == "engine")
    assert [check["subject"] for check in (qlora, lora, full)] == ["QLoRA", "LoRA", "Full"]
    assert all(check["state"] == "bad" and check["text"].startswith("not ready") for check in (qlora, lora, full))


@pytest.mark.parametrize(
    "text",
    ["137k tokens per epoch", '"tokens": 137000', "max_new_tokens = 128", "pad_token_id=None", "train.batch = 16",
     "sha256 b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"],
)  # fmt: skip
def test_ordinary_text_is_kept(text: str) -> None:
    assert Redactor([])(text) == text


def test_short_values_and_authors_are_not_secrets() -> None:
    assert list(secrets_of_this_machine({"GIT_AUTHOR_NAME": "somebody", "USE_AUTH": "1", "HF_HOME": "/none"}))[0:1] == [
        "1"
    ]
    assert Redactor(["1"])("step 1 of 10") == "step 1 of 10"
