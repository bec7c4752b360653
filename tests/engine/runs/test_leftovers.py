"""Leftovers of killed processes are found and removed; files of running ones are not touched."""

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
from engine.runs.queue import locks
from engine.runs.run import exports, run_dir
from engine.runs.run.run_dir import RunDir
from tui.cli.main import app

LONG_AGO = 3600.0
TEMPORARY = (
    ".model.tmp/model.safetensors",
    "checkpoints/.writing-4/optimizer.pt",
    "exports/.gguf.tmp/model.gguf",
    ".result.json.tmp",
)
"""What a killed worker or export leaves in a run."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    return tmp_path / "runs"


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder has leftovers of other processes."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    return folder


def put(path: Path, age: float = LONG_AGO) -> Path:
    """Create a file of this age, including its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"12345678")
    for one in (path, path.parent):
        os.utime(one, (time.time() - age, time.time() - age))
    return path


def made_run(runs: Path) -> RunDir:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    run.events_file.write_text('{"type":"phase","name":"training","v":1,"seq":1,"t":1.0}\n')
    for name in TEMPORARY:
        put(run.path / name)
    return run


def dead(words: str, lock: Path) -> Path:
    """The lock file of a killed process."""
    lock.parent.mkdir(exist_ok=True)
    held = locks.acquire(lock, words)
    assert held is not None
    os.close(held)
    return lock


@pytest.fixture
def left(runs: Path, own_temporary_folder: Path) -> list[Path]:
    """One leftover of each kind, of killed processes."""
    run = made_run(runs)
    made_ladder(runs)
    ladder = next(path.parent for path in runs.glob("*/ladder.toml"))
    half_made = put(runs / "20260101-120000-demo-lora-0a0b" / ".run.toml.tmp").parent
    cache, state = Path(platformdirs.user_cache_dir("ftbench")), Path(platformdirs.user_state_dir("ftbench"))
    lock = locks.device_lock("7")
    return [
        dead(f"999 {run.path}", lock),
        dead(f"999 {run.path}", lock.with_suffix(".queue") / "0001-999"),
        dead("", lock.with_name(lock.name.replace("7.lock", "0123456789abcdef.mutex"))),
        *(run.path / Path(name).parent for name in TEMPORARY[:3]),
        run.path / TEMPORARY[3],
        put(ladder / ".report.html.tmp"),
        half_made,
        put(preset_library.user_folder() / ".mine.toml.999.tmp"),
        put(state / ".theme.tmp"),
        put(cache / ".glances.json.tmp"),
        put(own_temporary_folder / f"{SCRATCH_PREFIX}pull-a1_c2e3g" / "x.whl").parent,
        put(cache / "prepared" / ".tmp-0123" / "input_ids.bin").parent,
        put(runs / ".20260101-120000-demo-lora-0a0b.tmp" / "adapter.bin").parent,
    ]


def test_all_leftovers_are_found_and_nothing_else(runs: Path, left: list[Path]) -> None:
    found = cleaning.find_leftovers(runs)
    assert sorted(one.path for one in found) == sorted(left)
    assert all(one.why and one.kind for one in found)
    assert sum(one.bytes for one in found if "model.safetensors" in str(list(one.path.glob("*")))) == 8


def test_files_of_the_user_in_the_temporary_folder_are_not_leftovers(own_temporary_folder: Path, runs: Path) -> None:
    for name in ("ftbench-tickets", "ftbench-0", "ftbench-support-20261128", "ftbench-tmp-notes.txt", SCRATCH_PREFIX):
        put(own_temporary_folder / name / "model.safetensors")
    put(own_temporary_folder / f"{SCRATCH_PREFIX}a1b2c3d4")  # a file: `temporary_folder` makes folders only
    assert cleaning.find_leftovers(runs) == []


def test_hidden_files_of_the_user_next_to_runs_are_not_leftovers(runs: Path) -> None:
    for name in (".thesis.tmp", ".tmp-photos/a.jpg", ".writing-notes/b.txt", ".20260101-notes.tmp"):
        put(runs / name)
    dead(f"999 {runs / 'deleted-run'}", locks.device_lock("cpu"))
    dead(f"999 {runs / 'deleted-run' / 'try'}", locks.device_lock("5"))
    assert cleaning.find_leftovers(runs) == []


