"""Watching runs on the bench: curves, earlier runs, log, machine."""

from __future__ import annotations

import os
import re
from pathlib import Path

import msgspec
import pytest
from made_runs import write_events
from pilot import notes, play, sampled, screen_text, wait_for
from textual.pilot import Pilot

from engine.config import preset_library
from engine.runs.home import tilde
from engine.runs.queue import locks
from engine.runs.run import events, run_dir
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.live.machine import GpuSample, MachineSample
from tui.live.run_state import ExpectedPeak
from tui.screens.adding import PathInput
from tui.settings import Settings
from tui.widgets.data_list import DataList
from tui.widgets.log_pane import LogPane
from tui.widgets.memory_pane import MemoryPane, MemoryView
from tui.widgets.run_panes import LossPane

GIB = 1 << 30


def made(runs: Path, method: str = "lora", data: str = "tickets", printed: bytes = b"", ended: bool = True) -> RunDir:
    """A run that has written its events; one that has not `ended` was killed before its end."""
    run = run_dir.create(
        runs, f"demo-{method}", preset_library.resolve_preset(f"demo-{method}", None, {"data.id": data})
    )
    write_events(run, method, 0)
    run.log_file.write_bytes(printed)
    if ended:
        result = run_dir.blank_result(run, run_dir.read_frozen(run))
        result.status = "finished"
        run_dir.write_result(run, result)
    else:
        events = run.events_file.read_bytes().splitlines(keepends=True)
        run.events_file.write_bytes(b"".join(line for line in events if b'"type":"end"' not in line))
    return run


async def watch(pilot: Pilot[str], app: Workbench, run: RunDir) -> None:
    app.bench.watch_run(run)
    await wait_for(pilot, lambda: app.bench.follower.state is not None and app.bench.follower.live is not None)


def text(app: Workbench, pane: type[LossPane | LogPane | MemoryPane]) -> str:
    return "\n".join(str(line) for line in app.bench.query_one(pane).lines)


def test_the_log_is_filtered_searched_copied_and_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    now = made(tmp_path / "runs", printed=b"loading\nstep by step\n")

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, now)
        await pilot.press("f")
        await pilot.press(*"validation")
        assert all("validation" in line for line in text(app, LogPane).splitlines())
        await pilot.press("enter", "y")
        assert app.clipboard.count("validation at step") == 4
        await pilot.press("f", "escape")
        assert "finished" in text(app, LogPane)
        await pilot.press("slash", *"step 60", "enter")
        log = app.bench.query_one(LogPane)
        assert log.match is not None and "step 60" in log.views["events"][log.match]
        first = log.match
        await pilot.press("slash", "escape", "slash", *"step", "enter", "n")
        assert log.match is not None and log.match != first
        newest = log.match
        await pilot.press("n")
        assert log.match < newest
        await pilot.press("N")
        assert log.match == newest
        await pilot.press("O")
        assert text(app, LogPane).splitlines() == ["loading", "step by step"]
        await pilot.press("Y")
        saved = tmp_path / f"{now.name}-output.txt"
        assert saved.read_text() == "loading\nstep by step\n"
        assert any(str(saved) in note for note in notes(app))

    play(tmp_path / "runs", story)


def test_scrolling_up_keeps_the_position_and_end_follows_again(tmp_path: Path) -> None:
    now = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, now)
        log = app.bench.query_one(LogPane)
        for number in range(100):
            log.views["events"].add(f"00:00:00 line {number}")
        log.redraw()
        assert "line 99" in text(app, LogPane)
        await pilot.press("home")
        assert "line 99" not in text(app, LogPane) and "scrolled up" in str(log.border_subtitle)
        before = text(app, LogPane)
        log.views["events"].add("00:00:00 one more")
        log.redraw()
        assert text(app, LogPane) == before
        await pilot.press("end")
        assert "one more" in text(app, LogPane)

    play(tmp_path, story)


