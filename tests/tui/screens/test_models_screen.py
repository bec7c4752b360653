"""The models screen: a model is selected from the list or typed, and downloaded with a progress bar."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from model_hub import NAME, Hub
from pilot import notes, play, screen_text, wait_for
from textual.pilot import Pilot
from textual.widgets import Static

import engine
from engine.config.catalog import CATALOG
from engine.config.model_files import hub_cache
from tui.app import Workbench
from tui.data.recent import MODELS, read_recent
from tui.preview.method_table import NETWORK
from tui.screens.models import ModelsScreen

TINY = Path(engine.__file__).parent / "assets" / "tiny"


def part(app: Workbench, name: str) -> str:
    return " ".join(str(app.screen.query_one(f"#{name}", Static).visual).split())


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_model_is_selected_with_its_memory_shown(size: tuple[int, int], tmp_path: Path, here: Path) -> None:
    shutil.copytree(TINY, here / "mine")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.selection_pane.budget)
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: f"{len(CATALOG) + 2} models" in part(app, "title"))
        line = next(line for line in screen_text(app).splitlines() if " mine " in line)  # before what is not here
        assert line.count("MiB") >= 3
        await pilot.press("slash", *"mine", "enter", "enter")
        assert app.screen is app.bench
        assert app.bench.selection_pane.selection.settings["model.id"] == str(here / "mine")
        assert read_recent(MODELS) == [str(here / "mine")]

    play(tmp_path / "runs", story, size)


def test_a_hub_id_is_typed_and_says_that_it_requires_network(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: f"{len(CATALOG) + 1} models" in part(app, "title"))
        await pilot.press("a", *"team/small")
        assert f"{NETWORK}: team/small" in part(app, "detail")
        await pilot.press("enter")
        assert app.bench.selection_pane.selection.settings["model.id"] == "team/small"
        await pilot.press("i")
        await wait_for(pilot, lambda: f"{len(CATALOG) + 2} models" in part(app, "title"))
        await pilot.press("slash", *"small", "enter", "delete")
        await wait_for(pilot, lambda: read_recent(MODELS) == [])

    play(tmp_path / "runs", story)


def test_a_gated_model_says_where_its_license_is_accepted(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.rows)
        await pilot.press("slash", *"llama-3.1-8b", "enter")
        text = " ".join(screen_text(app).split())
        assert f"{NETWORK}, gated:" in text and "huggingface.co/meta-llama/Llama-3.1-8B-Instruct" in text
        assert "set HF_TOKEN" in text
        assert "full on 48 GB" in text and "then press Y" in text

    play(tmp_path / "runs", story, (80, 24))


def test_a_model_is_downloaded_with_a_progress_bar(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        screen = app.screen
        assert isinstance(screen, ModelsScreen)
        await wait_for(pilot, lambda: screen.rows)
        await pilot.press("Y")
        await wait_for(pilot, lambda: any("already downloaded" in note for note in notes(app)))
        await pilot.press("a", *NAME, "enter", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and NAME in app.screen.rows)
        await pilot.press("Y")
        await wait_for(pilot, lambda: "MiB of" in part(app, "pull") or "KiB of" in part(app, "pull"))
        assert "%" in part(app, "pull") and "━" in part(app, "pull")
        hub.gate.set()
        await wait_for(pilot, lambda: f"downloaded {NAME}" in part(app, "pull"))
        names = {path.name for path in (hub_cache() / "models--team--small").rglob("*.safetensors")}
        assert names == {"model.safetensors"}
        await wait_for(pilot, lambda: "HF cache" in part(app, "detail"))

    play(tmp_path / "runs", story)


def test_escape_cancels_a_download_and_an_error_is_shown(tmp_path: Path, hub: Hub) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and app.screen.rows)
        await pilot.press("a", *NAME, "enter", "i")
        await wait_for(pilot, lambda: isinstance(app.screen, ModelsScreen) and NAME in app.screen.rows)
        await pilot.press("Y")
        await wait_for(pilot, lambda: " of " in part(app, "pull"))
        await pilot.press("escape")
        assert "cancelled" in part(app, "pull") and isinstance(app.screen, ModelsScreen)
        hub.gone = True
        hub.gate.set()
        await pilot.press("Y")
        await wait_for(pilot, lambda: any("no such model" in note for note in notes(app)))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story)
