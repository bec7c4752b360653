"""Artifacts are pushed to a stand-in for the Hub: one commit, private, with the stored token, as they were checked."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest

from engine.config.errors import RunFailed, UserError
from engine.runs.run.exports import FIDELITY, Fidelity

TOKEN = "hf_of_the_stand_in"
NAME = "team/tickets"


class Hub(ThreadingHTTPServer):
    """The endpoints of the Hub that a push uses, with repositories in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repositories: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, bytes] = {}
        self.commits: list[dict[str, Any]] = []
        self.fail_commits = False


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def reply(self, status: int, content: Any = None, **headers: str) -> None:
        body = json.dumps(content).encode() if content is not None else b""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def content(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def allowed(self) -> bool:
        if self.headers.get("Authorization") == f"Bearer {TOKEN}":
            return True
        self.reply(401, {"error": "invalid token"})
        return False

    def do_GET(self) -> None:
        if not self.allowed():
            return
        if self.path == "/api/whoami-v2":
            self.reply(200, {"name": "team", "type": "user"})
            return
        name = self.path.removeprefix("/api/models/").split("?")[0]
        repository = self.server.repositories.get(name)
        if repository is None:
            self.reply(404, {"error": "not found"}, X_Error_Code="RepoNotFound")
            return
        siblings = [{"rfilename": file} for file in repository["files"]]
        self.reply(200, {"id": name, "private": repository["private"], "siblings": siblings, "sha": "0" * 40})

    def do_PUT(self) -> None:
        self.server.stored[self.path.rpartition("/")[2]] = self.content()
        self.reply(200)

    def do_POST(self) -> None:
        content = self.content()
        if not self.allowed():
            return
        hub = self.server
        if self.path == "/api/repos/create":
            wanted = json.loads(content)
            name = f"{wanted.get('organization') or 'team'}/{wanted['name']}"
            private = wanted.get("private", wanted.get("visibility") == "private")
            hub.repositories[name] = {"private": private, "files": {}}
            self.reply(200, {"url": f"{hub.url}/{name}"})
        elif self.path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = [file["path"] for file in json.loads(content)["files"]]
            modes = {file: "lfs" if file.endswith((".safetensors", ".gguf")) else "regular" for file in files}
            self.reply(200, {"files": [{"path": f, "uploadMode": m, "shouldIgnore": False} for f, m in modes.items()]})
        elif self.path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**lfs_object, "actions": {"upload": {"href": f"{hub.url}/store/{lfs_object['oid']}"}}}
                for lfs_object in json.loads(content)["objects"]
            ]
            self.reply(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            self.commit(content)
        else:
            self.reply(404, {"error": self.path})

    def commit(self, content: bytes) -> None:
        hub = self.server
        if hub.fail_commits:
            self.reply(400, {"error": "the disk of the stand-in is full"})
            return
        name = self.path.removeprefix("/api/models/").split("/commit/")[0]
        lines = [json.loads(line) for line in content.splitlines() if line]
        hub.commits.append(lines[0]["value"])
        for line in lines[1:]:
            value = line["value"]
            is_lfs = line["key"] == "lfsFile"
            stored = hub.stored[value["oid"]] if is_lfs else base64.b64decode(value["content"])
            hub.repositories[name]["files"][value["path"]] = stored
        self.reply(200, {"commitUrl": f"{hub.url}/{name}/commit/1", "commitOid": "1" * 40})


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    token = tmp_path / "token"
    token.write_text(TOKEN)
    with Hub() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_TOKEN_PATH", str(token))
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    """A folder as an export leaves it, with small files."""
    folder = tmp_path / "artifact"
    folder.mkdir()
    contents = {"model.safetensors": os.urandom(3_000), "config.json": b"{}", "generation_config.json": b"{}"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\n# a run\n")
    fidelity = Fidelity(
        run="a-run",
        kind="merged",
        type="bf16",
        model="embedded:tiny",
        metric="json",
        device="cpu",
        margin=0.02,
        outcome="pass",
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
    )
    (folder / FIDELITY).write_bytes(msgspec.json.encode(fidelity))
    return folder


def ask(question: str, **arguments: Any) -> Any:
    from engine.runs import rpc_client

    return rpc_client.ask(question, arguments)


def push(artifact: Path, repository: str = NAME, public: bool = False) -> dict[str, Any]:
    return ask("push", folder=str(artifact), repository=repository, public=public)


def code_of(question: str, **arguments: Any) -> str:
    with pytest.raises((UserError, RunFailed)) as caught:
        ask(question, **arguments)
    assert isinstance(caught.value, UserError | RunFailed)
    return caught.value.code


def test_an_artifact_is_one_commit_to_a_private_repository(hub: Hub, artifact: Path) -> None:
    pushed = push(artifact, "tickets")  # without an owner: the account's own
    assert pushed["repository"] == NAME and pushed["private"] and pushed["url"].startswith(hub.url)
    repository = hub.repositories[NAME]
    assert repository["private"] and len(hub.commits) == 1 and "a-run" in hub.commits[0]["summary"]
    assert repository["files"] == {path.name: path.read_bytes() for path in artifact.iterdir()}
    assert TOKEN.encode() not in b"".join(repository["files"].values())


def test_a_public_repository_needs_public(hub: Hub, artifact: Path) -> None:
    hub.repositories[NAME] = {"private": False, "files": {}}
    target = {"repository": NAME, "public": False}
    assert code_of("push.check", **target) == code_of("push", folder=str(artifact), **target) == "push.public"
    assert hub.commits == []
    assert not push(artifact, public=True)["private"] and len(hub.commits) == 1


def test_other_weights_in_the_repository_are_refused(hub: Hub, artifact: Path) -> None:
    """transformers prefers `model.safetensors` over shards: it could load the weights of an earlier push."""
    hub.repositories[NAME] = {"private": True, "files": {"model-00001-of-00002.safetensors": b"", "notes.txt": b""}}
    assert code_of("push", folder=str(artifact), repository=NAME, public=False) == "push.other_weights"
    assert hub.commits == []


def test_a_file_that_changed_since_the_check_is_refused(hub: Hub, artifact: Path) -> None:
    (artifact / "config.json").write_text('{"tie_word_embeddings": true}')
    assert code_of("push", folder=str(artifact), repository=NAME, public=False) == "push.changed"
    assert hub.repositories == {}


def test_a_refused_or_failed_push_is_one_line(
    hub: Hub, artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = {"repository": NAME, "public": False}
    hub.fail_commits = True
    assert code_of("push", folder=str(artifact), **target) == "push.failed"
    assert hub.repositories[NAME]["files"] == {}
    assert code_of("push.check", repository="no/such/name", public=False) == "push.repository_name"
    (tmp_path / "token").write_text("hf_expired")
    assert code_of("push.check", **target) == "push.forbidden"
    (tmp_path / "token").unlink()
    assert code_of("push.check", **target) == "push.no_token"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert code_of("push.check", **target) == "push.offline"


def test_an_unreachable_hub_is_one_line(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: nothing listens
    assert code_of("push.check", repository=NAME, public=False) == "push.unreachable"
