"""Runs and ladders of an older split version open, keep it, and are never compared with or reused for new ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from command import ftbench
from old_runs import LADDER, LADDER_RUNS, MADE_OF, RUN, unpack

from engine.config.errors import UserError
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.data.items import sampled
from engine.data.prepare import Prepared, prepare
from engine.ladder import report
from engine.ladder.aggregate import check_same_work
from engine.ladder.results import LadderResults, read_finished
from engine.ladder.runner import identity, index, runs_with_other_split
from engine.methods.provenance import items_fingerprint
from engine.methods.tokenizer import load_tokenizer
from engine.runs import run_dir
from engine.runs.ladder_dir import LadderDir
from engine.runs.run_dir import RunDir, read_frozen
from tui.history.comparison import compare, read


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    unpack(tmp_path / "runs")
    return tmp_path / "runs"


def prepared(run: RunDir, version: int) -> Prepared:
    config = read_frozen(run).config
    return prepare(config.data, config.train.max_length, load_tokenizer(config.model), split_version=version)


def test_an_old_run_opens_as_version_1(runs: Path) -> None:
    run = RunDir(runs / RUN)
    result = run.result()
    assert result is not None and result.split_version == read_frozen(run).split_version == 1
    assert result.overlap == {}


@pytest.mark.parametrize("name", [RUN, *LADDER_RUNS])
def test_version_1_gives_an_old_run_its_rows(runs: Path, name: str) -> None:
    run = RunDir(runs / name)
    result, rows = run.result(), prepared(run, 1)
    assert result is not None
    assert rows.fingerprint == result.fingerprints["data"]
    items = sampled(rows.test_items, read_frozen(run).config.evaluation.rows)
    assert items_fingerprint(items) == result.fingerprints["test"]
    assert rows.about["overlap"]["test/train"]["prompt"] > 0  # what version 2 is for


def test_version_2_splits_the_same_rows_differently(runs: Path) -> None:
    rows = prepared(RunDir(runs / RUN), 2)
    assert rows.about["overlap"]["test/train"]["prompt"] == 0
    assert len(rows.test_items) < len(rows.test)


def test_new_runs_record_the_latest_version(tmp_path: Path) -> None:
    made = run_dir.create(tmp_path / "runs", "demo", resolve(Preset("demo", {}), "lora"))
    assert read_frozen(made).split_version == 2


def test_the_list_of_runs_says_which_scores_do_not_compare(runs: Path) -> None:
    listed = [line for line in json.loads(ftbench("runs", "--json").stdout) if line["kind"] == "run"]
    assert {line["name"]: line["split_version"] for line in listed} == dict.fromkeys([RUN, *LADDER_RUNS], 1)
    shown = ftbench("runs").stdout
    assert shown.count("(split 1)") == 4
    assert "chosen by different rules" in " ".join(shown.split())


def test_runs_of_two_versions_stand_side_by_side_without_scores(runs: Path, tmp_path: Path) -> None:
    new = run_dir.create(runs, "demo", resolve(Preset("demo", {}), "lora"))
    old = RunDir(runs / RUN)
    assert "exact_match" in compare(read([old]), 100).plain and "0.0" in compare(read([old]), 100).plain
    text = compare(read([old, new]), 100).plain
    assert f"{RUN}: scores not shown: different split versions (1 and 2)" in text
    assert next(line for line in text.splitlines() if line.startswith("score after")).split()[2:] == ["–", "–"]


def ladder_work(runs: Path) -> tuple[LadderDir, Any]:
    folder = LadderDir(runs / LADDER)
    state = folder.state()
    assert state is not None and state.work is not None
    return folder, state


def test_an_old_ladder_opens_and_is_reported(runs: Path) -> None:
    folder, state = ladder_work(runs)
    assert folder.plan().split_version == state.work.split_version == 1
    report.write(folder, state)
    assert "| split version | 1 |" in folder.markdown.read_text("utf-8")
    assert folder.page.read_text("utf-8")


def test_an_old_ladder_uses_its_own_version_and_finds_its_runs(runs: Path) -> None:
    from engine.worker.workload import describe_workload

    folder, state = ladder_work(runs)
    plan = folder.plan()
    found = describe_workload(plan.rungs[0].config, plan.split_version)["work"]
    assert found["split_version"] == 1 and found["fingerprints"] == state.work.fingerprints
    for entry in (entry for entry in state.entries if entry.kind == "run"):
        table = msgspec.to_builtins(read_frozen(RunDir(runs / entry.run)).config)
        table["data"]["id"] = MADE_OF
        config = msgspec.convert(table, Config)
        first, second = (
            identity(config, state.work.fingerprints, state.versions, state.machine, version) for version in (1, 2)
        )
        assert [run.name for run in index(runs)[first]] == [entry.run]
        assert second not in index(runs)


def test_a_new_ladder_names_the_old_runs_that_it_does_not_reuse(runs: Path) -> None:
    config = read_frozen(RunDir(runs / LADDER_RUNS[0])).config
    assert [(run.name, version) for run, version in runs_with_other_split(runs, config, 2)] == [(LADDER_RUNS[0], 1)]
    assert runs_with_other_split(runs, config, 1) == []


def test_runs_of_two_versions_are_never_in_one_verdict(runs: Path) -> None:
    folder, state = ladder_work(runs)
    check_same_work(LadderResults(read_finished(folder, state)), state)
    state.work.split_version = 2
    with pytest.raises(UserError) as caught:
        check_same_work(LadderResults(read_finished(folder, state)), state)
    assert caught.value.where == "split_version" and LADDER_RUNS[0] in caught.value.what
