"""`ftbench doctor`: a verdict per method with an exit status, and a support bundle without secrets."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from made_ladder import made_ladder
from typer.testing import CliRunner

from engine.config.errors import RunFailed, UserError
from engine.config.redaction import Redactor, secrets_of_this_machine
from engine.config.text import REDACTED
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


SECRETS = {
    "HF_TOKEN": "hf_AbCdEfGhIjKlMnOpQrStUvWx",
    "WANDB_API_KEY": "0123456789abcdef0123456789abcdef01234567",
    "DATABASE_PASSWORD": 'pä"ss\\word & more',
}
IN_LOGS = [
    "Authorization: Bearer abcdef123456",
    "downloading https://me:hunter22@example.org/model.safetensors",
    "ghp_0123456789abcdefABCDEF0123456789abcd",
    "AKIAABCDEFGHIJKLMNOP",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abcDEF",
    "-----BEGIN RSA PRIVATE KEY-----\nMIIEpAIBAAKCAQEA\n-----END RSA PRIVATE KEY-----",
    "client_secret='s3cr3t-value'",
]
PARTS = ["abcdef123456", "hunter22", "ghp_0123", "AKIAABCD", "eyJhbGci", "MIIEpAIB", "s3cr3t-value", "stored-on-disk",
         "netrc-password", "config-key-1", "Please send another", "came in pieces"]  # fmt: skip
"""Parts of secrets, and of the prompts of the data."""


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a runs home with secrets in every place that the bundle reads."""
    home = tmp_path / "user"
    (home / ".cache" / "huggingface").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
    monkeypatch.delenv("HF_HOME")
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    (home / ".cache" / "huggingface" / "token").write_text("hf-stored-on-disk\n")
    (home / ".netrc").write_text("machine api.wandb.ai\n  login user\n  password netrc-password\n")
    made, state = made_ladder(tmp_path / "runs", seeds=[0])
    from engine.config.home import config_file

    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text('[track]\napi_key = "config-key-1"\n')
    for entry in state.entries:
        if entry.kind == "run":
            folder = tmp_path / "runs" / entry.run
            everything = "\n".join([*IN_LOGS, *SECRETS.values(), "hf-stored-on-disk", "netrc-password"])
            (folder / "engine.log").write_text(everything)
            (folder / "tracking").mkdir()
            (folder / "tracking" / "wandb.log").write_text(everything)
            events = [{"type": "warning", "code": "a.b", "text": text} for text in [*IN_LOGS, *SECRETS.values()]]
            events.append(
                {
                    "type": "sample",
                    "prompt": "Please send another.",
                    "target": "came in pieces",
                    "output": "came in pieces",
                }
            )
            with (folder / "events.jsonl").open("a") as log:
                log.writelines(json.dumps(event) + "\n" for event in events)
    made.log_file.write_text("\n".join(SECRETS.values()))
    return tmp_path / "runs"


def test_a_bundle_has_no_secret_and_no_data(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leaking = doctor.BoxCheck("ok", "GPU", f"token {SECRETS['HF_TOKEN']}")
    monkeypatch.setattr(doctor, "check_everything", lambda runs: [leaking])
    archive = tmp_path / "support.tar.gz"
    done = CliRunner().invoke(app, ["doctor", "--bundle", "--out", str(archive), "--runs", str(planted), "--json"])
    assert done.exit_code == 0, done.output
    told = json.loads(done.stdout)
    assert told["bundle"] == str(archive) and archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as opened:
        texts = {
            name.removeprefix("ftbench-support/"): opened.extractfile(name).read().decode()
            for name in opened.getnames()
        }
    assert sorted(texts) == told["files"]
    escaped = [json.dumps(secret)[1:-1] for secret in SECRETS.values()]
    for name, text in texts.items():
        assert [part for part in [*PARTS, *SECRETS.values(), *escaped] if part in text] == [], name
    assert told["redacted"] > 20 and REDACTED in texts["doctor.json"]
    system = json.loads(texts["system.json"])
    assert system["environment"]["HF_TOKEN"] == REDACTED and "DATABASE_PASSWORD" not in system["environment"]
    assert any(package.startswith("torch ") for package in system["packages"])
    events = next(text for name, text in texts.items() if name.endswith("events.jsonl"))
    assert sum('"type": "step"' in line for line in events.splitlines()) == 120  # what a bug report needs is there
    assert any(
        "train.batch" in text or "batch = 16" in text for name, text in texts.items() if name.endswith("run.toml")
    )
    assert str(tmp_path / "user") not in "".join(texts.values())


def test_a_bundle_replaces_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "check_everything", lambda runs: [])
    (tmp_path / "mine").write_text("mine")
    monkeypatch.setattr("sys.argv", ["ftbench"])
    done = CliRunner().invoke(app, ["doctor", "--bundle", "--out", str(tmp_path / "mine")])
    assert done.exception is not None and "the file exists" in str(done.exception)
    assert (tmp_path / "mine").read_text() == "mine"


def test_a_bundle_in_a_missing_folder_is_refused_before_the_checks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "check_everything", lambda runs: pytest.fail("checked"))
    done = CliRunner().invoke(app, ["doctor", "--bundle", "--out", str(tmp_path / "none" / "x")])
    assert isinstance(done.exception, UserError) and done.exception.code == "bundle.not_writable"


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
