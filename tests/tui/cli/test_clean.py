"""`ftbench clean`: what takes disk space, what is removed, and what never is."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import platformdirs
from command import ftbench
from made_ladder import made_ladder
from made_sweep import made_sweep
from screen import Terminal

from engine.config.preset_library import resolve_preset
from engine.runs import cleaning
from engine.runs.queue import locks
from engine.runs.run import run_dir
from engine.runs.run.run_dir import RunDir, blank_result, read_frozen, write_result


def run_with(home: Path, status: str, name: str = "lora") -> RunDir:
    """A run with a checkpoint, an export and a model, whose worker ended as `status`."""
    run = run_dir.create(home, "demo-lora", resolve_preset("demo-lora", name, {}))
    for file in ("checkpoints/step-4/weights.bin", "exports/merged/model.bin", "model/adapter.bin"):
        (run.path / file).parent.mkdir(parents=True)
        (run.path / file).write_bytes(b"x" * 100_000)
    result = blank_result(run, read_frozen(run))
    result.status = status  # type: ignore[assignment]
    write_result(run, result)
    return run


def shown(home: Path, *arguments: str) -> Any:
    done = ftbench("clean", *arguments, "--runs", str(home), "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def kinds(items: list[dict[str, Any]], removable: bool = True) -> list[tuple[str, str]]:
    return [(item["kind"], item["name"]) for item in items if not item["keep"] or not removable]


def test_everything_is_listed_with_its_size_and_nothing_is_removed(tmp_path: Path) -> None:
    finished, stopped = run_with(tmp_path / "runs", "finished"), run_with(tmp_path / "runs", "stopped")
    entry = Path(platformdirs.user_cache_dir("ftbench")) / "prepared" / "0123abcd"
    entry.mkdir(parents=True)
    (entry / "ids.bin").write_bytes(b"y" * 50_000)
    told = shown(tmp_path / "runs")
    items = {(item["kind"], item["name"]): item for item in told["items"]}
    assert items["checkpoints", finished.name]["bytes"] >= 100_000
    assert not items["checkpoints", finished.name]["keep"]
    reason = items["checkpoints", stopped.name]["keep"]
    assert "stopped" in reason and "resumes" in reason
    assert items["exports", f"{finished.name}/merged"]["bytes"] >= 100_000
    assert items["runs", finished.name]["bytes"] > 300_000
    assert ("prepared", "0123abcd") in items and told["free"] > 0
    assert finished.checkpoints.exists() and stopped.checkpoints.exists()
    table = ftbench("clean", "--runs", str(tmp_path / "runs")).stdout
    assert "checkpoints" in table and "removable" in table and "training states" in table


def test_checkpoints_of_finished_runs_and_exports_are_removed_and_models_stay(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    finished, stopped = run_with(home, "finished"), run_with(home, "stopped")
    refused = ftbench("clean", "checkpoints", "--runs", str(home))
    assert refused.returncode == 2 and "--yes" in refused.stderr and finished.checkpoints.exists()
    told = shown(home, "checkpoints,exports", "--yes")
    assert not finished.checkpoints.exists() and finished.model.exists() and not list(finished.path.glob("exports/*"))
    assert stopped.checkpoints.exists() and [item["kind"] for item in told["kept"]] == ["checkpoints"]
    assert told["bytes"] >= 300_000
    named = shown(home, "checkpoints", "--run", stopped.name, "--yes")
    assert kinds(named["removed"]) == [("checkpoints", stopped.name)] or named["removed"][0]["name"] == stopped.name
    assert not stopped.checkpoints.exists()


def test_what_runs_is_never_removed(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    run = run_with(home, "finished")
    lock = locks.acquire(run.lock_file, str(os.getpid()))
    assert lock is not None
    try:
        told = shown(home, "checkpoints,exports,runs", "--run", run.name, "--yes")
        assert told["removed"] == [] and {item["keep"] for item in told["kept"]} == {cleaning.RUNNING}
        item = cleaning.StoredItem("checkpoints", run.name, run.checkpoints, 1, 0.0, "", run)
        assert not cleaning.remove(item)  # started after the list was made
    finally:
        os.close(lock)
    assert run.checkpoints.exists() and run.model.exists()


def test_runs_are_removed_only_if_named_or_old_and_not_from_ladders(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    run, other = run_with(home, "finished"), run_with(home, "finished", "full")
    made, _ = made_ladder(home, seeds=[0])
    refused = ftbench("clean", "runs", "--yes", "--runs", str(home))
    assert refused.returncode == 2 and "--older-than" in refused.stderr
    assert shown(home, "runs", "--older-than", "2", "--yes")["removed"] == []
    assert kinds(shown(home, "runs", "--run", run.name[-9:], "--yes")["removed"]) == [("runs", run.name)]
    assert not run.path.exists() and other.path.exists()
    old = time.time() - 5 * 86400
    for path in [
        *other.path.rglob("*"),
        *made.path.rglob("*"),
        *(p for folder in home.iterdir() for p in folder.rglob("*")),
    ]:
        os.utime(path, (old, old))
    told = shown(home, "runs", "--older-than", "2", "--yes")
    assert kinds(told["removed"]) == [("runs", other.name)]
    assert len(told["kept"]) == 3 and all(made.name in item["keep"] for item in told["kept"])
    assert kinds(shown(home, "ladders", "--run", made.name, "--yes")["removed"]) == [("ladders", made.name)]
    assert not made.path.exists() and len(list(home.iterdir())) == 3


def test_ladders_of_a_sweep_are_kept(tmp_path: Path) -> None:
    """Old ones because its report needs them, named ones while it runs."""
    home = tmp_path / "runs"
    sweep = made_sweep(home)
    cells = [cell.ladder for cell in sweep.plan().cells]
    old = time.time() - 5 * 86400
    for path in home.rglob("*"):
        os.utime(path, (old, old))
    lock = locks.acquire(sweep.lock_file, str(os.getpid()))
    assert lock is not None
    try:
        told = shown(home, "ladders", "--run", cells[0], "--yes")
        assert told["removed"] == [] and [item["keep"] for item in told["kept"]] == [cleaning.IN_USE]
    finally:
        os.close(lock)
    kept = {item["name"]: item["keep"] for item in shown(home, "ladders", "--older-than", "2", "--yes")["kept"]}
    assert set(kept) == set(cells) and all(sweep.name in reason for reason in kept.values())
    assert kinds(shown(home, "ladders", "--run", sweep.name, "--yes")["removed"]) == [("ladders", sweep.name)]
    assert not sweep.path.exists()
    assert kinds(shown(home, "ladders", "--run", cells[0], "--yes")["removed"]) == [("ladders", cells[0])]


def test_a_name_that_means_several_runs_is_refused(tmp_path: Path) -> None:
    run_with(tmp_path / "runs", "finished"), run_with(tmp_path / "runs", "finished")
    done = ftbench("clean", "runs", "--run", "lora", "--yes", "--runs", str(tmp_path / "runs"))
    assert done.returncode == 2 and "matches 2 runs" in done.stderr
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert ftbench("clean", "everything").returncode == 2


def test_a_person_chooses_and_confirms_on_a_terminal(tmp_path: Path) -> None:
    home = tmp_path / "runs"
    run = run_with(home, "finished")
    for answer, exists in (("n", True), ("y", False)):
        terminal = Terminal("clean", "--runs", str(home), cwd=tmp_path)
        try:
            terminal.wait("What to remove?")
            terminal.press("checkpoints", "enter")
            terminal.wait("Remove 1 item,")
            terminal.press(answer, "enter")
            assert terminal.leave() == 0
        finally:
            terminal.process.kill()
            terminal.process.wait()
        assert run.checkpoints.exists() is exists
