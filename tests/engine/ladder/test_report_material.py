"""What a report reads from the directories of its runs, also if they are deleted or damaged."""

from __future__ import annotations

import math
import re
import shutil
from html import unescape
from pathlib import Path

import msgspec
import pytest
from made_ladder import made_ladder
from made_runs import BEGIN, HOSTILE, ITEMS, STEPS, write_events, write_predictions

from engine.config.preset import Preset, resolve
from engine.ladder.report import write
from engine.ladder.report.figures import NO_TRIALS
from engine.ladder.report.material import MAX_LOSS_POINTS, trace
from engine.ladder.report.page import NO_RESULTS, NO_SAMPLES, PARTIAL_REPORT, ReportData, render_page, shown_items
from engine.runs.ladder.ladder_state import Ladder, LadderEntry
from engine.runs.run import events, run_dir
from engine.runs.run.events import decode
from engine.runs.run.run_dir import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    new_run = run_dir.create(tmp_path / "runs", "demo-lora", resolve(Preset("demo-lora", {}), "lora"))
    write_events(new_run, "lora", 0, gpu=True)
    return new_run


def append(run: RunDir, *more: events.Event) -> None:
    with run.events_file.open("ab") as file:
        file.writelines(msgspec.json.encode(event) + b"\n" for event in more)


def test_a_curve_counts_the_tokens_of_all_steps(run: RunDir) -> None:
    curves = trace("lora", run.events_file)
    assert curves is not None
    log = [decode(line) for line in run.events_file.read_bytes().splitlines()]
    steps = [event for event in log if isinstance(event, events.Step)]
    assert len(curves.train[0]) <= MAX_LOSS_POINTS
    assert curves.train[0][-1] == sum(step.tokens for step in steps)
    assert curves.steps_per_point == math.ceil(STEPS / MAX_LOSS_POINTS)
    assert len(curves.validation[1]) == 4
    assert curves.validation[0][-1] == curves.train[0][-1]


def test_a_repeated_step_counts_once(run: RunDir) -> None:
    before = trace("lora", run.events_file)
    log = [decode(line) for line in run.events_file.read_bytes().splitlines()]
    append(run, *[event for event in log if isinstance(event, events.Step)][-5:])
    after = trace("lora", run.events_file)
    assert before is not None
    assert after is not None
    assert after.train == before.train


def test_a_loss_that_is_not_finite_is_a_gap(run: RunDir) -> None:
    write_events(run, "lora", 0, diverged=True)
    curves = trace("lora", run.events_file)
    assert curves is not None
    assert math.isnan(curves.train[1][-1])
    assert math.isfinite(curves.train[1][0])


@pytest.mark.parametrize(("metric", "score"), [("exact_match", "100%"), ("open", "1.500 nats/token")])
def test_items_on_which_the_rungs_disagree_come_first(tmp_path: Path, metric: str, score: str) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,), metric=metric)
    for file in directory.runs.glob("*/predictions.jsonl"):  # equal chrF: with the metric `open`, only losses differ
        file.write_text(re.sub(r'"chrf":[.\d]+', '"chrf":0.5', file.read_text()))
    data = ReportData(directory, ladder)
    answers = data.answers
    assert len(answers.items) == ITEMS and len(answers.trained) == 3
    assert len(answers.of_item("base", 0)) == 1  # scored by one run only
    disagree = [len({answers.of_item(rung, item)[0].nll for rung in answers.trained}) > 1 for item in range(ITEMS)]
    shown = [disagree[item] for item in shown_items(answers)]
    assert shown == sorted(shown, reverse=True) and 0 < sum(disagree) < ITEMS
    html = unescape(render_page(data)).replace("\u00a0", " ")
    assert f"scores differ on {sum(disagree)} items" in html and score in html.partition('id="samples"')[2]


def test_a_report_keeps_the_scores_of_all_seeds_and_the_texts_of_the_first(tmp_path: Path) -> None:
    answers = ReportData(*made_ladder(tmp_path / "runs", seeds=(0, 1))).answers
    for rung in answers.trained:
        first, second = answers.of_item(rung, 0)
        assert first.output and not second.output and second.scores


