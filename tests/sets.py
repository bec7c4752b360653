"""Datasets, and the data screens of the bench, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import pilot as bench
from pilot import Story, wait_for
from textual.pilot import Pilot
from textual.widgets import OptionList, Static

from tui.app import Workbench
from tui.screens.inspector import InspectorScreen
from tui.settings import Settings
from tui.widgets.data_list import DataList


def write(path: Path, rows: int, **more: str) -> Path:
    path.write_text(
        "".join(json.dumps({"prompt": f"ask {n}", "completion": f"say {n}", **more}) + "\n" for n in range(rows))
    )
    return path


def play(story: Story, size: tuple[int, int] = (120, 36), settings: Settings | None = None) -> None:
    """Run a story with the runs in the working directory, with a fixed theme and Unicode setting."""
    bench.play(Path.cwd() / "runs", story, size, settings or Settings(theme="textual-dark", ascii=False))


def data(app: Workbench) -> DataList:
    return app.bench.query_one(DataList)


def lines(options: OptionList) -> list[str]:
    return [str(options.get_option_at_index(number).prompt) for number in range(options.option_count)]


def text(app: Workbench, part: str) -> str:
    return str(app.screen.query_one(f"#{part}", Static).visual)


def chosen(app: Workbench) -> str:
    assert app.bench.selection_pane.effective is not None
    return app.bench.selection_pane.effective.config.data.id


async def look_into(pilot: Pilot[str], app: Workbench, name: str) -> InspectorScreen:
    """Open the inspector on a dataset of the list, and wait for its report."""
    await pilot.press("d")
    number = next(number for number, dataset in enumerate(data(app).sets) if dataset.label == name)
    data(app).highlighted = number
    await pilot.press("enter")
    screen = app.screen
    assert isinstance(screen, InspectorScreen)
    await wait_for(pilot, lambda: screen.request is None)
    return screen
