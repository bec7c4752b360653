"""`ftbench ladder` from the command to the report, on the embedded model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command import MICRO, ON_SMALL, WHOLE, events_of
from forked import ftbench
from schema_checks import check_files

from engine.hardware.cpu import usable_cpus
from engine.ladder.recommendation import FULL_NOT_SCORED
from engine.runs.ladder.ladder_dir import LadderDir

FULL_AND_LORA = ["--rung", "lora,full"]


def ladder(*arguments: str) -> Any:
    """Run a ladder whose runs predict no memory, and return the output of `--json`."""
    done = ftbench("ladder", "demo", *MICRO, *ON_SMALL, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def only_ladder(tmp_path: Path) -> LadderDir:
    (directory,) = LadderDir.iterate(tmp_path / "runs")
    return directory


def rows(state: Any) -> dict[str, Any]:
    return {row["name"]: row for row in state["rows"]}


def run_names(state: Any, kind: str = "run") -> list[str]:
    return [entry["run"] for entry in state["entries"] if entry["kind"] == kind]


def result_of(tmp_path: Path, name: str) -> Any:
    return json.loads((tmp_path / "runs" / name / "result.json").read_text())


def check_that_report_writes_again(folder: LadderDir) -> None:
    """`ftbench report` writes page and Markdown again and prints Markdown and JSON; costs no ladder of its own."""
    folder.page.unlink()
    done = ftbench("report", "last")
    assert done.returncode == 0 and str(folder.page) in done.stdout and folder.page.exists()
    assert ftbench("report", "last", "--markdown").stdout == folder.markdown.read_text()
    assert json.loads(ftbench("report", "last", "--json").stdout)["name"] == folder.name
    assert ftbench("report", "nothing").returncode == 2


def check_that_runs_at_the_same_time_give_the_same(tmp_path: Path, expected: Any) -> None:
    """Repeat a ladder of two runs on halves of the CPU: answers and losses are equal bit for bit, the times overlap."""
    state = ladder("--rung", "lora", "--no-probe", "--seeds", "2", "--devices", "cpu:2")
    assert state["runs_at_once"] == 2 and any("2 runs at a time" in sentence["text"] for sentence in state["verdict"])
    assert [entry["reused"] for entry in state["entries"]] == [False, False]  # timed with other threads
    spans = []
    for name, other in zip(run_names(state), run_names(expected), strict=True):
        run, before = tmp_path / "runs" / name, tmp_path / "runs" / other
        assert (run / "predictions.jsonl").read_text() == (before / "predictions.jsonl").read_text()
        assert losses_of(run) == losses_of(before)
        times = [event["t"] for event in events_of(run)]
        spans.append((times[0], times[-1]))
    assert max(began for began, _ in spans) < min(ended for _, ended in spans)


def losses_of(run: Path) -> list[float]:
    return [event["loss"] for event in events_of(run) if event["type"] == "step"]


def test_three_methods_do_the_same_work_and_get_a_verdict(tmp_path: Path) -> None:
    settings = [*WHOLE, "--set", "data.max_rows=200", "--set", "train.probe=false"]
    done = ftbench("ladder", "demo", *settings, *ON_SMALL)
    assert done.returncode == 0, done.stdout + done.stderr
    folder = only_ladder(tmp_path)
    state = json.loads(folder.state_file.read_text())
    assert (state["status"], state["stage"]) == ("finished", "done")
    assert list(rows(state)) == ["base", "base-4bit", "qlora", "lora", "full"]
    probes = run_names(state, "probe")
    assert len(probes) == len(state["estimates"]) == 3
    assert all(state["created"] < entry["started"] < state["updated"] for entry in state["entries"])
    assert all((folder.runs / probe).parent == folder.probes for probe in probes)
    results = [result_of(tmp_path, name) for name in run_names(state)]
    assert len({json.dumps(result["fingerprints"]) for result in results}) == 1
    assert len({result["tokens"] for result in results}) == 1
    scored_base = [bool(result["before"]) for result in results]
    assert scored_base == [True, True, False]  # in 4 bits by QLoRA, unquantized by LoRA
    for name in ("qlora", "lora", "full"):
        row = rows(state)[name]
        assert row["all_seconds"]["mean"] > row["training_seconds"]["mean"] > 0
        assert row["forgetting"]["low"] <= row["forgetting"]["mean"] <= row["forgetting"]["high"]
        assert row["peak"]["rss_training"] > 0 and row["artifact_bytes"] > 0
    assert "total: about" in done.stdout and "quality: " in done.stdout
    assert f"report: {folder.page}" in done.stdout
    headline = state["summary"]["headline"]
    assert done.stdout.splitlines().count(headline) == 1
    assert folder.page.stat().st_size > 20_000 and folder.markdown.read_text().startswith("# ")
    check_that_report_writes_again(folder)
    assert check_files(tmp_path / "runs") == 13  # a ladder, three probes and three runs with results


def test_repeating_a_ladder_reuses_its_runs_and_another_seed_runs_only_that_seed(tmp_path: Path) -> None:
    first = ladder("--rung", "lora", "--no-probe")
    again = ladder("--rung", "lora", "--no-probe")
    assert run_names(again) == run_names(first)
    assert all(entry["reused"] for entry in again["entries"])
    more = ladder("--rung", "lora", "--no-probe", "--seeds", "2")
    assert run_names(more)[0] == run_names(first)[0]
    assert [entry["reused"] for entry in more["entries"]] == [True, False]
    seeds = [result_of(tmp_path, name)["fingerprints"]["order"] for name in run_names(more)]
    assert seeds[0].endswith("seed 0") and seeds[1].endswith("seed 1")
    if len(usable_cpus()) > 1:
        check_that_runs_at_the_same_time_give_the_same(tmp_path, more)


def test_four_learning_rates_are_tried_by_successive_halving_on_validation_rows_only(tmp_path: Path) -> None:
    state = ladder("--rung", "lora", "--no-probe", "--learning-rates", "4")
    trials = [entry for entry in state["entries"] if entry["kind"] == "trial"]
    short, complete = ([trial for trial in trials if (trial["steps"] is None) is full] for full in (False, True))
    assert [trial["steps"] for trial in short] == [4] * 4 and len(complete) == 2
    best = sorted(short, key=lambda trial: trial["validation_loss"])[:2]
    assert {trial["learning_rate"] for trial in complete} == {trial["learning_rate"] for trial in best}
    for trial in trials:
        result = result_of(tmp_path, trial["run"])
        assert result["before"] is None and result["after"] is None
        assert not (tmp_path / "runs" / trial["run"] / "predictions.jsonl").exists()
        assert trial["validation_loss"] == pytest.approx(result["final_validation"])
    (chosen,) = [trial for trial in trials if trial["chosen"]]
    assert chosen["validation_loss"] == min(trial["validation_loss"] for trial in complete)
    (run,) = [entry for entry in state["entries"] if entry["kind"] == "run"]
    assert run["learning_rate"] == chosen["learning_rate"]
    assert chosen in complete and rows(state)["lora"]["learning_rate"] == chosen["learning_rate"]
    assert result_of(tmp_path, short[0]["run"])["steps"] == 4
    caveats = [sentence["text"] for sentence in state["verdict"] if sentence["topic"] == "caveat"]
    assert any("successive halving: 6 trials" in text for text in caveats)
    report = ftbench("report", "last", "--markdown").stdout
    assert report.count("| learning-rate trial") == 6


def test_two_ranks_of_one_method_are_two_rungs(tmp_path: Path) -> None:
    state = ladder("--rung", "narrow=lora,adapter.rank=2", "--rung", "wide=lora,adapter.rank=8", "--no-probe")
    assert state["differs"]["adapter.rank"] == {"narrow": 2, "wide": 8}
    trained = {name: row["trainable"] for name, row in rows(state).items()}
    assert trained["wide"] == 4 * trained["narrow"]
    assert FULL_NOT_SCORED in state["summary"]["headline"]


@pytest.mark.parametrize(
    ("arguments", "code", "value"),
    [
        (
            ["--rung", "lora", "--rung", "odd=full,train.batch=8"],
            "ladder.different_work",
            "train.batch, 4 for lora and 8",
        ),
        (["--rung", "lora", "--rung", "odd=full,data.max_rows=9"], "ladder.different_work", "200 for lora and 9"),
        (["--rung", "lora,lora"], "ladder.rung_name", "duplicate"),
        (["--rung", "vera"], "ladder.unknown_method", "'vera'"),
        (["--rung", "base=lora"], "ladder.rung_name", "reserved"),
        (
            ["--rung", "full", "--set", "data.validation=0", "--learning-rates", "2"],
            "ladder.no_validation_rows",
            "data.validation",
        ),
        (["--data", "nowhere.jsonl"], "data.not_found", "nowhere.jsonl"),
        (["--set", "evaluation.forgetting_text=nowhere.txt"], "data.general_unreadable", "nowhere.txt"),
        (["--set", "data.test=0"], "ladder.no_test_rows", "data.test"),
    ],
)
def test_a_ladder_that_cannot_compare_is_refused_and_leaves_no_files(
    arguments: list[str], code: str, value: str, tmp_path: Path
) -> None:
    given = {word.split("=")[0] for word in arguments} - {"--set"}
    micro = () if given & {word.split("=")[0] for word in MICRO} else MICRO  # which has another value
    done = ftbench("ladder", "demo", *micro, *arguments, "--json")
    (line,) = done.stderr.splitlines()
    error = json.loads(line)["error"]
    assert (done.returncode, error["code"]) == (2, code), error
    assert value in f"{error['problem']} {error['location']}", error
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())