def test_every_temporary_name_in_the_sources_is_known() -> None:
    """A file that `doctor --repair` does not recognize stays forever after a kill."""
    found = []
    for path in Path("engine").rglob("*.py"):
        text = path.read_text("utf-8")
        found += re.findall(r'with_name\(f?"(\.[^"]*)"', text) + re.findall(r'temporary_folder\(f?"([^"]*)"', text)
    assert len(found) >= 6
    for name in found:
        made = re.sub(r"\{SCRATCH_PREFIX\}", SCRATCH_PREFIX, name)
        suffix = "" if made.endswith(".tmp") else "abc.tmp"  # as `temporary_folder` adds
        assert SCRATCH_NAME.fullmatch(f"{made}a1b2c3d4") or any(
            Path(made + suffix).match(one) for one in TEMPORARY_NAMES
        ), name


def test_doctor_lists_leftovers_and_repair_removes_them(runs: Path, left: list[Path]) -> None:
    others = {path for path in runs.rglob("*") if not any(one in (path, *path.parents) for one in left)}
    repaired = ftbench("doctor", "--repair")
    assert repaired.returncode == 0, repaired.stderr
    assert all(sum(str(path) in line for line in repaired.stdout.splitlines()) >= 1 for path in left)
    assert [path for path in left if path.exists()] == []
    assert set(runs.rglob("*")) == others
    again = ftbench("doctor", "--repair", "--json")
    assert (again.returncode, json.loads(again.stdout)) == (0, [])


