"""A stored ladder of schema version 1 opens, gives the same statistics, is reported and resumed."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from forked import ftbench
from old_runs import LADDER, LADDER_RUNS, unpack

from engine.config.metric_specs import DEFAULT_MARGIN
from engine.config.preset import Preset, resolve
from engine.ladder.aggregate import aggregate
from engine.ladder.pipeline import LadderPipeline, load_or_create, run_pipeline
from engine.ladder.runner import LadderRunner, identity, relevant_settings
from engine.runs import launch
from engine.runs.ladder import Ladder
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir, read_frozen
from engine.runs.rung_results import RungResult
from engine.runs.rungs import LadderPlan
from engine.runs.stop_request import StopRequest


@pytest.fixture
def folder(tmp_path: Path) -> LadderDir:
    unpack(tmp_path / "runs")
    return LadderDir(tmp_path / "runs" / LADDER)


def state_of(folder: LadderDir) -> Ladder:
    state = folder.state()
    assert state is not None
    return state


def numbers(row: RungResult) -> tuple[Any, ...]:
    means = [interval and interval.mean for interval in (row.score, row.loss, row.forgetting)]
    return (row.name, *means, row.peak, row.all_seconds, row.artifact_bytes)


def test_an_old_ladder_gives_the_scores_that_it_stored(folder: LadderDir) -> None:
    """With intervals of today's statistics, and the default margin, which its plan does not have."""
    stored, state = state_of(folder), state_of(folder)
    assert stored.margin is None
    state.rows, state.comparisons, state.verdict = [], [], []
    aggregate(folder, state, folder.plan())
    assert state.margin == folder.plan().margin == DEFAULT_MARGIN
    for now, before in zip(state.comparisons, stored.comparisons, strict=True):
        assert (now.a, now.b, now.difference.mean) == (before.a, before.b, pytest.approx(before.difference.mean))
        assert now.difference.low is not None and before.difference.low is not None
        assert now.difference.low <= before.difference.low  # one seed: the spread between seeds is no longer ignored
    assert list(map(numbers, state.rows)) == list(map(numbers, stored.rows))
    assert state.verdict
    first = state.comparisons
    aggregate(folder, state, folder.plan())
    assert state.comparisons == first


def test_an_old_ladder_is_reported_with_its_stored_verdict(folder: LadderDir) -> None:
    assert ftbench("report", LADDER).returncode == 0
    page, text = folder.page.read_text("utf-8"), folder.markdown.read_text("utf-8")
    assert all(run in page for run in LADDER_RUNS)
    assert "| base" in text and "| LoRA" in text and "| full" in text
    shown = json.loads(ftbench("report", LADDER, "--json").stdout)
    stored = json.loads(folder.state_file.read_text("utf-8"))
    assert shown["v"] == 2 and shown["verdict"] == stored["verdict"]
    assert [row["artifact_bytes"] for row in shown["rows"]] == [row["artefact_bytes"] for row in stored["rows"]]


def test_an_old_ladder_is_resumed_with_its_finished_runs(folder: LadderDir, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = json.loads(folder.state_file.read_text("utf-8"))
    stored |= {"status": "stopped", "stage": "climbing", "rows": [], "comparisons": [], "verdict": []}
    folder.state_file.write_text(json.dumps(stored))
    state, plan = state_of(folder), msgspec.structs.replace(folder.plan(), probe=False)
    assert (state.status, state.stage) == ("stopped", "training")
    sign_runs(folder, state, plan)
    known = {"work": msgspec.to_builtins(state.work), "versions": state.versions, "machine": state.machine}
    monkeypatch.setattr("engine.ladder.pipeline.ask", lambda *_: {**known, "warnings": []})
    monkeypatch.setattr(launch, "launch", lambda run: pytest.fail(f"{run.name} was started"))
    runner = LadderRunner(folder, load_or_create(folder, plan), StopRequest(), fresh=False)
    assert run_pipeline(LadderPipeline(runner, plan)) == ("finished", "")
    done = state_of(folder)
    assert (done.v, done.stage) == (2, "done") and done.verdict and folder.page.exists()
    assert [entry.run for entry in done.entries if entry.kind == "run"] == list(LADDER_RUNS)


def sign_runs(folder: LadderDir, state: Ladder, plan: LadderPlan) -> None:
    """Write the runs' identity for the path that their data has in this test."""
    assert state.work is not None
    known: list[Any] = [state.work.fingerprints, state.versions, state.machine, plan.split_version]
    for name in LADDER_RUNS:
        run = RunDir(folder.runs / name)
        key = identity(read_frozen(run).config, *known)
        text = re.sub(r'^work = ".*"$', f'work = "{key}"', run.config_file.read_text("utf-8"), flags=re.MULTILINE)
        run.config_file.write_text(text)


IDENTIFYING = """
adapter.alpha adapter.dora adapter.dropout adapter.rank adapter.rslora adapter.targets data.format data.id
data.map data.max_rows data.seed data.separator data.subset data.test data.validation evaluation.batch
evaluation.general evaluation.max_new_tokens evaluation.metric evaluation.rows evaluation.when method
model.attention model.chat_template model.id model.revision optimizer.beta1 optimizer.beta2 optimizer.eps
optimizer.name quantization.compute_dtype quantization.double quantization.type train.batch
train.checkpoint_every train.epochs train.evaluate_every train.gradient_checkpointing train.keep_checkpoints
train.learning_rate train.max_grad_norm train.max_length train.micro_batch train.packing train.precision
train.probe train.schedule train.seed train.steps train.warmup train.weight_decay
"""
"""Settings in the identity of a run with default values since the first version."""


def test_a_setting_added_later_does_not_change_the_identity_of_runs_without_it() -> None:
    """Otherwise ladders would run again what exists. New ones are in `LATER_DEFAULTS` or `UNRELATED_KEYS`."""
    assert sorted(relevant_settings(resolve(Preset("test", {}), "lora").config)) == IDENTIFYING.split()
