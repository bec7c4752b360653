"""The list of datasets driven by keys and mouse, with real files and real counts."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pilot import notes, wait_for
from sets import chosen, data, lines, play, write
from textual.pilot import Pilot

from tui.app import Workbench
from tui.data import recent
from tui.screens.inspector import InspectorScreen
from tui.widgets.data_list import DataList
from tui.widgets.log_pane import LogPane


def test_the_list_counts_in_the_background_and_shows_problems(here: Path) -> None:
    write(here / "good.jsonl", 12)
    (here / "bad.jsonl").write_text('{"prompt": "a"\n')
    with (here / "huge.jsonl").open("wb") as huge:
        huge.truncate(9 << 30)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        assert app.focused is data(app)
        await wait_for(pilot, lambda: len(data(app).previews) == 5)
        said = {line.split()[0].lstrip("▸"): line for line in lines(data(app))}
        assert "1,600 chat" in said["tickets"] and said["tickets"].startswith("▸")
        assert "12 prompt" in said["good.jsonl"] and "!" not in said["good.jsonl"]
        assert "error" in said["bad.jsonl"] and said["bad.jsonl"].endswith("!")
        assert "9.00 GiB" in said["huge.jsonl"]
        await pilot.press("down", "down")
        assert "invalid JSON" in str(data(app).tooltip) and "line 1" in str(data(app).tooltip)
        assert "invalid JSON" in str(data(app).border_subtitle)

    play(story)


def test_a_name_that_is_not_utf8_is_listed_and_the_others_are_counted(here: Path) -> None:
    write(here / "a.jsonl", 12).rename(os.fsdecode(os.fsencode(here) + b"/caf\xe9.jsonl"))
    write(here / "good.jsonl", 12)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        await wait_for(pilot, lambda: len(data(app).previews) == 4)
        previews = {Path(name).name: preview for name, preview in data(app).previews.items()}
        assert previews["here"].rows == {"train": 24} and not previews["here"].error
        assert previews["good.jsonl"].rows == {"train": 12}
        assert "not valid UTF-8" in previews["caf\udce9.jsonl"].error
        assert any("caf\\udce9.jsonl" in line for line in lines(data(app)))
        data(app).highlighted = next(n for n, line in enumerate(lines(data(app))) if "caf\\udce9.jsonl" in line)
        await pilot.press("space")
        assert chosen(app) == "tickets" and len(notes(app)) == 1 and "not valid UTF-8" in notes(app)[0]
        await pilot.press("d", "enter")
        assert app.screen is app.bench and notes(app) == 2 * notes(app)[:1]

    play(story)


def test_an_exception_in_the_preview_thread_is_shown_in_the_list(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(here / "mine.jsonl", 12)

    def broken(*_: object, **__: object) -> None:
        raise KeyError("x")

    monkeypatch.setattr("tui.data.preview.ask", broken)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d")
        await wait_for(pilot, lambda: len(data(app).previews) == 2)
        assert all("KeyError" in preview.error for preview in data(app).previews.values())

    play(story)


def test_space_selects_a_data_set_and_enter_starts(here: Path) -> None:
    write(here / "mine.jsonl", 30)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("d", "down", "space")
        assert chosen(app) == str(here / "mine.jsonl")
        assert isinstance(app.focused, LogPane)
        assert recent.read_recent() == [str(here / "mine.jsonl")]
        await pilot.press("1")
        assert chosen(app) == str(here / "mine.jsonl"), "a chosen set stays under another preset"

    play(story)


def test_a_recent_data_set_is_listed_until_it_is_removed(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recent.remember(str(write(here / "mine.jsonl", 3)))
    recent.remember(str(here / "gone.jsonl"))
    other = tmp_path / "other"
    other.mkdir()
    monkeypatch.chdir(other)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: [dataset.label for dataset in data(app).sets] == ["tickets", "mine.jsonl"])
        await pilot.press("d", "delete")
        assert len(data(app).sets) == 2, "what comes along is not forgotten"
        await pilot.press("down", "delete")
        assert [dataset.label for dataset in data(app).sets] == ["tickets"]
        await pilot.press("escape")
        assert isinstance(app.focused, LogPane)

    play(story)
    assert (here / "mine.jsonl").exists()


def test_a_selected_file_that_is_deleted_stays_listed_as_an_error(here: Path, tmp_path: Path) -> None:
    mine = write(tmp_path / "mine.jsonl", 3)
    recent.remember(str(mine))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: len(data(app).previews) == 2)
        await pilot.press("d", "down", "space")
        mine.unlink()
        await pilot.press("d")
        await wait_for(pilot, lambda: "No such file" in str(data(app).tooltip))
        assert data(app).current == data(app).sets[1] and chosen(app) == str(mine)
        write(mine, 7)
        await pilot.press("escape", "d")
        await wait_for(pilot, lambda: "7 train" in str(data(app).tooltip))

    play(story)


def test_selecting_a_data_set_with_a_problem_reports_it(here: Path) -> None:
    (here / "bad.jsonl").write_text('{"prompt": "a"\n')

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: len(data(app).previews) == 2)
        await pilot.press("d", "down", "space")
        await wait_for(pilot, lambda: any("invalid JSON" in note for note in notes(app)))

    play(story)


def test_a_click_selects_and_a_double_click_inspects(here: Path) -> None:
    write(here / "mine.jsonl", 3)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.click(DataList, offset=(5, 2))
        assert chosen(app) == str(here / "mine.jsonl")
        await pilot.click(DataList, offset=(5, 1), times=2)
        await wait_for(pilot, lambda: isinstance(app.screen, InspectorScreen))
        assert chosen(app) == "tickets"
        await pilot.press("escape")
        assert app.screen is app.bench

    play(story)


def test_leaving_the_bench_stops_counting(here: Path) -> None:
    for number in range(30):
        write(here / f"{number}.jsonl", 3)
    left: list[DataList] = []

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: data(app).previews)
        left.append(data(app))

    play(story)
    preview_thread = left[0]._preview_thread
    assert preview_thread is not None
    preview_thread.join(60)
    assert not preview_thread.is_alive() and len(left[0].previews) < 32
