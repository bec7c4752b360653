"""What the workbench looks like at three sizes, character for character, and that it can be read, dark and light.

`UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py` writes the pictures anew; read the difference before keeping it.
Colours are Textual's and change with it: instead of being frozen, their contrast is held to a floor.
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

import psutil
import pytest
from made_ladder import made_ladder
from made_runs import BEGIN, METHODS
from rich.segment import Segment
from textual.color import Color
from textual.pilot import Pilot
from textual.screen import ModalScreen

import engine.runs.folder
from engine.runs import run_dir
from engine.runs.result import Interval, MeasuredPeak, Result, Score
from engine.runs.run_dir import RunDir
from tui.app import Workbench
from tui.live.machine import CardSample, MachineSample, MachineSampler, OtherProcess
from tui.settings import Settings
from tui.terminal.themes import contrast
from tui.widgets.data_list import DataList
from tui.widgets.machine_pane import MachinePane

PICTURES = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (120, 36), (160, 45))
GIB = 1 << 30
LEAST_CONTRAST = 3.0
"""WCAG 2.2's floor for large text and for what is not text; every letter keeps at least to it."""
THEMES = ("textual-dark", "textual-light")
MACHINE = MachineSample(
    cards=(
        CardSample(
            index=0,
            name="NVIDIA A100-SXM4-80GB",
            total=80 * GIB,
            used=38 * GIB,
            mine=31 * GIB,
            others=(OtherProcess(4242, "python", 6 * GIB),),
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


feed = MachinePane.feed


def feed_one(pane: MachinePane, sample: MachineSample) -> None:
    """However long a picture takes, its trace is a second long."""
    pane.traces.clear()
    feed(pane, sample)


@pytest.fixture
def desk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of the same name everywhere, on a machine that is always the same.

    There is one on a machine: whoever else takes these pictures at the same time waits.
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
    numbers = count()
    monkeypatch.setattr(os, "urandom", lambda size: next(numbers).to_bytes(size, "big"))
    monkeypatch.setattr(engine.runs.folder, "time", SimpleNamespace(strftime=lambda form: "20260102-030405"))
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box")
    monkeypatch.setattr(MachineSampler, "look", lambda self, worker: MACHINE)
    monkeypatch.setattr(MachinePane, "feed", feed_one)
    monkeypatch.setattr(
        psutil, "virtual_memory", lambda: SimpleNamespace(total=256 * GIB, available=200 * GIB, used=GIB)
    )
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(total=900 * GIB, used=0, free=500 * GIB))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    turn.close()


def runs_of(folder: Path) -> Path:
    """A ladder and its nine runs, each with a result."""
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


Steps = tuple[str, ...]
SCENES: dict[str, Steps] = {
    "bench-empty": (),
    "bench-run": ("r", "enter"),
    "help": ("question_mark",),
    "before-launch": ("enter",),
    "methods": ("M",),
    "presets": ("P",),
    "configuration": ("c",),
    "runs": ("r",),
    "compared": ("r", "space", "down", "space", "c"),
    "ladder": ("l",),
}


@dataclass
class Picture:
    """The screen as it would be drawn, a list of styled pieces a line."""

    lines: list[list[Segment]]
    front: list[list[Segment]]
    """Of a modal screen its box alone: what is behind it is dimmed on purpose."""


def picture(app: Workbench) -> Picture:
    strips = app.screen._compositor.render_strips()
    box = app.screen.children[0].region if isinstance(app.screen, ModalScreen) else app.screen.region
    front = [strip.crop(box.x, box.right) for strip in strips[box.y : box.bottom]]
    return Picture([list(strip) for strip in strips], [list(strip) for strip in front])


def settled(app: Workbench) -> bool:
    """Whether what is asked of other processes and of the sampler has come."""
    text = text_of(picture(app).lines)
    data = app.bench.query_one(DataList)
    waits = any(word in text for word in ("preparing", "counting rows")) or len(data.previews) < len(data.sets)
    return not waits and (app.screen is not app.bench or "planned" in text)


def shoot(size: tuple[int, int], steps: Steps, runs: Path) -> list[Picture]:
    """The picture after some keys, in each theme."""
    app = Workbench(runs, Settings(theme=THEMES[0]))
    taken: list[Picture] = []

    async def settle(pilot: Pilot[str]) -> None:
        await pilot.pause(0.3)
        await app.workers.wait_for_complete()
        await pilot.pause(0.2)

    async def play() -> None:
        async with app.run_test(size=size) as pilot:
            await settle(pilot)
            for key in steps:
                await pilot.press(key)
                await settle(pilot)
            while not settled(app):
                await pilot.pause(0.2)
            for theme in THEMES:
                app.theme = theme
                await settle(pilot)
                taken.append(picture(app))

    asyncio.run(play())
    return taken


def text_of(lines: list[list[Segment]]) -> str:
    """Characters alone."""
    return "\n".join("".join(piece.text for piece in line).rstrip() for line in lines) + "\n"


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("scene", SCENES)
def test_it_looks_as_it_did_and_can_be_read(scene: str, size: tuple[int, int], desk: Path) -> None:
    runs = desk / "runs" if scene == "bench-empty" else runs_of(desk)
    dark, light = shoot(size, SCENES[scene], runs)
    seen, kept = text_of(dark.lines), PICTURES / f"{scene}-{size[0]}x{size[1]}.txt"
    assert text_of(light.lines) == seen
    for theme, shown in zip(THEMES, (dark, light), strict=True):
        assert [found for line in shown.front for found in map(faint, line) if found] == [], theme
    if "UPDATE_SNAPSHOTS" in os.environ:
        PICTURES.mkdir(exist_ok=True)
        kept.write_text(seen)
    assert kept.read_text() == seen


def faint(piece: Segment) -> str:
    """A piece that is hard to read, with its contrast; '' for one that is not."""
    style = piece.style
    if not re.search(r"\w", piece.text) or style is None or style.color is None or style.bgcolor is None:
        return ""
    front, back = (Color(*color.get_truecolor()) for color in (style.color, style.bgcolor))
    ratio = contrast(front, back)
    return "" if ratio >= LEAST_CONTRAST else f"{piece.text!r} {ratio:.2f}"
