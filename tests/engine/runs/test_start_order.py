"""`last` and lists of runs, ladders and sweeps are in the order of starting, also if clocks or time zones changed."""

from __future__ import annotations

import ast
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import ftbench
from listed_runs import made
from made_sweep import made_sweep
from places import ROOT
from typer.main import get_command

from engine.config import preset_library
from engine.config.preset import EffectiveConfig
from engine.config.settings import flatten
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir, comparison_kinds, iterate_all
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.origin import LADDER_ORIGIN
from engine.runs.run import run_dir
from engine.runs.run.folder import Folder, sort_by_start
from engine.runs.run.run_dir import RunDir
from tui.cli.completion import runs_and_ladders
from tui.cli.lookup import RUN_OR_LADDER, find_named, kinds_of_folders
from tui.cli.main import app
from tui.history.run_list import MAX_RESUMABLE, resumable

ZONES = ("UTC", "Asia/Tokyo", "America/Los_Angeles", "Europe/Berlin")
SUMMER_TIME_ENDS = 1_792_890_000.0
"""In Berlin, where it is 02:00 again, not 03:00."""

ANY = kinds_of_folders()
LADDER_OR_SWEEP = comparison_kinds()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the clock of this machine says."""
    now = [SUMMER_TIME_ENDS - 600.0]
    monkeypatch.setattr(time, "time", lambda: now[0])
    local, zone = time.localtime, os.environ.get("TZ")
    strftime = time.strftime
    monkeypatch.setattr(time, "strftime", lambda form: strftime(form, local(now[0])))
    yield now
    monkeypatch.undo()
    os.environ.pop("TZ", None)
    os.environ.update({"TZ": zone} if zone else {})
    time.tzset()


def create(runs: Path, ladder: str = "") -> RunDir:
    effective = preset_library.resolve_preset("demo-lora", None, {})
    if ladder:
        origins = dict.fromkeys(flatten(effective.config), f"{LADDER_ORIGIN}{ladder}, automatic: accuracy")
        effective = EffectiveConfig(effective.config, origins)
    return run_dir.create(runs, "demo-lora", effective)


def uncounted(folder: Folder) -> Folder:
    """As a version that did not count directories wrote it."""
    file = folder.path / f"{folder.KIND}.toml"
    file.write_text(re.sub(r"^number = .*\n", "", file.read_text(), flags=re.MULTILINE))
    return folder


def test_the_order_is_that_of_the_starts_in_any_zone_and_by_any_clock(tmp_path: Path, clock: list[float]) -> None:
    chance, started = random.Random(0), list[Folder]()
    for _ in range(40):
        clock[0] += chance.choice((0.0, 1.0, 1800.0, -3600.0, -86400.0 * 365, 86400.0 * 365))
        os.environ["TZ"] = chance.choice(ZONES)
        time.tzset()
        if chance.random() < 0.7:
            started.append(create(tmp_path))
        else:
            started.append(ladder_dir.create(tmp_path, make_plan("demo", ["lora"], {})))
        assert find_named(tmp_path, "last", ANY) == started[-1]
    assert sort_by_start(iterate_all(tmp_path)) == started
    runs = [folder for folder in started if isinstance(folder, RunDir)]
    assert [line.run for line in resumable(tmp_path)] == runs[: -MAX_RESUMABLE - 1 : -1]
    context = get_command(app).make_context("ftbench", ["--runs", str(tmp_path)], resilient_parsing=True)
    assert runs_and_ladders(context, "") == ["last", *(folder.name for folder in started[::-1])]


def test_what_was_not_counted_comes_before_by_the_clock_that_was_recorded(tmp_path: Path, clock: list[float]) -> None:
    """Within the hour that Berlin repeats, the later start has the lower name."""
    os.environ["TZ"] = "Europe/Berlin"
    time.tzset()
    first = uncounted(create(tmp_path))
    clock[0] += 1200.0
    later = uncounted(create(tmp_path))
    assert later.name < first.name and sort_by_start(RunDir.iterate(tmp_path)) == [first, later]
    clock[0] = 0.0
    new = create(tmp_path)
    assert find_named(tmp_path, "last", ANY) == new


def test_every_command_takes_what_was_started_last(tmp_path: Path, clock: list[float]) -> None:
    runs = tmp_path / "runs"
    made(runs, 1), made_sweep(runs)
    clock[0] -= 1e6
    finished = made(runs, 2)
    for command, *words in (
        *zip(("attach", "stop", "resume", "export", "gate", "track")),
        ("try", "--prompt", "hello"),
    ):
        done = ftbench(command, "last", *words, "--json")
        assert finished.name in done.stdout + done.stderr, (command, done)
    ladder = ladder_dir.create(runs, make_plan("demo", ["lora"], {}))
    for command in ("report", "stop", "gate"):
        assert ladder.name in ftbench(command, "last").stderr, command


def test_a_run_that_a_ladder_started_is_part_of_the_ladder(tmp_path: Path) -> None:
    alone, sweep = create(tmp_path), made_sweep(tmp_path)
    ladder = sweep.ladders()[-1]
    parts = [create(tmp_path, ladder.name) for _ in range(2)]
    assert find_named(tmp_path, "last", ANY) == find_named(tmp_path, "last", LADDER_OR_SWEEP) == sweep
    assert find_named(tmp_path, "last", RUN_OR_LADDER) == ladder
    assert RunDir.find(tmp_path, "last") == parts[-1]  # where no ladder is looked for
    own = create(tmp_path)
    create(tmp_path, ladder.name)
    assert find_named(tmp_path, "last", ANY) == find_named(tmp_path, "last", RUN_OR_LADDER) == own
    for path in (own.path, ladder.path, sweep.path):
        shutil.rmtree(path)
    assert find_named(tmp_path, "last", ANY) not in (
        alone,
        *parts,
    )  # the last run of the ladder that is gone


PROGRAM = """
import sys, time
from pathlib import Path
from engine.config import preset_library
from engine.runs.run import run_dir
effective = preset_library.resolve_preset("demo-lora", None, {})
print("ready", flush=True)
sys.stdin.readline()
for _ in range(6):
    before = time.monotonic()
    run = run_dir.create(Path(sys.argv[1]), "demo-lora", effective)
    print(run.origin.number, before, time.monotonic(), flush=True)
