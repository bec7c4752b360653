"""Output and files of the ladder subcommands, without running a ladder."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from made_ladder import made_ladder
from message_parts import figures
from typer.testing import CliRunner

from engine.config.errors import RunFailed, UserError
from engine.ladder.pipeline import load_or_create
from engine.ladder.report.record import work
from engine.runs import start
from engine.runs.ladder import ladder_dir
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import make_plan
from engine.runs.ladder.ladder_state import LadderEntry, LadderPlan, RungDuration
from engine.runs.run import events, folder
from engine.runs.run.run_dir import RunDir
from engine.runs.run.usage import ColumnUse, LeftOut, RowUsage, summarize_columns, summarize_rows
from tui.cli import attach, following, ladder, run
from tui.cli.following import Detached, LadderView, follow_comparison, time_estimates
from tui.cli.gate import gate
from tui.cli.main import app
from tui.cli.progress import ProgressDisplay


def test_detaching_with_json_prints_only_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = made_ladder(tmp_path)

    def leave(*_: object, **__: object) -> None:
        raise Detached

    monkeypatch.setattr(ladder, "follow_comparison", leave)
    assert ladder.watch(made, json=True) == 0
    assert json.loads(capsys.readouterr().out) == {"ladder": made.name, "path": str(made.path)}
    assert ladder.watch(made, json=False) == 0
    assert f"ftbench attach {made.name}" in capsys.readouterr().out


def test_a_resumed_ladder_whose_process_dies_does_not_show_its_old_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, state = made_ladder(tmp_path)
    state.status = "stopped"
    made.write_state(state)
    time.sleep(0.01)

    why = "no module named torch"

    def die(*_: object) -> start.StartedProcess:
        made.log_file.write_text(f"{why}\n")
        return subprocess.Popen([sys.executable, "-c", "raise SystemExit(1)"])

    monkeypatch.setattr(start, "start_process", die)
    with pytest.raises(RunFailed, match=why) as failed:
        attach.resume(str(made.path), detach=True)
    assert failed.value.code == "ladder.exited_at_start"


def test_time_estimates_use_singular_and_plural(tmp_path: Path) -> None:
    _, state = made_ladder(tmp_path)
    state.estimates = [RungDuration(rung="lora", low=60.0, high=90.0, step_seconds=0.5, steps_measured=3)]
    state.entries = [LadderEntry(rung="lora", kind="run", seed=0, learning_rate=1e-3)]
    estimate = next(time_estimates(state))
    assert (
        estimate.startswith("lora: 1 run,")
        and figures(estimate) == ["1", "1:00", "1:30", "3", "0.50"]
        and "each" not in estimate
    )
    state.entries.append(LadderEntry(rung="lora", kind="run", seed=1, learning_rate=1e-3))
    several = next(time_estimates(state))
    assert (
        several.startswith("lora: 2 runs,")
        and figures(several) == ["2", "1:00", "1:30", "3", "0.50"]
        and "each" in several
    )


@pytest.mark.parametrize(("words", "margin"), [([], 0.02), (["--margin", "0.5"], 0.005)])
def test_the_margin_is_given_in_points(words: list[str], margin: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[LadderPlan] = []
    monkeypatch.setattr(ladder, "start", lambda plan, *_: plans.append(plan) or 0)
    monkeypatch.setattr(ladder, "home_for_launch", lambda *_: Path())
    assert CliRunner().invoke(app, ["ladder", "demo", *words]).exit_code == 0
    assert [plan.margin for plan in plans] == [margin]


def test_a_full_disk_leaves_no_partial_ladder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(folder, "write_atomically", full)
    with pytest.raises(RunFailed, match=os.strerror(errno.ENOSPC)) as failed:
        ladder_dir.create(tmp_path / "runs", make_plan("demo", ["lora"], {}))
    assert failed.value.code == "run.cannot_write"
    assert not list((tmp_path / "runs").iterdir())


def test_detaching_before_the_start_tells_that_it_continues(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin.isatty", lambda: False, raising=False)
    monkeypatch.setattr(start, "start_ladder_process", interrupted)
    assert ladder.start(make_plan("demo", ["lora"], {}), tmp_path, detach=False, json=True) == 0
    (made,) = LadderDir.iterate(tmp_path)
    assert json.loads(capsys.readouterr().out) == {"ladder": made.name, "path": str(made.path)}
    assert attach.resume(str(made.path)) == 0
    assert f"ftbench attach {made.name}" in capsys.readouterr().out

    monkeypatch.setattr(start, "start_worker", lambda run: None)
    monkeypatch.setattr(start, "wait_for_hello", interrupted)
    assert run.run("demo-lora", runs=tmp_path / "runs", now=True, json=True) == 0
    (begun,) = RunDir.iterate(tmp_path / "runs")
    assert json.loads(capsys.readouterr().out) == {"run": begun.name, "path": str(begun.path)}


def test_a_resumed_ladder_does_not_show_the_stage_in_which_it_was_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, state = made_ladder(tmp_path)
    lives = iter([True, False])

    def is_active(_: object) -> bool:
        live = next(lives)
        state.stage, state.status = ("tuning", "stopped") if live else ("done", "finished")
        made.write_state(state)
        return live

    monkeypatch.setattr(folder.Folder, "is_active", is_active)
    follow_comparison(made)
    assert "trying learning rates" not in capsys.readouterr().out
    state.stage, state.status = "tuning", "stopped"
    made.write_state(state)
    assert load_or_create(made, made.plan()).stage == "planned"


def test_the_bar_of_the_next_run_does_not_show_the_last_ones_phase(tmp_path: Path) -> None:
    made, state = made_ladder(tmp_path)
    display = ProgressDisplay()
    view = LadderView(made, display, quiet=False)
    first, second = [entry for entry in state.entries if entry.kind == "run"][:2]
    first.status = "live"
    view.show(state)
    display.run.feed([events.Phase(name="saving")])
    first.status, second.status, second.run = "finished", "live", "there-is-none"
    view.show(state)
    assert f"{second.rung} · STARTING" in display.text(200)


def test_stopping_a_run_that_has_just_ended_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = made_ladder(tmp_path)
    with pytest.raises(UserError):
        start.stop(made)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda: "s")
    following.ask_to_leave(made, None)


def test_a_gate_of_a_ladder_whose_process_died_advises_to_resume(tmp_path: Path) -> None:
    folder, state = made_ladder(tmp_path)
    state.status = "running"
    folder.write_state(state)
    with pytest.raises(UserError) as refused:
        gate(str(folder.path), rung="lora")
    assert refused.value.code == "gate.not_finished" and "died" in refused.value.problem
    assert f"ftbench resume {folder.name}" in refused.value.hint


def test_a_gate_of_a_ladders_run_names_the_gate_of_its_rung(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The base is scored once per ladder: its runs have no scores to compare with."""
    folder, state = made_ladder(tmp_path)
    entry = next(entry for entry in state.entries if entry.kind == "run" and entry.rung == "lora")

    def refuse(*_: object) -> None:
        raise UserError("the base model has no scores of test items", entry.run, "", "gate.no_scores")

    monkeypatch.setattr("tui.cli.gate.ask", refuse)
    with pytest.raises(UserError) as refused:
        gate(str(tmp_path / entry.run))
    assert refused.value.code == "gate.run_of_ladder"
    assert f"ftbench gate {folder.name} --rung lora" in refused.value.hint