def test_the_4_bit_base_is_separate_from_the_base(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    quantized = msgspec.structs.replace(ladder.rows[0], name="base-4bit", method="base-4bit")
    ladder.rows[:1] = [quantized]
    answers = ReportData(directory, ladder).answers
    assert "base" not in answers.by_rung and "base-4bit" in answers.by_rung


def test_answers_to_different_items_are_left_out(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    run = RunDir(directory.runs / ladder.rows[-1].runs[0])
    write_predictions(run, "full", 0, hostile=True, base=False)
    data = ReportData(directory, ladder)
    (problem,) = data.problems
    assert problem == f"the runs were scored on different test items: {run.name}"
    assert set(data.answers.by_rung) == {"base", "qlora", "lora"}


def test_answers_are_shown_as_they_are_scored(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    file = RunDir(directory.runs / ladder.rows[-1].runs[0]).predictions_file
    file.write_text(file.read_text().replace('"output":"', '"output":"<think>Hm.</think>'))
    answers = ReportData(directory, ladder).answers
    (answer,) = answers.of_item("full", shown_items(answers)[0])
    assert "Hm." in file.read_text() and "Hm." not in answer.output and "category" in answer.output


@pytest.mark.parametrize("damage", ["events.jsonl", "predictions.jsonl", "run.toml", "everything"])
@pytest.mark.parametrize("rung", ["qlora", "lora"])  # the first run scored the base model too
def test_a_run_with_missing_files_is_named_once_and_the_rest_is_shown(tmp_path: Path, damage: str, rung: str) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    run = directory.runs / next(entry.run for entry in ladder.entries if entry.rung == rung and entry.run)
    if damage == "everything":
        shutil.rmtree(run)
    else:
        (run / damage).unlink()
    write(directory, ladder)
    page = directory.page.read_text("utf-8")
    assert 'id="loss-by-tokens-' in page and run.name in page
    no_events = f"{run.name} has no events: its directory may have been deleted"
    said = {
        "events.jsonl": [no_events],
        "everything": [no_events],
        "predictions.jsonl": [f"no answers to test items: {run.name}"],
        "run.toml": [],
    }
    data = ReportData(directory, ladder)
    assert data.problems == said[damage] and all(problem in page for problem in data.problems)
    assert (rung in data.answers.by_rung) == (damage in ("events.jsonl", "run.toml"))


def test_a_damaged_predictions_file_is_named(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    for entry in ladder.entries:
        if entry.run:
            (directory.runs / entry.run / "predictions.jsonl").write_bytes(b'{"item": 0, "prompt": "\xff\xfe')
    write(directory, ladder)
    assert "cannot read" in directory.page.read_text("utf-8")
    assert NO_SAMPLES in directory.page.read_text("utf-8")


@pytest.mark.parametrize("stage", ["planned", "training"])
def test_an_unfinished_ladder_has_a_page_too(tmp_path: Path, stage: str) -> None:
    directory, _ = made_ladder(tmp_path / "runs", seeds=(0,))
    planned = [LadderEntry(rung="lora", kind="run", seed=0, learning_rate=2e-4)] if stage == "training" else []
    ladder = Ladder(name=directory.name, preset="demo", command="", created=BEGIN, stage=stage, entries=planned)
    write(directory, ladder)
    page = directory.page.read_text("utf-8")
    assert f"{PARTIAL_REPORT} ({stage})" in page
    assert NO_RESULTS in page
    assert NO_TRIALS in page
    assert NO_RESULTS not in directory.markdown.read_text("utf-8")


def test_the_same_ladder_gives_the_same_bytes(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,))
    write(directory, ladder)
    first = directory.page.read_bytes(), directory.markdown.read_bytes()
    write(directory, ladder)
    assert (directory.page.read_bytes(), directory.markdown.read_bytes()) == first


def test_only_page_and_markdown_are_written(tmp_path: Path) -> None:
    directory, ladder = made_ladder(tmp_path / "runs", seeds=(0,), hostile=True)
    before = {path.name for path in directory.path.iterdir()}
    write(directory, ladder)
    assert {path.name for path in directory.path.iterdir()} - before == {"report.html", "report.md"}
    assert HOSTILE[0] not in directory.page.read_text("utf-8")


def test_a_rung_whose_first_run_trains_has_a_curve_and_no_row(tmp_path: Path) -> None:
    folder, ladder = made_ladder(tmp_path)
    ladder.rows = [row for row in ladder.rows if row.name != "lora"]
    data = ReportData(folder, ladder)
    assert any(curve.rung == "lora" for curve in data.traces)
