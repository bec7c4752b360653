"""What users do most, by the number of keys that it takes."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from pilot import MICRO, notes, play, screen_text, shown, start, wait_for
from textual.pilot import Pilot

from engine.config import preset_library
from engine.runs.run import events, run_dir
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.screens.dialogs import SuggestionScreen
from tui.screens.exporting import ExportScreen
from tui.screens.launching import LaunchScreen
from tui.screens.runs import RunsScreen
from tui.widgets.data_list import DataList


def test_a_file_with_other_columns_is_prepared_by_enter_alone(tmp_path: Path, here: Path) -> None:
    rows = "".join(f'{n},"Where is order {n}?",{("billing", "delivery")[n % 2]}\n' for n in range(40))
    (here / "teams.csv").write_text("id,message,team\n" + rows)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        listed = app.bench.query_one(DataList)
        await wait_for(pilot, lambda: any(preview.suggested for preview in listed.previews.values()))
        assert "columns?" in screen_text(app) and "error" not in screen_text(app)
        await pilot.press("d", "down", "enter")
        await wait_for(pilot, lambda: isinstance(app.screen, SuggestionScreen))
        await pilot.press("escape", "d", "enter")  # asked again, as often as it is opened
        await wait_for(pilot, lambda: isinstance(app.screen, SuggestionScreen))
        await pilot.press("enter")
        await wait_for(pilot, lambda: app.screen is app.bench)
        await pilot.press("enter")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
        config = app.bench.selection_pane.selection.effective().config
        assert config.data.id == str(here / "teams.csv") and config.data.map
        await wait_for(pilot, lambda: app.screen.report.answer is not None)  # type: ignore[attr-defined]
        assert not app.screen.preview.blocked  # type: ignore[attr-defined]

    play(tmp_path / "runs", story)


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_a_run_that_ran_out_of_memory_is_restarted_with_what_fits_by_one_key(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    runs = tmp_path / "runs"
    chosen = preset_library.resolve_preset("demo-lora", None, {**MICRO, "train.steps": 5})
    run = run_dir.create(runs, "demo-lora", chosen)
    plan = events.Plan(
        steps=5, start_step=0, batch=4, micro_batch=4, packing="rows", gradient_checkpointing=False, t=1.0, seq=1
    )
    end = events.End(status="out_of_memory", reason="not one row fits", t=1.0, seq=2)
    run.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in (plan, end)))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status, result.reason = "out_of_memory", "not one row fits"
    run_dir.write_result(run, result)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.watch_run(run)
        await wait_for(pilot, lambda: "enter again with micro-batch 2 (" in shown(app, "status"))
        assert " m QLoRA (" in shown(app, "status") and not app.bench.is_useful("resume")
        await pilot.press("enter")
        await wait_for(pilot, lambda: app.bench.follower.run not in (None, run))
        again = app.bench.follower.run
        assert again is not None
        config = run_dir.read_frozen(again).config
        assert config.train.micro_batch == 2
        assert msgspec.structs.replace(config.train, micro_batch="auto") == chosen.config.train
        await wait_for(pilot, lambda: again.state() == "finished")

    play(runs, story, size=size)


def test_a_finished_run_names_the_next_steps_and_each_key_does_it(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app)
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)
        await wait_for(pilot, lambda: "✓ finished" in shown(app, "status"))
        assert all(key in shown(app, "status") for key in ("t try", "x export", "C compare", "L ladder"))
        (run,) = RunDir.iterate(tmp_path / "runs")
        await pilot.press("x")
        await wait_for(pilot, lambda: isinstance(app.screen, ExportScreen))
        await pilot.press("escape", "C")
        await wait_for(pilot, lambda: isinstance(app.screen, RunsScreen))
        assert app.screen.marked == {run.name}  # type: ignore[attr-defined]
        assert not [note for note in notes(app) if "error" in note]

    play(tmp_path / "runs", story, size=(80, 24))
