"""Snapshots of the workbench as text at two to four sizes, and the contrast of its colors in a dark and a light theme.

`UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py` writes the snapshots again; read the diff before committing it.
`PICTURES=FOLDER` draws every screen as SVG at all sizes, dark, light and without color: look at them too.
Colors are Textual's and change with its version: they are not stored, but must have a minimum contrast.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_server import stand_in
from made_ladder import made_ladder
from made_runs import BEGIN, METHODS, write_events
from pilot import drawn, screen_text
from rich.console import Console
from rich.segment import Segment
from rich.text import Text
from textual.color import Color
from textual.pilot import Pilot
from textual.screen import ModalScreen

import engine.runs.run.folder
import tui.preview.disk
from engine.config import preset_library
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.result import Interval, MeasuredPeak, Result, Score
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench
from tui.live.machine import GpuSample, MachineSample, MachineSampler, OtherProcess
from tui.screens.trying import TryScreen
from tui.settings import Settings
from tui.terminal.themes import contrast
from tui.widgets.data_list import DataList
from tui.widgets.memory_pane import MemoryPane

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (160, 45))
ALL_SIZES = ((80, 24), (100, 30), (160, 45), (220, 60))
IN_ALL_SIZES = ("bench-empty", "bench-run", "bench-live", "ladder")
"""The scenes that are taken at all sizes; the others at two."""
GIB = 1 << 30
MAX_TRIES = 4
"""Pairs of frames: on a busy machine something may still arrive between the two."""
MIN_CONTRAST = 3.0
"""Minimum of WCAG 2.2 for large text and for graphics; required of every letter."""
THEMES = ("textual-dark", "textual-light")
MACHINE = MachineSample(
    gpus=(
        GpuSample(
            index=0,
            name="NVIDIA A100-SXM4-80GB",
            total=80 * GIB,
            used=38 * GIB,
            mine=31 * GIB,
            others=(OtherProcess(4242, "vllm", 6 * GIB, "ann", 1, 11_000.0),),
            power=312.0,
            load=97,
            temperature=64,
        ),
    ),
    why="",
    memory_total=256 * GIB,
    memory_used=40 * GIB,
    worker_rss=3 * GIB,
    load=12.0,
)


feed = MemoryPane.feed


def feed_one(pane: MemoryPane, sample: MachineSample) -> None:
    """Keep the trace one second long, however long the test takes."""
    pane.traces.clear()
    feed(pane, sample)


class FixedRandom:
    """The module `os` with numbers instead of random bytes, for the names of runs."""

    def __init__(self) -> None:
        self.numbers = count()

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def urandom(self, size: int) -> bytes:
        return next(self.numbers).to_bytes(size, "big")


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the same name everywhere, on a machine that is always the same.

    There is one per machine: other processes that take snapshots at the same time wait.
    """
    folder = Path(tempfile.gettempdir()) / "ftbench-desk"
    turn = folder.with_suffix(".lock").open("w")
    fcntl.flock(turn, fcntl.LOCK_EX)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "mails.jsonl").write_text('{"prompt": "Where is it?", "completion": "On its way."}\n' * 40)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    monkeypatch.setattr(engine.runs.run.folder, "os", FixedRandom())
    monkeypatch.setattr(engine.runs.run.folder, "time", SimpleNamespace(strftime=lambda form: "20260102-030405"))
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box")
    monkeypatch.setattr("tui.header.time", SimpleNamespace(strftime=lambda form: "14:02"))
    monkeypatch.setattr(MachineSampler, "look", lambda self, worker: MACHINE)
    monkeypatch.setattr("tui.preview.method_estimate.has_bf16", lambda: False)  # for the scene without a GPU
    monkeypatch.setattr(MemoryPane, "feed", feed_one)
    disk = SimpleNamespace(total=900 * GIB, used=0, free=500 * GIB)
    monkeypatch.setattr(tui.preview.disk, "shutil", SimpleNamespace(disk_usage=lambda path: disk))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    turn.close()


def runs_of(folder: Path) -> Path:
    """The folder of a ladder and its nine runs, each with a result."""
    runs = folder / "runs"
    made_ladder(runs)
    for run in run_dir.iterate(runs):
        run_dir.write_result(run, _result(run))
    return runs


def _result(run: RunDir) -> Result:
    config = run_dir.read_frozen(run).config
    score, seconds, loss = METHODS[config.method]

    def graded(value: float, nll: float) -> Score:
        return Score(loss=_interval(nll), perplexity=None, metric="json", score=_interval(value))

    return Result(
        status="finished",
        reason="",
        name=run.name,
        preset="demo-lora",
        method=config.method,
        model="tiny",
        data="tickets",
        metric="json",
        created=BEGIN,
        ended=BEGIN + seconds,
        before=graded(0.02, 3.6),
        after=graded(score, loss),
        step_seconds=seconds,
        seconds={"training": seconds},
        peak=MeasuredPeak(rss_training=GIB),
        artifact_bytes=GIB >> 10,
    )


def _interval(value: float) -> Interval:
    return Interval(mean=value, low=value - 0.02, high=value + 0.02, rows=40)


def live_run(runs: Path) -> int:
    """A run in the middle of its training; returns the lock that keeps it alive."""
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    write_events(run, "lora", 0, gpu=True)
    lines = run.events_file.read_bytes().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":60,' in line)
    run.events_file.write_bytes(b"".join(lines[: half + 1]))
    held = locks.acquire(run.lock_file, str(os.getpid()))
    assert held is not None
    return held