def test_a_worker_that_exited_is_shown_with_the_end_of_its_output(tmp_path: Path) -> None:
    now = made(tmp_path, printed=b"loading\nRuntimeError: [red] no such GPU\n", ended=False)
    held = locks.acquire(now.lock_file, "0")
    lines = now.events_file.read_bytes().splitlines(keepends=True)
    now.events_file.write_bytes(b"".join(lines[:60]))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, now)
        assert app.bench.follower.live
        assert held is not None
        os.close(held)
        await wait_for(pilot, lambda: app.bench.follower.last_output is not None)
        assert "RuntimeError: [red] no such GPU" in text(app, LogPane)
        assert app.bench.follower.last_output == "RuntimeError: [red] no such GPU"

    play(tmp_path, story)


@pytest.mark.parametrize("size", [(80, 24), (160, 45)])
def test_every_gpu_has_a_line_and_can_be_scrolled_to(size: tuple[int, int], tmp_path: Path) -> None:
    cards = tuple(
        GpuSample(number, f"Card {number}", 80 * GIB, number * GIB, 30 * GIB if number == 5 else None, (), 300.0, 9, 60)
        for number in range(8)
    )

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        assert app.sampler is not None
        app.sampler.leave()
        await wait_for(pilot, lambda: not app.sampler or not app.sampler.is_alive())
        pane = app.bench.query_one(MemoryPane)
        app.bench.post_message(sampled(MachineSample(cards, "", 256 * GIB, GIB)))
        pane.focus()
        await wait_for(pilot, lambda: pane.content_size.height >= 8)
        rows = [str(line) for line in pane.lines if "/80" in str(line)]
        assert [row.split()[0] for row in rows] == [str(number) for number in range(8)]
        assert [pane.content_size.height >= len(pane.lines), "▸" in rows[5]] == [True, True]
        await pilot.resize_terminal(60, 12)  # less than a line each: they are scrolled to
        await wait_for(pilot, lambda: pane.content_size.height < 8)
        seen = set()
        for _ in range(12):
            seen |= {str(line).split()[0] for line in pane.lines if "/80" in str(line)}
            await pilot.press("down")
        assert seen >= {str(number) for number in range(8)}

    play(tmp_path, story, size)


def test_memory_within_the_error_of_the_prediction_is_no_warning() -> None:
    """Both figures have one unit, however small they are."""
    for unit, mine, told, warns in (
        (GIB, 38, r"\bfits\b", False),
        (GIB, 43, r"measured 43\.0, predicted 40\.0 ±11%", False),
        (GIB, 45, r"measured 45\.0, predicted 40\.0 ±11%", True),
        (10 << 20, 43, r"measured 430 MiB, predicted 400 MiB ±11%", False),
        (10 << 20, 45, r"measured 450 MiB, predicted 400 MiB ±11%", True),
    ):
        gpu = GpuSample(0, "card", 80 * unit, mine * unit, mine=mine * unit)
        sample = MachineSample((gpu,), "", 256 * GIB, GIB)
        view = MemoryView(sample, {}, ExpectedPeak(40 * unit, error=0.107), live=True, run="lora-1")
        legend = list(view.lines(100, 2))[1]
        assert re.search(told, legend.plain) and ("fits" in legend.plain) == (mine < 40)
        styles = [str(span.style) for span in legend.spans if "predicted" in legend.plain[span.start : span.end]]
        assert ("$text-warning" in styles) == warns


@pytest.mark.parametrize(
    "keys", [(), ("r",), ("l",), ("c",), ("question_mark",), ("P",), ("M",), ("enter",), ("ctrl+p",)]
)
def test_an_ascii_terminal_gets_ascii_only(keys: tuple[str, ...], tmp_path: Path) -> None:
    now = made(tmp_path)

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, now)
        app.notify("a note – with … more")
        await pilot.press(*keys)
        for _ in range(5):  # in every frame
            assert not {character for character in screen_text(app) if character > "~"}
            await pilot.pause(0.1)

    play(tmp_path, story, (80, 24), Settings(ascii=True))


