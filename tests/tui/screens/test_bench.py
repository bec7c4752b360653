"""The bench driven by its keys, with real runs of the embedded model."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from pilot import LONG, play, screen_text, shown, start, wait_for
from textual._compositor import Compositor
from textual.pilot import Pilot
from textual.widgets import OptionList

from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.commands import DEFAULT_KEYS, RESERVED_KEYS, TABLES
from tui.extensions.chat.screen import TryScreen
from tui.extensions.judge.rating import RatingScreen
from tui.screens.base import ConfirmScreen
from tui.screens.bench_actions import BenchScreen
from tui.screens.charts import ChartsScreen
from tui.screens.configuration import ConfigurationScreen
from tui.screens.dialogs import TextScreen
from tui.screens.inspector import InspectorScreen
from tui.screens.ladder import LadderScreen
from tui.screens.launching import LaunchScreen
from tui.screens.models import ModelsScreen
from tui.screens.presets import PresetsScreen
from tui.screens.processes import DevicesScreen, ProcessesScreen
from tui.screens.runs import RunsScreen
from tui.widgets.data_list import DataList
from tui.widgets.log_pane import LogPane
from tui.widgets.run_panes import LossPane, RunsPane
from tui.widgets.table import Table


def test_every_command_has_an_action_where_it_is_bound() -> None:
    owners = {
        "app": Workbench,
        "bench": BenchScreen,
        "launch": LaunchScreen,
        "config": ConfigurationScreen,
        "models": ModelsScreen,
        "charts": ChartsScreen,
        "processes": ProcessesScreen,
        "data": DataList,
        "inspector": InspectorScreen,
        "presets": PresetsScreen,
        "runs": RunsScreen,
        "ladder": LadderScreen,
        "try": TryScreen,
        "devices": DevicesScreen,
        "rate": RatingScreen,
    }
    for group, table in TABLES.items():
        for command in table:
            place, _, name = command.action.partition("(")[0].rpartition(".")
            owner = {"app": Workbench, "screen": BenchScreen}.get(place) or owners[group]
            assert hasattr(owner, f"action_{name}"), command.id


def test_no_key_belongs_to_the_terminal_or_to_two_commands() -> None:
    for group, table in TABLES.items():
        keys = [
            key for command in (*table, *(TABLES["app"] if group != "app" else ())) for key in command.keys.split(",")
        ]
        assert not set(keys) & set(RESERVED_KEYS)
        twice = {key for key in keys if keys.count(key) > 1}
        assert twice <= ({"q"} if group != "app" else set()), group  # q is back on all screens but the bench
    assert len(DEFAULT_KEYS) == sum(map(len, TABLES.values()))


def test_number_keys_select_presets_and_show_what_changed(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        for key, title in (("1", "QLoRA · demo"), ("3", "Full · demo"), ("2", "LoRA · demo")):
            await pilot.press(key)
            assert title in shown(app, "head")

    play(tmp_path, story)


def test_the_method_changes_the_whole_configuration(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("2", "m")
        assert app.bench.selection_pane.effective is not None
        assert app.bench.selection_pane.effective.config.method == "full"
        assert app.bench.selection_pane.effective.config.optimizer.name == "auto"
        await pilot.press("e")
        assert isinstance(app.screen, ConfigurationScreen)
        await wait_for(pilot, lambda: "default for full" in screen_text(app))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path, story, size=(120, 80))  # all settings on one screen


def test_a_run_is_started_watched_to_its_end_and_found_again(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app)
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.end)
        await wait_for(pilot, lambda: "finished" in shown(app, "status"))
        answered = [sample.step for sample in app.bench.follower.state.samples if sample.when == "during"]
        assert answered and set(answered) <= {1, 2, 3, 4}
        assert any("finished" in line for line in app.bench.query_one(LogPane).views["events"])

        def chart() -> str:
            return "".join(str(line) for line in app.bench.query_one(LossPane).lines)

        await wait_for(pilot, lambda: any("\u2800" < character <= "\u28ff" for character in chart()))
        assert str(app.bench.query_one(LossPane).border_title).startswith("loss ")
        await pilot.press("r")
        assert len(app.screen.query_one(Table).rows) == 1
        await pilot.press("enter")
        assert app.screen is app.bench and app.bench.follower.run is not None

    play(tmp_path / "runs", story)


def test_escape_on_the_launch_screen_starts_nothing(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        app.bench.query_one(LogPane).focus()
        await pilot.press("enter")
        await wait_for(pilot, lambda: isinstance(app.screen, LaunchScreen))
        await pilot.press("escape")
        assert app.screen is app.bench

    play(tmp_path / "runs", story)
    assert not (tmp_path / "runs").exists()


def test_leaving_detaches_and_reopening_finds_the_run(tmp_path: Path) -> None:
    runs = tmp_path / "runs"

    async def leave(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app, **LONG)
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.step)
        await pilot.press("q")

    app = play(runs, leave)
    (run,) = RunDir.iterate(runs)
    assert run.is_active() and app.return_value is not None and run.name in app.return_value

    async def come_back(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.follower.state and app.bench.follower.state.step)
        assert app.bench.follower.run == run
        await pilot.press("s")
        await wait_for(pilot, lambda: isinstance(app.screen, ConfirmScreen))
        await pilot.press("enter")
        await wait_for(pilot, lambda: "stopped" in shown(app, "status"))
        assert "resume" in shown(app, "status")
        await wait_for(pilot, lambda: not run.is_active())

    play(runs, come_back)
    assert run.state() == "stopped"


def test_a_killed_worker_is_shown_with_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.widgets.run_panes.IDLE_SECONDS", 1e9)  # the list learns of it without that pause

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await start(pilot, app, **LONG)
        await wait_for(
            pilot, lambda: app.bench.follower.live and app.bench.follower.state and app.bench.follower.state.step
        )
        run = app.bench.follower.run
        assert run is not None
        os.kill(run.pid() or 0, signal.SIGKILL)
        await wait_for(pilot, lambda: "died" in shown(app, "status"))
        assert "u resume from" in shown(app, "status") or "u restart from" in shown(app, "status")
        await wait_for(pilot, lambda: [run.state for run in app.bench.query_one(RunsPane).runs] == ["died"], 60)

    play(tmp_path / "runs", story, size=(160, 45))


def test_hostile_names_of_files_are_shown_as_text(tmp_path: Path, here: Path) -> None:
    (here / "\x1b]52;c;aGk=\x07[red]x[b].jsonl").write_text('{"prompt": "a", "completion": "b"}\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        data = app.bench.query_one("#data", OptionList)
        prompts = [str(data.get_option_at_index(number).prompt) for number in range(data.option_count)]
        assert any(prompt.strip().startswith("\\x1b]52;") for prompt in prompts)
        await pilot.press("d", "down")
        assert "[red]x[b].jsonl" in str(data.tooltip)
        assert not any("\x1b" in prompt or "\x07" in prompt for prompt in prompts)

    play(tmp_path / "runs", story)


def test_screens_open_and_close_and_the_sampler_works_without_a_run(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.machine.sample)
        assert app.bench.machine.sample is not None and app.bench.machine.sample.memory_total > 0
        for key, kind in (("question_mark", TextScreen), ("r", RunsScreen), ("l", LadderScreen)):
            await pilot.press(key)
            assert isinstance(app.screen, kind)
            await pilot.press("escape")
            assert app.screen is app.bench
        await pilot.press("s", "u", "T")

    play(tmp_path / "runs", story)


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (160, 45), (200, 60)])
def test_every_pane_is_visible_at_every_size(size: tuple[int, int], tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        for name in ("data", "method", "preset", "loss", "memory"):
            pane = app.bench.query_one(f"#{name}")
            assert pane.content_size.height >= 1 and pane.content_size.width >= 10, name

    play(tmp_path / "runs", story, size)


def test_the_first_frame_has_the_style_of_a_bench_without_a_run(tmp_path: Path) -> None:
    assert BenchScreen(tmp_path).has_class("-empty")


def test_an_update_that_changes_nothing_computes_no_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bench is updated once per second: a layout each time doubles the CPU time of an idle one."""
    layouts: list[object] = []

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        compute = Compositor.reflow
        monkeypatch.setattr(Compositor, "reflow", lambda *given: layouts.append(given) or compute(*given))
        without_layout = 0
        for _ in range(20):  # what threads have read since the start may still arrive during an update
            await pilot.pause()
            layouts.clear()
            app.bench._update_panes()
            await pilot.pause()
            without_layout = 0 if layouts else without_layout + 1
            if without_layout == 3:
                break
        assert without_layout == 3
        app.bench.refresh(layout=True)
        await pilot.pause()
        assert layouts

    play(tmp_path / "runs", story)
