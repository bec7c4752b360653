"""`ftbench ladder --ship`: real exports of real runs as rungs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from command import MICRO, ON_SMALL
from forked import ftbench

from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.run.exports import FIDELITY, ITEM_SCORES

LORA = ["--rung", "lora", "--no-probe"]


def ladder(*arguments: str) -> Any:
    exact = ("--set", "train.precision=fp32")  # in bf16, PEFT rounds differently than training
    done = ftbench("ladder", "demo", *MICRO, *ON_SMALL, *LORA, *exact, *arguments, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def rows(state: Any) -> dict[str, Any]:
    return {row["name"]: row for row in state["rows"]}


def exports(state: Any) -> dict[str, Any]:
    return {entry["rung"]: entry for entry in state["entries"] if entry["kind"] == "export"}


def test_artifacts_are_exported_once_scored_and_compared(tmp_path: Path) -> None:
    state = ladder("--ship", "adapter")
    assert list(rows(state)) == ["base", "lora", "lora:adapter"]
    entry, row = exports(state)["lora:adapter"], rows(state)["lora:adapter"]
    artifact = tmp_path / "runs" / entry["run"]
    assert (entry["status"], entry["reused"], entry["progress"]) == ("finished", False, "")
    assert artifact.parent.parent.name == rows(state)["lora"]["runs"][0] and artifact.name == "adapter"
    scored = [json.loads(line) for line in (artifact / ITEM_SCORES).read_text().splitlines()]
    assert [score["item"] for score in scored] == list(range(6)) and not set(scored[0]) & {"prompt", "output", "target"}
    assert row["score"]["mean"] == rows(state)["lora"]["score"]["mean"]  # the same adapter gives the same answers
    assert row["source"] == "lora" and row["artifact_bytes"] > 0 and row["identical"] == 1.0
    assert row["all_seconds"]["mean"] > rows(state)["lora"]["all_seconds"]["mean"]
    pairs = {(comparison["a"], comparison["b"]) for comparison in state["comparisons"]}
    assert {("lora:adapter", "lora"), ("lora:adapter", "base")} <= pairs
    texts = [sentence["text"] for sentence in state["verdict"] if sentence["topic"] == "artifact"]
    assert texts[0].startswith("LoRA adapter scores ") and "all its answers" in texts[0]
    (folder,) = LadderDir.iterate(tmp_path / "runs")
    for report in (folder.page, folder.markdown):
        assert "LoRA adapter" in report.read_text() and "exported from LoRA" in report.read_text()

    blocked = artifact.with_name("merged-bf16")
    blocked.mkdir()
    (blocked / "thesis.tex").write_text("not an artifact")
    again = ladder("--ship", "adapter,merged", "--seeds", "1")
    assert exports(again)["lora:adapter"]["reused"] and rows(again)["lora:adapter"]["score"] == row["score"]
    failed = exports(again)["lora:merged"]
    assert failed["status"] == "failed" and f"not replaced: {blocked}; " in failed["reason"]
    assert (again["status"], rows(again)["lora:merged"]["status"]) == ("finished", "failed")
    assert "ladder.export_failed" in again["warning_codes"] and (blocked / "thesis.tex").exists()

    (blocked / "thesis.tex").unlink()
    latest = max(LadderDir.iterate(tmp_path / "runs"), key=lambda directory: directory.name)
    done = ftbench("resume", latest.name, "--json")
    assert done.returncode == 0, done.stderr
    resumed = json.loads(done.stdout)
    assert exports(resumed)["lora:merged"]["status"] == "finished" and (blocked / FIDELITY).exists()
    assert rows(resumed)["lora:merged"]["artifact_bytes"] > rows(resumed)["lora:adapter"]["artifact_bytes"]
    _export_the_recommended_run(latest, rows(resumed)["lora"]["runs"][0])


def _export_the_recommended_run(folder: LadderDir, run: str) -> None:
    """`ftbench export LADDER`, without and with a recommendation, which needs more test items than a test has."""
    state = folder.state()
    assert (
        state is not None and state.recommended == "" and "ship" not in [sentence.topic for sentence in state.verdict]
    )
    refused = ftbench("export", folder.name, "--json")
    error = json.loads(refused.stderr)["error"]
    assert (refused.returncode, error["code"]) == (2, "ladder.no_recommendation") and run in error["hint"]
    state.recommended = "lora"
    folder.write_state(state)
    done = ftbench("export", folder.name, "--to", "adapter", "--overwrite")
    assert done.returncode == 0, done.stderr
    assert f"verdict of {folder.name}: {run}" in done.stdout
    assert str(folder.runs / run / "exports" / "adapter") in done.stdout


def test_without_the_tools_a_ladder_with_gguf_is_refused_before_training(tmp_path: Path) -> None:
    done = ftbench("ladder", "demo", *MICRO, *ON_SMALL, *LORA, "--ship", "merged,q4_k_m")
    assert done.returncode == 2 and "ftbench pull gguf" in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert not list((tmp_path / "runs").glob("*"))
