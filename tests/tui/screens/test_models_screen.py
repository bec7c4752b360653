"""The models screen: a model is selected from the list or typed, and downloaded with a progress bar."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from pilot import notes, play, screen_text, wait_for
from textual.pilot import Pilot
from textual.widgets import Static

import engine
from engine.config.model_files import hub_cache
from tui.app import Workbench
from tui.data.recent import MODELS, read_recent
from tui.screens.models import ModelsScreen

TINY = Path(engine.__file__).parent / "assets" / "tiny"
NAME = "team/small"
COMMIT = "a" * 40


class Hub(ThreadingHTTPServer):
    """The endpoints of the Hub that a download uses; `gate` holds the weights back until it is set."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Requests)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.folder = folder
        self.gate = threading.Event()
        self.gone = False


class Requests(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *values: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer(head=True)

    def do_GET(self) -> None:
        self.answer()

    def answer(self, head: bool = False) -> None:
        path = self.path.split("?")[0]
        if self.server.gone:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("/api/models/"):
            sizes = {file.name: file.stat().st_size for file in self.server.folder.iterdir()}
            tree = [{"type": "file", "path": name, "size": size, "oid": COMMIT} for name, size in sizes.items()]
            files = [{"rfilename": name, "size": size} for name, size in sizes.items()]
            about = {"id": NAME, "modelId": NAME, "sha": COMMIT, "siblings": files}
            self.send(json.dumps(tree if "/tree/" in path else about).encode(), "application/json", head)
            return
        file = self.server.folder / path.rpartition("/")[2]
        if file.suffix == ".safetensors" and not head:
            self.server.gate.wait(60)
        self.send(file.read_bytes(), "application/octet-stream", head)

    def send(self, content: bytes, kind: str, head: bool) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{len(content):040x}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not head:
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "served"
    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("__pycache__", "*.py"))
    with Hub(folder) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield server
        server.shutdown()


def part(app: Workbench, name: str) -> str:
    return " ".join(str(app.screen.query_one(f"#{name}", Static).visual).split())


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_model_is_selected_with_its_memory_shown(size: tuple[int, int], tmp_path: Path, here: Path) -> None:
    shutil.copytree(TINY, here / "mine")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.choosing.budget)
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: "5 models" in part(app, "title"))
        line = next(line for line in screen_text(app).splitlines() if " mine " in line)
        assert line.count("MiB") >= 3
        await pilot.press("slash", *"mine", "enter", "enter")
        assert app.screen is app.bench
        assert app.bench.choosing.choice.model == str(here / "mine")
        assert read_recent(MODELS) == [str(here / "mine")]

    play(tmp_path / "runs", story, size)


def test_a_hub_id_is_typed_and_says_that_it_requires_network(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: "4 models" in part(app, "title"))
        await pilot.press("a", *"team/small")
        assert "requires network: team/small" in part(app, "detail")
        await pilot.press("enter")
        assert app.bench.choosing.choice.model == "team/small"
        await pilot.press("i")
        await wait_for(pilot, lambda: "5 models" in part(app, "title"))
        await pilot.press("slash", *"small", "enter", "x")
        await wait_for(pilot, lambda: read_recent(MODELS) == [])

    play(tmp_path / "runs", story)


def test_a_model_is_downloaded_with_a_progress_bar(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        screen = app.screen
        assert isinstance(screen, ModelsScreen)
        await wait_for(pilot, lambda: screen.rows)
        await pilot.press("p")
        await wait_for(pilot, lambda: any("already downloaded" in note for note in notes(app)))
        await pilot.press("a", *NAME, "enter", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and NAME in app.screen.rows)
        await pilot.press("p")
        await wait_for(pilot, lambda: "MiB of" in part(app, "pull") or "KiB of" in part(app, "pull"))
        assert "%" in part(app, "pull") and "━" in part(app, "pull")
        hub.gate.set()
        await wait_for(pilot, lambda: f"downloaded {NAME}" in part(app, "pull"))
        assert any((hub_cache() / "models--team--small").rglob("*.safetensors"))
        await wait_for(pilot, lambda: "HF cache" in part(app, "detail"))

    play(tmp_path / "runs", story)


def test_escape_cancels_a_download_and_an_error_is_shown(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.rows)
        await pilot.press("a", *NAME, "enter", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and NAME in app.screen.rows)
        await pilot.press("p")
        await wait_for(pilot, lambda: " of " in part(app, "pull"))
        await pilot.press("escape")
        assert "cancelled" in part(app, "pull") and isinstance(app.screen, ModelsScreen)
        hub.gone = True
        hub.gate.set()
        await pilot.press("p")
        await wait_for(pilot, lambda: any("gated or private Hub model" in note for note in notes(app)))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story)
