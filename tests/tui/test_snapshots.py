"""Snapshots of every screen of the workbench as text at four sizes, and its colors: dark, light and none.

`UPDATE_SNAPSHOTS=1 pytest tests/tui/test_snapshots.py` writes the snapshots again; read the diff before committing it.
`PICTURES=FOLDER` draws every screen as SVG at all sizes, dark, light and without color: look at them too.
Colors are Textual's and change with its version: they are not stored, but must have a minimum contrast.
"""

from __future__ import annotations

import asyncio
import dataclasses
import fcntl
import importlib
import os
import pkgutil
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from chat_server import stand_in
from made_ladder import made_ladder
from made_runs import BEGIN, METHODS, write_events
from pilot import drawn, sampled
from rich.style import Style
from textual.color import Color
from textual.geometry import Region
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.strip import Strip
from textual.widget import Widget
from textual.widgets import Input

import engine.runs.run.folder
import tui.preview.method_estimate
import tui.screens
from engine.config import preset_library
from engine.memory.formula.estimate import CONTEXT
from engine.runs.queue import locks
from engine.runs.run import events, run_dir
from engine.runs.run.result import Interval, MeasuredPeak, Predicted, Result, Score
from engine.runs.run.run_dir import RunDir
from tui.app import Workbench, subclasses
from tui.live.machine import GpuSample, MachineSample, MachineSampler, ProcessSample
from tui.live.run_state import RunTimer
from tui.palette import CommandPalette
from tui.screens.base import BaseScreen, Dialog
from tui.settings import Settings, contrast
from tui.widgets.data_list import DataList
from tui.widgets.memory_history import MemoryHistory, Moment
from tui.widgets.memory_pane import MemoryPane, MemoryView

