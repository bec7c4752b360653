"""The export dialog of the runs and ladder screens, driven by its keys."""

from __future__ import annotations

from pathlib import Path

import msgspec
from made_ladder import made_ladder
from made_runs import write_events
from pilot import play, wait_for
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from engine.config import preset_library
from engine.runs.run import run_dir
from engine.runs.run.exports import FIDELITY, Fidelity
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.screens.exporting import ExportScreen


def made(runs: Path, method: str = "lora") -> RunDir:
    """A finished run without a model."""
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", method, {}))
    write_events(run, method, 0)
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)
    return run


def choices(app: Workbench) -> list[str]:
    return [str(option.prompt) for option in app.screen.query_one(OptionList).options]


def part(app: Workbench, name: str) -> str:
    return str(app.screen.query_one(f"#{name}", Static).visual)


def test_the_runs_screen_exports_the_run_under_the_cursor(tmp_path: Path) -> None:
    run = made(tmp_path)
    folder = run.exports / "adapter"
    folder.mkdir(parents=True)
    known = {"run": run.name, "kind": "adapter", "type": "f32", "model": "tiny", "metric": "json", "device": "CPU"}
    check = msgspec.convert({**known, "margin": 0.02, "outcome": "worse", "bytes": 1 << 20}, Fidelity)
    (folder / FIDELITY).write_bytes(msgspec.json.encode(check))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "x")
        await wait_for(pilot, lambda: isinstance(app.screen, ExportScreen))
        assert [line.split()[0] for line in choices(app)][:3] == ["adapter", "merged", "merged-f16"]
        assert "exported: worse" in choices(app)[0] and "exported" not in choices(app)[1]
        await pilot.press("enter")  # an artifact that exists is shown, not written again
        await wait_for(pilot, lambda: "1.00 MiB" in part(app, "outcome"))
        assert str(folder)[-20:] in part(app, "about")
        await pilot.press("escape", "x", "j", "enter")
        await wait_for(pilot, lambda: "has no model" in part(app, "outcome"), 60)
        assert "escape back" in part(app, "keys")
        await pilot.press("escape")
        assert not isinstance(app.screen, ExportScreen)

    play(tmp_path, story)


def test_a_run_that_has_not_finished_is_not_offered(tmp_path: Path) -> None:
    run = made(tmp_path)
    result = run.result()
    assert result is not None
    result.status = "failed"
    run_dir.write_result(run, result)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("r", "x")
        await pilot.pause()
        assert not isinstance(app.screen, ExportScreen)

    play(tmp_path, story)


def test_the_ladder_screen_asks_which_run(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    folder.write_state(ladder)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("l", "x")
        await wait_for(pilot, lambda: isinstance(app.screen, ExportScreen))
        assert choices(app)[0] == "qlora, seed 0" and len(choices(app)) == 9
        await pilot.press("k", "enter")  # the last one: full has no adapter
        await wait_for(pilot, lambda: "full, seed 2" in part(app, "about"))
        assert choices(app)[0].split()[0] == "merged"

    play(tmp_path, story)
