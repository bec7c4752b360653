"""`ftbench clean temporary` finds and removes files of killed processes; those of running ones are kept."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest
from command import ftbench
from made_ladder import made_ladder
from typer.testing import CliRunner

from engine.config import preset_library
from engine.config.files import SCRATCH_NAME, SCRATCH_PREFIX, TEMPORARY_NAMES, temporary_folder
from engine.runs import cleaning
from engine.runs.cleaning import IN_USE, RECENT, RUNNING, StoredItem
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli.main import app

LONG_AGO = 2 * cleaning.RECENT_SECONDS
TEMPORARY = (
    ".model.tmp/model.safetensors",
    "checkpoints/.writing-4/optimizer.pt",
    "exports/.gguf.ftbench.tmp/model.gguf",
    ".result.json.tmp",
)
"""What a killed worker or export leaves in a run."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def system_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder has files of other processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def put(path: Path, age: float = LONG_AGO) -> Path:
    """Create a file of this age, including its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345678")
    for changed in (path, path.parent):
        os.utime(changed, (time.time() - age, time.time() - age))
    return path


def made_run(runs: Path, age: float = LONG_AGO) -> RunDir:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    for name in TEMPORARY:
        put(run.path / name, age)
    return run


def temporary_of(run: RunDir) -> list[Path]:
    return [*(run.path / Path(name).parent for name in TEMPORARY[:3]), run.path / TEMPORARY[3]]


@pytest.fixture
def left(runs: Path, system_folder: Path) -> list[Path]:
    """One path of each kind that killed processes leave."""
    run = made_run(runs)
    made_ladder(runs)
    ladder = next(LadderDir.iterate(runs))
    probe = made_run(ladder.probes)
    cache, state = Path(platformdirs.user_cache_dir("ftbench")), Path(platformdirs.user_state_dir("ftbench"))
    return [
        *temporary_of(run),
        *temporary_of(probe),
        put(ladder.path / ".report.html.tmp"),
        put(preset_library.user_folder() / ".mine.toml.999.tmp"),
        put(state / ".theme.tmp"),
        put(cache / ".glances.json.tmp"),
        put(system_folder / f"{SCRATCH_PREFIX}pull-a1_c2e3g" / "x.whl").parent,
        put(cache / "prepared" / ".tmp-0123" / "input_ids.bin").parent,
        put(runs / "20260101-120001-demo-lora-lora-0a0b" / "end.json").parent,  # `folder.make` was killed
        put(runs / "20260101-120002-demo-ladder-0a0b" / ".ladder.toml.01ab23cd.tmp").parent,
        put(state / ".future.json.tmp", age=-LONG_AGO),  # written while the clock was wrong
    ]


def listed(runs: Path) -> dict[Path, StoredItem]:
    return {item.path: item for item in cleaning.list_temporary_items(runs)}


def test_everything_is_found_once_and_nothing_else(runs: Path, left: list[Path]) -> None:
    items = list(cleaning.list_temporary_items(runs))
    assert sorted(item.path for item in items) == sorted(left)
    assert all(item.kind == "temporary" and not item.keep and item.bytes > 0 for item in items)
    assert [item for item in cleaning.list_stored_items(runs) if item.kind == "temporary"] == items


def test_files_of_the_user_are_not_temporary(system_folder: Path, runs: Path) -> None:
    for name in ("ftbench-tickets", "ftbench-0", "ftbench-support-20261128", "ftbench-tmp-notes.txt", SCRATCH_PREFIX):
        put(system_folder / name / "model.safetensors")
    put(system_folder / f"{SCRATCH_PREFIX}a1b2c3d4")  # a file: `temporary_folder` makes folders only
    for name in (".thesis.tmp", ".tmp-photos/a.jpg", ".writing-notes/b.txt", ".20260101-notes.tmp", "notes/end.json"):
        put(runs / name)
    put(runs / "20260101-120000-demo-lora-0a0b" / "notes.txt")
    put(runs / "20260101-120001-demo-lora-0a0b")  # a file: `folder.make` makes folders only
    (runs / "empty").mkdir()
    (runs / "20260101-120002-demo-lora-0a0b").symlink_to(runs / "empty")
    assert listed(runs) == {}


def test_every_temporary_name_in_the_sources_is_known() -> None:
    """A file that `ftbench clean temporary` does not recognize stays forever after a kill."""
    names = []
    for path in Path("engine").rglob("*.py"):
        text = path.read_text("utf-8")
        names += re.findall(r'with_name\(f?"(\.[^"]*)"', text) + re.findall(r'temporary_folder\(f?"([^"]*)"', text)
    assert len(names) >= 6
    for name in names:
        made = re.sub(r"\{SCRATCH_PREFIX\}", SCRATCH_PREFIX, name)
        suffix = "" if made.endswith(".tmp") else "abc.tmp"  # as `temporary_folder` adds
        assert SCRATCH_NAME.fullmatch(f"{made}a1b2c3d4") or any(
            Path(made + suffix).match(pattern) for pattern in TEMPORARY_NAMES
        ), name


def test_doctor_names_the_command_that_removes_them(
    runs: Path, left: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tui.extensions.doctor.command._engine", lambda: ([], []))  # it imports the libraries
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code in (0, 1), shown.output
    (check,) = (check for check in json.loads(shown.output) if check["subject"] == "temporary files")
    assert check["state"] == "note" and "`ftbench clean temporary`" in check["text"]
    assert all(path.exists() for path in left)

    others = {path for path in runs.rglob("*") if not any(temporary in (path, *path.parents) for temporary in left)}
    done = ftbench("clean", "temporary", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert sorted(item["path"] for item in json.loads(done.stdout)["removed"]) == sorted(map(str, left))
    assert [path for path in left if path.exists()] == []
    assert set(runs.rglob("*")) == others
    again = json.loads(ftbench("clean", "temporary", "--yes", "--json").stdout)
    assert (again["removed"], again["kept"]) == ([], [])


@pytest.fixture
def live(runs: Path) -> Iterator[dict[Path, str]]:
    """The same files of running processes, and why each is kept."""
    run = made_run(runs)
    made_ladder(runs)
    probe = made_run(next(LadderDir.iterate(runs)).probes)  # whose ladder's process was killed
    held = [locks.acquire(folder.lock_file, str(os.getpid())) for folder in (run, probe)]
    young = put(Path(platformdirs.user_state_dir("ftbench")) / ".recent.json.tmp", age=1.0)
    started = put(runs / "20260101-120000-demo-lora-0a0b" / ".run.toml.01ab23cd.tmp", age=1.0).parent
    with temporary_folder(SCRATCH_PREFIX) as scratch:
        os.utime(scratch, (time.time() - LONG_AGO, time.time() - LONG_AGO))
        yield dict.fromkeys([*temporary_of(run), *temporary_of(probe)], RUNNING) | {
            young: RECENT,
            started: RECENT,
            scratch: IN_USE,
        }
    for descriptor in held:
        assert descriptor is not None
        os.close(descriptor)


def test_files_of_a_running_process_are_kept(runs: Path, live: dict[Path, str]) -> None:
    items = listed(runs)
    assert {path: item.keep for path, item in items.items()} == live
    owner = next(item.owner for item in items.values() if item.owner is not None)
    for named in ([], ["--run", owner.name]):
        done = ftbench("clean", "temporary", *named, "--yes", "--json")
        assert done.returncode == 0 and json.loads(done.stdout)["removed"] == []
    assert all(path.exists() for path in live)


def test_a_process_started_after_the_search_keeps_its_files(runs: Path, left: list[Path]) -> None:
    items = listed(runs)
    held = []
    for item in items.values():
        if item.owner is None:
            os.utime(item.path)
        elif not item.owner.is_active():
            held.append(locks.acquire(item.owner.lock_file, str(os.getpid())))
    try:
        assert [item for item in items.values() if cleaning.remove(item)] == []
        assert all(path.exists() for path in left)
    finally:
        for descriptor in held:
            if descriptor is not None:
                os.close(descriptor)


def test_a_link_is_removed_and_its_target_stays(runs: Path, tmp_path: Path) -> None:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    precious = put(tmp_path / "precious" / "file").parent
    (run.path / ".model.tmp").symlink_to(precious)
    os.utime(run.path / ".model.tmp", (time.time() - LONG_AGO,) * 2, follow_symlinks=False)
    (run.path / "checkpoints").symlink_to(tmp_path / "precious")
    put(precious / ".writing-1" / "x")
    ((path, item),) = listed(runs).items()
    assert path == run.path / ".model.tmp" and cleaning.remove(item)
    assert not path.is_symlink() and (precious / "file").exists() and (precious / ".writing-1" / "x").exists()


def test_what_cannot_be_removed_is_reported_and_the_rest_is_removed(
    runs: Path, left: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    delete = cleaning.remove_tree

    def refuse(path: Path) -> None:
        if path == left[0]:
            raise PermissionError(13, "Permission denied", str(path))
        delete(path)

    monkeypatch.setattr(cleaning, "remove_tree", refuse)
    done = CliRunner().invoke(app, ["clean", "temporary", "--yes", "--json"])
    (kept,) = json.loads(done.output)["kept"]
    assert (done.exit_code, kept["path"], kept["keep"]) == (1, str(left[0]), "Permission denied")
    assert [path for path in left if path.exists()] == [left[0]]


def test_the_folder_of_a_killed_process_is_found(runs: Path) -> None:
    """It is kept while the process runs, however long the folder does not change."""
    code = f"""
import os, time
from engine.config.files import SCRATCH_PREFIX, temporary_folder
with temporary_folder(SCRATCH_PREFIX) as folder:
    os.utime(folder, (time.time() - {LONG_AGO}, time.time() - {LONG_AGO}))
    print(folder, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        assert listed(runs)[folder].keep == IN_USE
        process.kill()
        process.wait()
        assert cleaning.remove(listed(runs)[folder]) and not folder.exists()