def test_a_run_that_ended_before_its_first_step_is_shown_so(tmp_path: Path) -> None:
    run = made(tmp_path)
    told = [events.Phase(name="waiting"), events.End(status="stopped", reason="as asked")]
    run.events_file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in told))

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await watch(pilot, app, run)
        assert text(app, LossPane).startswith("ended before")

    play(tmp_path, story)


def test_a_run_that_starts_later_is_watched_if_none_is(tmp_path: Path) -> None:
    """The bench may be opened between two runs of a ladder."""

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.announcer)
        assert app.bench.follower.run is None
        first = made(tmp_path, "lora", ended=False)
        lock = locks.acquire(first.lock_file)
        await wait_for(pilot, lambda: app.bench.follower.run == first)
        second = made(tmp_path, "qlora", ended=False)
        other = locks.acquire(second.lock_file)
        await wait_for(pilot, lambda: len(app.bench.live_runs.live()) == 2)
        assert app.bench.follower.run == first
        for descriptor in (lock, other):
            assert descriptor is not None
            os.close(descriptor)

    play(tmp_path, story)


def test_a_run_that_starts_does_not_interrupt_typing(tmp_path: Path) -> None:
    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await wait_for(pilot, lambda: app.bench.announcer)
        await pilot.press("d", "a", "p")
        line = app.bench.query_one(PathInput)
        app.app_focus = False  # another window of the terminal has the focus
        run = made(tmp_path, ended=False)
        lock = locks.acquire(run.lock_file)
        assert lock is not None
        await wait_for(pilot, lambda: app.bench.follower.run == run)
        await pilot.press("q")
        assert app.is_running and line.has_focus and line.value == "pq"
        await pilot.press("escape")
        data = app.bench.query_one(DataList)
        await wait_for(pilot, lambda: data.has_focus and data.size)
        os.close(lock)

    play(tmp_path, story)


def test_the_timing_probe_of_a_ladder_can_be_watched(tmp_path: Path) -> None:
    probe = made(tmp_path / "20260101-000000-demo-beef" / "probes", ended=False)
    descriptor = locks.acquire(locks.device_lock("cpu"), f"1 {probe.path}")
    assert descriptor is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("w")
        await wait_for(pilot, lambda: app.bench.follower.run == probe)
        assert notes(app) == []

    try:
        play(tmp_path, story)
    finally:
        os.close(descriptor)


def test_a_live_run_of_another_folder_is_named(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere" / "20260101-000000-demo-full-full-beef"
    descriptor = locks.acquire(locks.device_lock("cpu"), f"1 {elsewhere}")
    assert descriptor is not None

    async def story(pilot: Pilot[str], app: Workbench) -> None:
        await pilot.press("w")
        assert any("full-beef " in note and f" {tilde(elsewhere.parent)}." in note for note in notes(app))

    try:
        play(tmp_path / "runs", story)
    finally:
        os.close(descriptor)


def test_a_run_on_the_cpu_of_a_machine_with_a_gpu_shows_system_memory_only(tmp_path: Path) -> None:
    """Its peak is predicted of that memory, and not of the GPU's."""
    gpu = GpuSample(0, "card", 80 * GIB, 71 * GIB, None)
    sample = MachineSample((gpu,), "", 256 * GIB, 40 * GIB, worker_rss=3 * GIB)
    view = MemoryView(sample, {}, ExpectedPeak(4 * GIB, error=0.107), live=True, run="lora-1", on_cpu=True)
    text = " ".join([view.title, view.load(100), *(line.plain for line in view.lines(160, 4))])
    assert "system memory" in text and "40.0/256 GiB" in text and "this run 3.0" in text
    assert "predicted peak 4.0 ±11% + others = 41.0" in text and not re.search(r"VRAM|card|80|71", text)