Steps = tuple[str, ...]
SCENES: dict[str, Steps] = {
    "bench-empty": (),
    "bench-run": ("r", "enter"),
    "bench-live": (),
    "help": ("question_mark",),
    "before-launch": ("enter",),
    "devices": ("D",),
    "presets": ("P",),
    "configuration": ("e",),
    "models": ("i",),
    "charts": ("r", "enter", "c", "b", "b", "left", "left"),
    "processes": ("M",),
    "picker": ("d", "a"),
    "inspector": ("d", "enter"),
    "runs": ("r",),
    "compared": ("r", "space", "space", "C"),
    "ladder": ("l",),
    "export": ("r", "x"),
    "rating": ("l", "R"),
    "try": ("l", "t", "escape", "j"),
}


@dataclass
class Frame:
    """The screen as it is drawn."""

    text: str
    front: list[Text]
    """Of a modal screen only its box: the screen behind it is dimmed."""


def frame(app: Workbench) -> Frame:
    lines = drawn(app)
    box = app.screen.children[0].region if isinstance(app.screen, ModalScreen) else app.screen.region
    text = "".join(f"{line.plain.rstrip()}\n" for line in lines)
    return Frame(text, [line[box.x : box.right] for line in lines[box.y : box.bottom]])


def is_complete(app: Workbench) -> bool:
    """Whether the answers of other processes and a sample have arrived."""
    text = screen_text(app)
    data = app.bench.query_one(DataList)
    if isinstance(app.screen, TryScreen):
        return "target 1" in text and "answering" not in text and "its turn" not in text
    waits = any(word in text for word in ("preparing", "counting")) or len(data.previews) < len(data.sets)
    return not waits and app.bench.machine.sample is not None and app.bench.selection_pane.budget is not None


def take_frames(size: tuple[int, int], steps: Steps, runs: Path, name: str) -> list[Frame]:
    """A frame after some keys, in each theme; name: of the pictures."""
    app = Workbench(runs, Settings(theme=THEMES[0]))
    frames: list[Frame] = []

    async def settle(pilot: Pilot[str]) -> None:
        """Wait until two frames in a row are equal."""
        before, now = "", screen_text(app)
        while before != now or "starting …" in now or "loading" in now:
            await app.workers.wait_for_complete()
            await pilot.pause(0.3)
            before, now = now, screen_text(app)

    async def play() -> None:
        tries = 0
        async with app.run_test(size=size) as pilot:
            await settle(pilot)
            for key in steps:
                await pilot.press(key)
                await settle(pilot)
            while not is_complete(app):
                await pilot.pause(0.2)
            while len(frames) < len(THEMES) or (frames[0].text != frames[1].text and tries < MAX_TRIES):
                frames.clear()
                tries += 1
                for theme in THEMES:
                    app.theme = theme
                    await settle(pilot)
                    frames.append(frame(app))
                    draw_picture(app, f"{name}-{theme.rpartition('-')[2]}")
            if PICTURES:
                app.no_color, app.theme = True, THEMES[0]
                app.refresh_css(animate=False)
                await settle(pilot)
                draw_picture(app, f"{name}-plain")

    asyncio.run(play())
    return frames


PICTURES = os.environ.get("PICTURES", "")
"""Folder for a picture of every screen in every size; '' for none."""
CASES = [(scene, size) for scene in SCENES for size in (ALL_SIZES if PICTURES or scene in IN_ALL_SIZES else SIZES)]


def draw_picture(app: Workbench, name: str) -> None:
    """Write the screen as SVG into the folder of pictures."""
    if PICTURES:
        Path(PICTURES, f"{name}.svg").write_text(app.export_screenshot(), "utf-8")


@pytest.mark.parametrize(
    ("scene", "size"), CASES, ids=lambda one: one if isinstance(one, str) else f"{one[0]}x{one[1]}"
)
def test_snapshot_and_contrast(
    scene: str, size: tuple[int, int], desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch)
    runs = desk / "runs" if scene == "bench-empty" else runs_of(desk)
    held = live_run(runs) if scene == "bench-live" else None
    name = f"{scene}-{size[0]}x{size[1]}"
    dark, light = take_frames(size, SCENES[scene], runs, name)
    if held is not None:
        os.close(held)
    snapshot = SNAPSHOTS / f"{name}.txt"
    assert light.text == dark.text
    console = Console()
    for theme, shown in zip(THEMES, (dark, light), strict=True):
        faint = [low_contrast(segment) for line in shown.front for segment in line.render(console)]
        assert [found for found in faint if found] == [], theme
        assert any(segment.style and segment.style.bgcolor for line in shown.front for segment in line.render(console))
    if "UPDATE_SNAPSHOTS" in os.environ and (size in SIZES or scene in IN_ALL_SIZES):
        SNAPSHOTS.mkdir(exist_ok=True)
        snapshot.write_text(dark.text)
    if size in SIZES or scene in IN_ALL_SIZES:
        assert snapshot.read_text() == dark.text


def low_contrast(segment: Segment) -> str:
    """A text that is hard to read, with its contrast; '' for one that is not."""
    style = segment.style
    if not re.search(r"\w", segment.text) or style is None or style.color is None or style.bgcolor is None:
        return ""
    front, back = (Color(*color.get_truecolor()) for color in (style.color, style.bgcolor))
    ratio = contrast(front, back)
    return "" if ratio >= MIN_CONTRAST else f"{segment.text!r} {ratio:.2f}"