SNAPSHOTS = Path(__file__).parent / "snapshots"
SIZES = ((80, 24), (100, 30), (160, 45), (220, 60))
SMALL = ((79, 23), (60, 20), (40, 12))
"""Below the least size of the workbench."""
GIB = 1 << 30
SECONDS = 20.0
"""Until a screen shows what is stored: on a busy machine something may still arrive."""
ANSWER_SECONDS = 300.0
"""Until the rows of all datasets are counted, and everything else that the bench shows is known."""
TICK, MAX_TICK = 0.01, 0.1
"""Seconds between two looks at the screen, at first and later."""
QUIET_SECONDS = 0.3
"""After which a screen that has not changed is complete, where nothing is stored."""
MIN_CONTRAST = 3.0
"""Minimum of WCAG 2.2 for large text and for graphics; required of every letter."""
THEMES = ("textual-dark", "textual-light")
PLAIN = "plain"
"""Without colors."""
MODES = (*THEMES, PLAIN)
"""The first one is looked at in all sizes, the others in two: that in which the scene is opened, which differs from
scene to scene, and the largest. Colors belong to widgets, and the largest size shows all of them.
"""
MACHINE = MachineSample(
    gpus=(
        GpuSample(
            index=0,
            name="NVIDIA A100-SXM4-80GB",
            total=80 * GIB,
            used=7 * GIB,
            mine=None,
            others=(ProcessSample(4242, "vllm", 6 * GIB, "ann", 1, 11_000.0),),
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
TRAINING = dataclasses.replace(
    MACHINE,
    gpus=(
        dataclasses.replace(
            MACHINE.gpus[0],
            used=38 * GIB,
            mine=31 * GIB,
            own=ProcessSample(4711, "python", 31 * GIB, "mike", 96, 662.0),
        ),
    ),
)
"""While the watched run trains."""
GROWN = dataclasses.replace(
    TRAINING,
    gpus=(
        dataclasses.replace(
            TRAINING.gpus[0],
            used=41 * GIB,
            others=(dataclasses.replace(MACHINE.gpus[0].others[0], bytes=10 * GIB),),
            power_limit=400.0,
            clock=1410,
            max_clock=1410,
        ),
    ),
)
"""The same, and the neighbor has grown."""
BUSY = MachineSample(
    gpus=tuple(
        GpuSample(
            index=number,
            name="NVIDIA A100-SXM4-80GB",
            total=80 * GIB,
            used=used * GIB,
            mine=None,
            others=(ProcessSample(4000 + number, name, used * GIB, user, load, 11_000.0),) if user else (),
            power=load * 3.5,
            load=load,
            temperature=30 + load // 3,
        )
        for number, (user, name, used, load) in enumerate(
            (
                ("ann", "vllm", 71, 100),
                ("mike", "python3", 12, 4),
                ("", "", 0, 0),
                ("ann", "vllm", 71, 98),
                ("games", "python3", 43, 77),
                ("", "", 0, 0),
                ("", "", 0, 0),
                ("zoe", "jupyter", 9, 0),
            )
        )
    ),
    why="",
    memory_total=1024 * GIB,
    memory_used=200 * GIB,
    load=31.0,
)
"""Eight GPUs, of which the first is in use."""
PROCESSES = dataclasses.replace(
    MACHINE,
    gpus=(
        dataclasses.replace(
            MACHINE.gpus[0],
            others=(
                ProcessSample(4711, "python", 31 * GIB, "mike", 96, 662.0, 104.0, 3 * GIB, "demo-lora-000a"),
                ProcessSample(
                    4242, "vllm", 6 * GIB, "ann", 1, 11_000.0, 12.0, 2 * GIB, "vllm serve Qwen/Qwen3-8B --port 8000"
                ),
            ),
        ),
    ),
    workers=(ProcessSample(1234, "python", user="mike", seconds=61.0, cpu=99.0, rss=GIB, command="demo-full-0007"),),
)
"""Two processes on the GPU, and a run on the CPU."""
NO_GPU = MachineSample((), "NVML Shared Library Not Found", 24 * GIB, 6 * GIB, load=9.0, visible=None)


feed = MemoryPane.feed


def feed_one(pane: MemoryPane, view: MemoryView) -> None:
    """Keep the history one second long, however long the test takes."""
    pane.traces.clear()
    feed(pane, view)


def ten_minutes(pane: MemoryPane, view: MemoryView) -> None:
    """A neighbor comes, an earlier run ends, the watched run starts and grows, the neighbor grows."""
    pane.traces.clear()
    (gpu,) = view.sample.gpus
    for second in range(600):
        own = 0 if second < 240 else 12 + min(19, (second - 240) // 4)
        before = 20 if second < 150 else 0
        others = 0 if second < 60 else 7 if second < 420 else 10
        runs = {"lora-0000": own * GIB} if own else {"full-0007": before * GIB} if before else {}
        load = 97.0 if own or before else 3.0 * (second % 3)
        moment = Moment((own + before + others) * GIB, runs, load, 80 + 2.3 * load, 1410 if own else 210)
        pane.traces.setdefault(gpu.label, MemoryHistory()).add(moment)


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
    fixed = {**vars(time), "strftime": lambda form: "20260102-030405"}
    monkeypatch.setattr(engine.runs.run.folder, "time", SimpleNamespace(**fixed))
    monkeypatch.setattr(socket, "gethostname", lambda: "gpu-box")
    monkeypatch.setattr("tui.widgets.status_line.time", SimpleNamespace(time=time.time, strftime=lambda form: "14:02"))
    left = RunTimer.left  # at the last event, which was written long ago
    monkeypatch.setattr(RunTimer, "left", lambda timer, now=None: left(timer))
    monkeypatch.setattr("tui.data.preview.SECONDS", ANSWER_SECONDS)  # rows are counted also on a busy machine
    monkeypatch.setenv("LOGNAME", "mike")
    disk = SimpleNamespace(total=900 * GIB, used=0, free=500 * GIB)
    monkeypatch.setattr(tui.preview.method_estimate, "shutil", SimpleNamespace(disk_usage=lambda path: disk))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    turn.close()


def runs_of(folder: Path) -> Path:
    """The folder of a ladder and its nine runs, each with a result."""
    runs = folder / "runs"
    made_ladder(runs)
    for run in RunDir.iterate(runs):
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


def large_run(desk: Path) -> int:
    """A live run whose predicted peak is 36 GiB."""
    held = live_run(desk / "runs")
    (run,) = RunDir.iterate(desk / "runs")
    lines = run.events_file.read_bytes().splitlines(keepends=True)
    predicted = [Predicted(tier="formula", training=36 * GIB - CONTEXT)]
    plan = events.Plan(
        steps=120,
        start_step=0,
        batch=16,
        micro_batch=8,
        packing="packed",
        gradient_checkpointing=False,
        predictions=predicted,
    )
    loaded = events.ModelLoaded(
        id="tiny",
        architecture="tiny",
        parameters=1000,
        trainable=1000,
        dtype="bf16",
        device="GPU 0",
        attention="sdpa",
        optimizer="adamw",
        fingerprint="",
    )
    added = [msgspec.json.encode(event) + b"\n" for event in (loaded, plan)]
    run.events_file.write_bytes(b"".join([*lines[:2], *added, *lines[2:]]))
    return held


def no_runs(desk: Path) -> None:
    """The bench when it is opened for the first time."""


def ended_runs(desk: Path) -> None:
    """A ladder with its nine runs."""
    runs_of(desk)


def live_runs(desk: Path) -> int:
    """The same, and a run in the middle of its training."""
    return live_run(runs_of(desk))


def failed_run(desk: Path) -> None:
    """A run that ended with an error."""
    config = preset_library.resolve_preset("demo-lora", None, {})
    run = run_dir.create(desk / "runs", "demo-lora", config)
    write_events(run, "lora", 0, gpu=True)
    *lines, _ = run.events_file.read_bytes().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":60,' in line)
    reason = "not one row fits: the GPU has 2.0 GiB, 1.9 GiB are in use"
    end = events.End(status="out_of_memory", reason=reason, t=BEGIN + 700, seq=half + 2)
    run.events_file.write_bytes(b"".join([*lines[: half + 1], msgspec.json.encode(end), b"\n"]))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status, result.reason, result.created, result.ended = "out_of_memory", reason, BEGIN, BEGIN + 700
    run_dir.write_result(run, result)


def live_ladder(desk: Path) -> int:
    """A ladder whose third run is training."""
    folder, ladder = made_ladder(desk / "runs", gpu=True)
    runs = [entry for entry in ladder.entries if entry.kind == "run"]
    for entry in runs[2:]:
        entry.status, entry.seconds, entry.validation_loss = "planned", None, None
    runs[2].status = "live"
    ladder.status, ladder.stage, ladder.summary, ladder.verdict = "running", "training", None, []
    folder.write_state(ladder)
    file = RunDir(folder.runs / runs[2].run).events_file
    lines = file.read_bytes().splitlines(keepends=True)
    half = next(number for number, line in enumerate(lines) if b'"step":60,' in line)
    file.write_bytes(b"".join(lines[: half + 1]))
    held = locks.acquire(folder.lock_file, str(os.getpid()))
    assert held is not None
    return held


def unclear_columns(desk: Path) -> None:
    """A dataset whose columns have other names than those that are known."""
    rows = "".join(f'{n},"Where is order {n}?",{("billing", "delivery")[n % 2]}\n' for n in range(40))
    (desk / "teams.csv").write_text("id,message,team\n" + rows)


@dataclass(frozen=True)
class Scene:
    """A screen after some keys."""

    screen: str
    """Its class."""
    keys: tuple[str, ...] = ()
    """Pressed one after another, each once the screen shows the effect of the last one."""
    prepare: Callable[[Path], int | None] = ended_runs
    """Makes runs and data on the desk; returns a lock that is held until the end of the scene."""
    machine: MachineSample = MACHINE
    sizes: tuple[tuple[int, int], ...] = SIZES
    history: Callable[[MemoryPane, MemoryView], None] = feed_one
    """Takes the place of `MemoryPane.feed`."""
    same_text: bool = True
    """Whether the text is the same without colors; the inspector separates tokens by bars there."""


SCENES = {
    "bench-empty": Scene("BenchScreen", prepare=no_runs),
    "bench-no-gpu": Scene("BenchScreen", prepare=no_runs, machine=NO_GPU),
    "bench-gpus": Scene("BenchScreen", prepare=no_runs, machine=BUSY),
    "bench-run": Scene("BenchScreen", ("r", "enter")),
    "bench-failed": Scene("BenchScreen", ("r", "enter"), failed_run),
    "bench-live": Scene("BenchScreen", prepare=live_runs, machine=TRAINING),
    "bench-history": Scene("BenchScreen", prepare=large_run, machine=GROWN, history=ten_minutes),
    "bench-live-gpus": Scene("BenchScreen", prepare=live_runs, machine=BUSY),
    "bench-lists": Scene("BenchScreen", ("d",), live_runs, machine=TRAINING),
    "bench-search": Scene("BenchScreen", ("slash", *"loss", "enter", "f"), live_runs, machine=TRAINING),
    "bench-zoom": Scene("BenchScreen", ("z",), live_runs, machine=TRAINING),
    "bench-small": Scene("BenchScreen", prepare=live_runs, machine=TRAINING, sizes=SMALL),
    "help": Scene("TextScreen", ("question_mark",), no_runs),
    "jump": Scene("JumpScreen", ("ctrl+o",)),
    "palette": Scene("CommandPalette", ("colon",)),
    "palette-search": Scene("CommandPalette", ("colon", *"lad")),
    "confirm-stop": Scene("ConfirmScreen", ("s",), live_runs, machine=TRAINING),
    "confirm-delete": Scene("ConfirmScreen", ("r", "delete")),
    "launch": Scene("LaunchScreen", ("enter",)),
    "launch-value": Scene("LaunchScreen", ("enter", "down", "enter", *"70x")),
    "launch-ladder": Scene("LaunchScreen", ("L",), machine=BUSY),
    "columns": Scene("SuggestionScreen", ("d", "down", "down", "down", "space"), unclear_columns),
    "devices": Scene("DevicesScreen", ("D",)),
    "devices-gpus": Scene("DevicesScreen", ("colon", *"device", "enter"), live_runs, BUSY),
    "presets": Scene("PresetsScreen", ("P",)),
    "preset-name": Scene("NameScreen", ("P", "a")),
    "configuration": Scene("ConfigurationScreen", ("e",)),
    "configuration-value": Scene("ConfigurationScreen", ("e", "f", *"steps", "enter", "enter", *"700")),
    "models": Scene("ModelsScreen", ("i",)),
    "charts": Scene("ChartsScreen", ("r", "enter", "c", "b", "b", "left", "left")),
    "processes": Scene("ProcessesScreen", ("M",), machine=PROCESSES),
    "bench-add": Scene("BenchScreen", ("d", "a", "m"), unclear_columns),
    "inspector": Scene("InspectorScreen", ("d", "enter"), same_text=False),
    "inspector-report": Scene("InspectorScreen", ("d", "enter", "v"), same_text=False),
    "runs": Scene("RunsScreen", ("r",)),
    "runs-empty": Scene("RunsScreen", ("r",), no_runs),
    "runs-filter": Scene("RunsScreen", ("r", "f", *"qlora")),
    "compared": Scene("TextScreen", ("r", "space", "space", "C")),
    "ladder": Scene("LadderScreen", ("l",)),
    "ladder-live": Scene("LadderScreen", ("l",), live_ladder),
    "ladder-empty": Scene("LadderScreen", ("l",), no_runs),
    "export": Scene("ExportScreen", ("r", "x")),
    "rating": Scene("RatingScreen", ("l", "R")),
    "try": Scene("TryScreen", ("l", "t", "escape", "j")),
}


def front_region(app: Workbench) -> Region:
    """The part of the screen that has the focus: of a dialog its box."""
    parts = app.screen.walk_children(Widget) if isinstance(app.screen, ModalScreen) else [app.screen]
    return Region.from_union([part.region for part in parts if part.region])


WAITS = ("starting …", "loading", "preparing", "counting", "answering", "its turn")
"""What a screen says while another process or a thread has not answered."""


def has_answers(app: Workbench) -> bool:
    """Whether the bench has the answers of other processes and a sample of the machine."""
    data, pane = app.bench.query_one(DataList), app.bench.selection_pane
    return app.bench.machine.sample is not None and pane.budget is not None and len(data.previews) == len(data.sets)


async def settle(pilot: Pilot[str], app: Workbench, expected: str | None = None, quiet: float = 0.0) -> list[Strip]:
    """Wait until the screen shows the expected text, or without one until it is complete and no longer changes."""
    now = time.monotonic()
    deadline, answer_deadline, before, tick = now + SECONDS, now + ANSWER_SECONDS, "", TICK
    while True:
        await pilot.pause(tick)
        if expected is None and not has_answers(app) and time.monotonic() < answer_deadline:
            tick, deadline = MAX_TICK, time.monotonic() + SECONDS
            continue
        lines = drawn(app)
        text = text_of(lines)
        is_complete = text == before and not any(word in text for word in WAITS)
        is_settled = is_complete if expected is None else text == expected
        if is_settled or time.monotonic() > deadline:
            return lines
        before, tick = text, min(2 * tick, MAX_TICK)
        if expected is None:
            await app.workers.wait_for_complete()
            await asyncio.sleep(quiet)


def text_of(lines: Sequence[Strip]) -> str:
    return "".join(f"{line.text.rstrip()}\n" for line in lines)


def stored(name: str) -> str | None:
    """The stored text; None where it is written again."""
    return None if "UPDATE_SNAPSHOTS" in os.environ else (SNAPSHOTS / f"{name}.txt").read_text()


async def play(scene: Scene, name: str, app: Workbench, start: tuple[int, int]) -> None:
    """Press the keys, then look at the screen in the sizes of each mode.

    The first size is the one in which the screen was opened: it must look the same when the terminal has it again.
    """
    async with app.run_test(size=start) as pilot:
        await settle(pilot, app)
        for key in scene.keys:
            await pilot.press(key)
            await settle(pilot, app)
        assert type(app.screen).__name__ == scene.screen
        texts = {(width, height): stored(f"{name}-{width}x{height}") for width, height in scene.sizes}
        texts[start] = text_of(await settle(pilot, app, texts[start], QUIET_SECONDS))
        for mode in MODES:
            app.no_color, app.theme = mode == PLAIN, THEMES[0] if mode == PLAIN else mode
            await pilot.pause()
            if isinstance(app.screen, CommandPalette):  # it cannot be open while the theme changes: Textual skips it
                app.stylesheet.update(app.screen)
            for size in texts if mode == MODES[0] or PICTURES else dict.fromkeys((start, max(texts))):
                await pilot.resize_terminal(*size)
                same_text = scene.same_text or mode != PLAIN
                lines = await settle(pilot, app, texts[size] if same_text else None, QUIET_SECONDS)
                label = f"{name}-{size[0]}x{size[1]}"
                draw_picture(app, f"{label}-{mode.rpartition('-')[2]}")
                if texts[size] is None:
                    texts[size] = text_of(lines)
                assert text_of(lines) == texts[size] or not same_text, f"{label} in {mode}"
                check_colors(lines, front_region(app), mode)
                if mode == PLAIN and isinstance(app.focused, Input):
                    assert any(segment.style and segment.style.reverse for line in lines for segment in line), label
    if "UPDATE_SNAPSHOTS" in os.environ:
        for (width, height), text in texts.items():
            (SNAPSHOTS / f"{name}-{width}x{height}.txt").write_text(text or "")


def check_colors(lines: Sequence[Strip], front: Region, mode: str) -> None:
    """No colors without color; else a background, and a contrast that lets every word be read.

    Of a dialog only its box: the screen behind it is dimmed.
    """
    segments = [segment for line in lines[front.y : front.bottom] for segment in line.crop(front.x, front.right)]
    styles = {segment.style for segment in segments if segment.style}
    if mode == PLAIN:
        assert all(color is None or color.is_default for style in styles for color in (style.color, style.bgcolor))
        return
    assert any(style.bgcolor for style in styles)
    faint = {style for style in styles if is_faint(style)}
    assert not [segment.text for segment in segments if segment.style in faint and re.search(r"\w", segment.text)], mode


def is_faint(style: Style) -> bool:
    """Whether a text in this style is hard to read."""
    if style.color is None or style.bgcolor is None:
        return False
    front, back = (Color(*color.get_truecolor()) for color in (style.color, style.bgcolor))
    return contrast(front, back) < MIN_CONTRAST


PICTURES = os.environ.get("PICTURES", "")
"""Folder for a picture of every screen in every size; '' for none."""


def draw_picture(app: Workbench, name: str) -> None:
    """Write the screen as SVG into the folder of pictures."""
    if PICTURES:
        Path(PICTURES, f"{name}.svg").write_text(app.export_screenshot(), "utf-8")


@pytest.mark.parametrize("name", SCENES)
def test_snapshots_and_colors(name: str, desk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = SCENES[name]
    stand_in(tmp_path, monkeypatch)
    monkeypatch.setattr(MachineSampler, "sample", lambda self, request: sampled(scene.machine))
    monkeypatch.setattr(MemoryPane, "feed", scene.history)
    held = scene.prepare(desk)
    start = scene.sizes[zlib.crc32(name.encode()) % len(scene.sizes)]  # a new scene changes no other one
    asyncio.run(play(scene, name, Workbench(desk / "runs", Settings(theme=THEMES[0])), start))
    if held is not None:
        os.close(held)


def test_every_screen_has_a_scene_and_every_snapshot_belongs_to_one() -> None:
    for module in pkgutil.iter_modules(tui.screens.__path__, "tui.screens."):
        importlib.import_module(module.name)
    screens = {kind.__name__ for kind in (*subclasses(BaseScreen), *subclasses(Dialog)) if not kind.__subclasses__()}
    assert {name for name in screens if name.endswith("Screen")} <= {scene.screen for scene in SCENES.values()}
    names = {f"{name}-{width}x{height}" for name, scene in SCENES.items() for width, height in scene.sizes}
    assert {file.stem for file in SNAPSHOTS.iterdir()} == names