def test_missing_tools_for_gguf_are_refused_before_anything_is_printed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError) as refused:
        ladder.refuse_missing_tools(["merged", "lora:q4_k_m"])
    assert refused.value.code.startswith("export.no_gguf_")
    ladder.refuse_missing_tools(["merged", "adapter", "unknown"])


def test_an_empty_rung_does_not_mean_all_rungs() -> None:
    assert ladder.rung_words([""]) == [""] and ladder.rung_words(["lora,full", "a=lora,b=1"]) == [
        *("lora", "full", "a=lora,b=1"),
    ]


def test_a_ladder_shows_how_rows_and_columns_are_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, state = made_ladder(tmp_path)
    assert state.work is not None
    state.work.columns = [ColumnUse("question", 4200, "prompt"), ColumnUse("topic", 4198, "ignored")]
    state.work.data_usage = RowUsage(4200, 3570, 200, 420, 410, {"data.empty": LeftOut(10)})
    ladder.show(made, state)
    shown = capsys.readouterr().out
    assert summarize_columns(state.work.columns) in shown
    assert summarize_rows(state.work.data_usage) in shown
    assert "4,200 rows read" in str(work(state))


def test_warnings_of_a_ladder_are_printed_before_it_starts_and_not_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mine = tmp_path / "mine.toml"
    mine.write_text('method = "lora"\n[train]\nlearning_rate = 3e-3\n')
    plan = make_plan(str(mine), ["qlora", "lora"], {})
    (notice,) = plan.notices

    def refuse(*_: object, **__: object) -> None:
        raise RunFailed("no process")

    monkeypatch.setattr(ladder, "start_ladder", refuse)
    for as_json in (False, True):
        with pytest.raises(RunFailed):
            ladder.start(plan, tmp_path, detach=True, json=as_json)
        printed = capsys.readouterr()
        assert printed.out == "" and notice.text in printed.err
        if as_json:
            assert json.loads(printed.err) == {"warning": {"code": notice.code, "text": notice.text}}
    made, state = made_ladder(tmp_path)
    state.warnings, state.warning_codes = [notice.text, "another"], [notice.code, "test.another"]
    LadderView(made, None, quiet=False, known=[notice.text]).show(state)
    shown = capsys.readouterr().out
    assert "warning: another" in shown and notice.text not in shown