"""


def test_processes_that_start_at_once_count_one_after_the_other(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, cwd=ROOT) for _ in range(4)]
    assert all(process.stdout and process.stdout.readline() == "ready\n" for process in processes)
    for process in processes:
        assert process.stdin
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [line.split() for process in processes for line in process.communicate()[0].splitlines()]
    starts = sorted((int(number), float(before), float(after)) for number, before, after in lines)
    assert [number for number, _, _ in starts] == list(range(1, 25))
    for number, before, _ in starts:
        assert all(earlier < number for earlier, _, after in starts if after < before)


def test_copies_keep_their_number_and_new_ones_count_on(tmp_path: Path, clock: list[float]) -> None:
    elsewhere = [create(tmp_path / "elsewhere") for _ in range(9)]
    create(tmp_path / "home")
    shutil.copytree(elsewhere[-1].path, tmp_path / "home" / elsewhere[-1].name)
    clock[0] -= 1e6
    new = create(tmp_path / "home")
    assert new.origin.number == 10 and find_named(tmp_path / "home", "last", ANY) == new
    copy = tmp_path / "home" / "a-copy"
    shutil.copytree(new.path, copy)
    assert sort_by_start(RunDir.iterate(tmp_path / "home"))[-2:] == [new, RunDir(copy)]  # equal in all but the name
    assert create(tmp_path / "home").origin.number == 11


@pytest.mark.parametrize(
    "damage", ["", "number = nan", 'number = "9"', "number = -1", f"number = {'9' * 400}", "\0\xff"]
)
def test_a_number_that_is_damaged_counts_as_none(damage: str, tmp_path: Path) -> None:
    damaged, intact = create(tmp_path), create(tmp_path)
    damaged.config_file.write_bytes(damage.encode("latin-1"))
    assert sort_by_start(RunDir.iterate(tmp_path)) == [damaged, intact] and damaged.origin.number == 0
    shutil.rmtree(intact.path)
    assert find_named(tmp_path, "last", ANY) == damaged and create(tmp_path).origin.number == 1


def test_looking_writes_nothing_and_runs_of_others_are_left_out(tmp_path: Path) -> None:
    """A home on a read-only disk: `last` needs no counter that would be written."""
    run = create(tmp_path)
    (tmp_path / "link").symlink_to("/nowhere")
    (tmp_path / "20260101-000000-demo-lora-lora-0a0b").mkdir()
    before = sorted((path, path.lstat().st_mtime_ns) for path in (tmp_path, *tmp_path.rglob("*")))
    assert find_named(tmp_path, "last", ANY) == run and resumable(tmp_path) == []
    assert sorted((path, path.lstat().st_mtime_ns) for path in (tmp_path, *tmp_path.rglob("*"))) == before


def test_a_ladder_keeps_its_number_when_its_plan_is_written_again(tmp_path: Path) -> None:
    ladder = ladder_dir.create(tmp_path, make_plan("demo", ["lora"], {}))
    ladder.plan_file.write_text(ladder_dir.plan_text(ladder.plan()))
    assert LadderDir(ladder.path).origin.number == ladder.plan().number == 1


def test_nothing_sorts_or_picks_directories_by_another_order() -> None:
    """A call of `sorted`, `min` or `max` on what `iterate` returns."""
    wrong = []
    lists = re.compile(r"(sorted|min|max)\(.*(\b(RunDir|LadderDir|SweepDir|ladder_dir)\.(iterate|states)|iterate_all)")
    for path in (*(ROOT / "engine").rglob("*.py"), *(ROOT / "tui").rglob("*.py")):
        calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        wrong += [f"{path}:{call.lineno}" for call in calls if lists.match(ast.unparse(call))]
    assert wrong == []