def test_doctor_alone_removes_nothing(runs: Path, left: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tui.cli.doctor._engine", lambda: ([], []))  # it imports the libraries
    shown = CliRunner().invoke(app, ["doctor", "--json"])
    assert shown.exit_code in (0, 1), shown.output
    found = [check["text"] for check in json.loads(shown.output) if check["subject"] == "leftover"]
    assert all(any(str(path) in text for text in found) for path in left)
    assert all(path.exists() for path in left)


@pytest.fixture
def live(runs: Path, own_temporary_folder: Path) -> Iterator[tuple[list[Path], list[int]]]:
    """The same files of running processes."""
    run = made_run(runs)
    held = [locks.acquire(run.lock_file, str(os.getpid()))]
    lock = locks.device_lock("3")
    ticket = lock.with_suffix(".queue") / f"0001-{os.getpid()}"
    ticket.parent.mkdir()
    held += [locks.acquire(lock, f"{os.getpid()} {run.path}"), locks.acquire(ticket, f"{os.getpid()} {run.path}")]
    cache = Path(platformdirs.user_cache_dir("ftbench"))
    (cache / "models").mkdir(parents=True)
    opened = put(cache / "models" / ".tmp-def" / "model.safetensors")
    held.append(os.open(opened, os.O_RDONLY))
    young = put(Path(platformdirs.user_state_dir("ftbench")) / ".recent.json.tmp", age=1.0)
    with temporary_folder(SCRATCH_PREFIX) as pull, locks.exclusive(runs):
        os.utime(pull, (time.time() - LONG_AGO, time.time() - LONG_AGO))
        mutex = next(locks.lock_folder().glob("*.mutex"))
        paths = [*(run.path / name for name in TEMPORARY), lock, ticket, opened, young, pull, mutex]
        descriptors = [descriptor for descriptor in held if descriptor is not None]
        assert len(descriptors) == 4
        yield paths, descriptors
        for descriptor in descriptors:
            os.close(descriptor)


def test_files_of_a_running_process_are_not_touched(runs: Path, live: tuple[list[Path], list[int]]) -> None:
    paths, _ = live
    assert cleaning.find_leftovers(runs) == []
    repaired = ftbench("doctor", "--repair")
    assert repaired.returncode == 0 and "nothing to repair" in repaired.stdout
    assert all(path.exists() for path in paths)


def test_a_process_started_after_the_search_keeps_its_files(runs: Path, left: list[Path]) -> None:
    found = cleaning.find_leftovers(runs)
    held = []
    for one in found:
        if one.kind in ("lock", "ticket"):
            held.append(locks.acquire(one.path, f"{os.getpid()} x"))
        elif one.owner is not None and not one.owner.is_active():
            held.append(locks.acquire(one.owner.lock_file, str(os.getpid())))
        elif one.owner is None:
            os.utime(one.path)
    try:
        assert [one for one in found if cleaning.remove_leftover(one)] == []
        assert all(path.exists() for path in left)
    finally:
        for descriptor in held:
            if descriptor is not None:
                os.close(descriptor)


def test_the_lock_of_a_finished_run_is_not_a_leftover(runs: Path) -> None:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    result.status = "finished"
    run_dir.write_result(run, result)
    dead(f"999 {run.path}", locks.device_lock("cpu"))
    dead("999", run.lock_file)
    assert cleaning.find_leftovers(runs) == []


def test_a_link_is_removed_and_its_target_stays(runs: Path, tmp_path: Path) -> None:
    run = run_dir.create(runs, "demo-lora", preset_library.resolve_preset("demo-lora", None, {}))
    precious = put(tmp_path / "precious" / "file").parent
    (run.path / ".model.tmp").symlink_to(precious)
    (run.path / "checkpoints").symlink_to(tmp_path / "precious")
    put(precious / ".writing-1" / "x")
    (found,) = cleaning.find_leftovers(runs)
    assert found.path == run.path / ".model.tmp" and cleaning.remove_leftover(found)
    assert not found.path.is_symlink() and (precious / "file").exists() and (precious / ".writing-1" / "x").exists()


def test_what_cannot_be_removed_is_reported_and_the_rest_is_removed(
    runs: Path, left: list[Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tui.cli import doctor

    delete = cleaning.remove_tree

    def refuse(path: Path) -> None:
        if path.name == ".model.tmp":
            raise PermissionError(13, "Permission denied", str(path))
        delete(path)

    monkeypatch.setattr(cleaning, "remove_tree", refuse)
    assert doctor.remove_leftovers(runs, json=True) == 1
    said = json.loads(capsys.readouterr().out)
    assert {one["state"] for one in said} == {"removed", "failed"}
    (failed,) = (one for one in said if one["state"] == "failed")
    assert failed["path"].endswith(".model.tmp") and "Permission denied" in failed["error"]
    assert [path for path in left if path.exists()] == [Path(failed["path"])]


def test_the_folder_of_a_killed_process_is_found(tmp_path: Path, runs: Path) -> None:
    """It is not found while the process runs, however long the folder does not change."""
    code = f"""
import os, time
from engine.config.files import SCRATCH_PREFIX, TEMPORARY_NAMES, temporary_folder
with temporary_folder(SCRATCH_PREFIX) as folder:
    os.utime(folder, (time.time() - {LONG_AGO}, time.time() - {LONG_AGO}))
    print(folder, flush=True)
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        folder = Path(process.stdout.readline().strip())
        assert cleaning.find_leftovers(runs) == []
        process.kill()
        process.wait()
        assert [one.path for one in cleaning.find_leftovers(runs)] == [folder]


@pytest.fixture
def killed_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The temporary folder of an export with `--out` whose process was killed."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    code = (
        "import os, sys; from pathlib import Path; from engine.runs.run.exports import recorded_temporary_folder\n"
        "with recorded_temporary_folder(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'model.safetensors').write_text('x'); print(folder, flush=True); os.kill(os.getpid(), 9)"
    )
    (tmp_path / "elsewhere").mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "elsewhere" / "mails")], capture_output=True)
    folder = Path(done.stdout.decode().strip())
    assert done.returncode == -9 and folder.is_dir() and folder.parent == tmp_path / "elsewhere"
    return folder


def test_doctor_finds_what_a_killed_export_left_in_another_folder(runs: Path, killed_export: Path) -> None:
    for path in (killed_export / "model.safetensors", killed_export):
        os.utime(path, (time.time() - LONG_AGO,) * 2)
    (found,) = [one for one in cleaning.find_leftovers(runs) if one.path == killed_export]
    assert cleaning.remove_leftover(found) and not killed_export.exists()


def test_a_later_export_of_another_run_removes_it(runs: Path, killed_export: Path, tmp_path: Path) -> None:
    with exports.recorded_temporary_folder(tmp_path / "elsewhere" / "other") as used:
        exports.remove_unfinished(made_run(runs))
        assert used.is_dir() and not killed_export.exists()


def test_a_record_cannot_make_an_export_remove_another_folder(runs: Path, killed_export: Path, tmp_path: Path) -> None:
    (record,) = (tmp_path / "state" / "ftbench" / "exports").iterdir()
    precious = tmp_path / "precious"
    precious.mkdir()
    (tmp_path / ".link.1.tmp").symlink_to(precious)
    for path in (precious, tmp_path / ".link.1.tmp"):
        record.write_bytes(os.fsencode(path))
        exports.remove_unfinished(made_run(runs))
        assert precious.is_dir() and (tmp_path / ".link.1.tmp").is_symlink()
