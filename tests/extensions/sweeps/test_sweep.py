"""`ftbench ladder --vary` from the command to the report, on the embedded model."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from typing import Any

import command
import psutil
from command import MICRO, ON_SMALL
from forked import ftbench
from task_files import choice_task

from engine.extensions.sweeps.sweep_dir import SweepDir


def sweep_of(tmp_path: Path, ranks: str, *more: str) -> list[str]:
    """The arguments of a sweep over ranks that is scored on a benchmark too."""
    benchmarks = f'evaluation.benchmarks=["{choice_task(tmp_path)}"]'
    varied = ("--vary", f"adapter.rank={ranks}", *MICRO, *ON_SMALL, "--set", benchmarks, *more)
    return ["ladder", "demo", "--rung", "lora,full", "--no-probe", *varied]


def state_of(runs: Path, name: str) -> Any:
    return json.loads((runs / name / "ladder.json").read_text())


def check_the_ladders(runs: Path, sweep: Any) -> None:
    """The base model and full fine-tuning, which does not read the rank, were run once."""
    first, second = (state_of(runs, cell["ladder"]) for cell in sweep["cells"])
    entries = {entry["rung"]: entry for entry in second["entries"]}
    assert entries["full"]["reused"] and not entries["lora"]["reused"]
    scored = json.loads((runs / entries["lora"]["run"] / "result.json").read_text())
    assert scored["before"] is None and second["base_runs"] == {"base": first["entries"][0]["run"]}
    bases = [next(row for row in ladder["rows"] if row["name"] == "base") for ladder in (first, second)]
    assert all(base["score"] and base["loss"] for base in bases)
    assert len({(base["score"]["mean"], base["loss"]["mean"]) for base in bases}) == 1
    assert all(ladder["verdict"] for ladder in (first, second))
    check_the_benchmarks(runs, first, second)


def check_the_benchmarks(runs: Path, *ladders: Any) -> None:
    """The base model was scored once, in the first ladder, and every rung of both is compared with it."""
    assert all("benchmark colors" in ladder["work"]["fingerprints"] for ladder in ladders)
    assert all(any(sentence["topic"] == "forgetting" for sentence in ladder["verdict"]) for ladder in ladders)
    assert "Benchmarks" in ftbench("report", ladders[1]["name"], "--markdown").stdout
    assert len(list(runs.glob("*/benchmarks/colors.before.json"))) == 1
    assert len(list(runs.glob("*/benchmarks/colors.after.json"))) == 3
    rows = [ladder["benchmarks"][0]["rows"] for ladder in ladders]
    assert [[row["name"] for row in ladder_rows] for ladder_rows in rows] == [["base", "lora", "full"]] * 2
    base, full = ([ladder_rows[place]["score"]["mean"] for ladder_rows in rows] for place in (0, 2))
    assert base[0] == base[1] and full[0] == full[1]
    assert all(row["finding"] for ladder_rows in rows for row in ladder_rows[1:])


def check_the_report(sweep: Any) -> None:
    done = ftbench("report", sweep["name"])
    assert done.returncode == 0 and "report.html" in done.stdout
    markdown = ftbench("report", sweep["name"], "--markdown").stdout
    assert markdown.startswith(f"# {sweep['preset']} by adapter.rank\n") and "| 4 | LoRA |" in markdown
    assert json.loads(ftbench("report", sweep["name"], "--json").stdout)["points"] == sweep["points"]
    listed = ftbench("runs").stdout
    assert sweep["name"] in listed and "2/2" in listed


def check_the_budget(tmp_path: Path) -> None:
    """A ladder is not started if the budget does not suffice, and the sweep says so, also after it is resumed.

    A ladder whose runs all exist is finished.
    """
    done = ftbench(*sweep_of(tmp_path, "2,8", "--budget", "1s"))
    assert done.returncode == 0, done.stdout + done.stderr
    folder = max(SweepDir.iterate(tmp_path / "runs"), key=lambda sweep: sweep.name)
    check_what_is_missing(folder, done.stdout)
    resumed = ftbench("resume", folder.name)
    assert resumed.returncode == 0, resumed.stderr
    check_what_is_missing(folder, resumed.stdout)
    assert ftbench("ladder", "demo", "--budget", "1s").returncode == 2


def check_what_is_missing(folder: SweepDir, printed: str) -> None:
    state = folder.state()
    assert state and [cell.status for cell in state.cells] == ["finished", "missing"]
    reason = state.cells[1].reason
    assert "budget of 1.00 s" in reason and f"adapter.rank=8: {reason}" in printed


def test_a_sweep_shares_runs_and_the_base_model_reports_and_keeps_its_budget(tmp_path: Path) -> None:
    done = ftbench(*sweep_of(tmp_path, "2,4", "--json"))
    assert done.returncode == 0, done.stdout + done.stderr
    sweep = json.loads(done.stdout)
    assert [cell["status"] for cell in sweep["cells"]] == ["finished", "finished"]
    assert [point["cell"] for point in sweep["points"]] == [0, 1] and sweep["headline"]
    check_the_ladders(tmp_path / "runs", sweep)
    check_the_report(sweep)
    check_the_budget(tmp_path)


def kill_a_measurement(runs: Path) -> SweepDir:
    """SIGKILL the process that measures the first ladder's data, as soon as it has started."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        for folder in SweepDir.iterate(runs):
            pid = folder.pid()
            for child in psutil.Process(pid).children() if pid else []:
                with contextlib.suppress(psutil.NoSuchProcess):
                    if "ladder.workload" in child.cmdline():
                        child.kill()
                        return folder
        time.sleep(0.01)
    raise TimeoutError("no measurement has started")


def test_a_ladder_that_failed_is_tried_again_when_the_sweep_is_resumed(tmp_path: Path) -> None:
    words = ["ladder", "demo", "--rung", "lora", "--no-probe", "--vary", "adapter.rank=2,4", *MICRO, *ON_SMALL]
    assert command.ftbench(*words, "--detach").returncode == 0  # forked processes do not show what they are
    folder = kill_a_measurement(tmp_path / "runs")
    ended = ftbench("attach", folder.name)
    state = folder.state()
    assert state and [cell.status for cell in state.cells] == ["failed", "finished"], ended.stdout
    assert "SIGKILL" in state.cells[0].reason and "resume" in " ".join(state.sentences)
    resumed = ftbench("resume", folder.name)
    state = folder.state()
    assert state and [cell.status for cell in state.cells] == ["finished", "finished"], resumed.stdout
    assert [point.cell for point in state.points] == [0, 1] and not state.cells[0].reason and resumed.returncode == 0
    first = folder.ladder(state.cells[0].ladder).state()
    assert first and first.status == "finished" and not first.reason


def test_a_sweep_that_cannot_run_is_refused_and_leaves_no_files(tmp_path: Path) -> None:
    done = ftbench("ladder", "demo", "--vary", "adapter.rank=2,4", *MICRO, "--data", "nowhere.jsonl")
    assert done.returncode == 2 and "nowhere.jsonl" in done.stderr
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
