"""Artifacts as rungs: their names, differences from their runs, costs, and what the verdict says of them."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from engine.config.errors import UserError
from engine.config.preset import Preset, resolve
from engine.ladder.artifacts import add_artifacts
from engine.ladder.decisions import Decisions
from engine.ladder.phrases import NO_SIGNIFICANT_DIFFERENCE, rung_title, status_text
from engine.ladder.recommendation import artifact_sentences
from engine.ladder.report.tables import artifacts, memory_and_size
from engine.ladder.results import FinishedRun, LadderResults, comparison
from engine.ladder.sentences import verdict
from engine.ladder.statistics import ItemScores
from engine.runs.ladder.ladder_dir import LadderDir
from engine.runs.ladder.ladder_plan import describe_plan, make_plan
from engine.runs.ladder.ladder_state import Ladder, LadderEntry, LadderPlan, Rung, SharedWork, artifact_of, gain_of_rung
from engine.runs.ladder.rung_results import Comparison, RungResult
from engine.runs.run.exports import FIDELITY, ITEM_SCORES, Fidelity, ItemScore
from engine.runs.run.predictions import PredictionLine
from engine.runs.run.result import Interval, Result

ITEMS, SEEDS = 300, (0, 1, 2)
Scores = NDArray[np.float64]


def made(tmp_path: Path, of_artifact: dict[int, Scores], of_run: dict[int, Scores]) -> tuple[Ladder, LadderPlan]:
    """A ladder with a base of zeros, full at 0.9, and LoRA, whose Q8_0 artifacts are on disk."""
    work = SharedWork(
        model="tiny", data="d", train=1, validation=1, test=ITEMS, tokens=1, steps=1, batch=1, metric="exact_match"
    )
    ladder = Ladder(name="l", preset="p", command="", created=0, seeds=list(of_run), work=work)
    results = LadderResults()
    tokens = np.ones(ITEMS)
    for name, values in (("lora", of_run), ("full", {seed: np.full(ITEMS, 0.9) for seed in of_run})):
        seeds = tuple(values)
        results.scores[name] = ItemScores(np.stack(list(values.values())), seeds=seeds)
        results.losses[name] = ItemScores(np.ones((len(seeds), ITEMS)), tokens, seeds)
        for seed in seeds:
            run = LadderEntry(
                rung=name,
                kind="run",
                seed=seed,
                learning_rate=1e-3,
                run=f"{name}-{seed}",
                status="finished",
                seconds=60,
            )
            ladder.entries.append(run)
            line = PredictionLine(item=0, prompt="", target="", base=None, tuned=None)
            results.runs.append(FinishedRun(run, result(name), [line] * ITEMS))
        ladder.rows.append(RungResult(name=name, method=name, status="finished", seeds=list(seeds)))
        ladder.rows[-1].artifact_bytes = 10 if name == "lora" else 20
    results.scores["base"] = ItemScores(np.zeros((1, ITEMS)), untrained=True)
    results.losses["base"] = ItemScores(np.full((1, ITEMS), 3.0), tokens, untrained=True)
    ladder.rows[1].score = Interval(mean=0.9, low=0.8, high=0.95, rows=ITEMS)
    ladder.rows[0].score = Interval(mean=0.6, low=0.5, high=0.7, rows=ITEMS)
    for name in ("lora", "full"):
        ladder.comparisons.append(
            Comparison(
                a=name,
                b="base",
                difference=Interval(mean=0.6, low=0.5, high=0.7, rows=ITEMS),
                p_adjusted=0.001,
                finding="better",
            )
        )
    for seed, scored in of_artifact.items():
        folder = tmp_path / f"lora-{seed}" / "exports" / "gguf-q8_0"
        folder.mkdir(parents=True)
        lines = [ItemScore(item=n, nll=1.0, tokens=1, scores={"exact_match": float(v)}) for n, v in enumerate(scored)]
        (folder / ITEM_SCORES).write_bytes(b"\n".join(msgspec.json.encode(line) for line in lines))
        check = Fidelity(
            run=f"lora-{seed}",
            kind="gguf",
            type="q8_0",
            model="tiny",
            metric="exact_match",
            device="llama.cpp on 2 CPU cores",
            margin=0.02,
            outcome="pass",
            identical=0.9,
            bytes=4 << 20,
            seconds_per_token=0.01,
        )
        (folder / FIDELITY).write_bytes(msgspec.json.encode(check))
        ladder.entries.append(
            LadderEntry(
                rung="lora:q8_0",
                kind="export",
                seed=seed,
                learning_rate=1e-3,
                run=f"lora-{seed}/exports/gguf-q8_0",
                status="finished",
                seconds=5,
            )
        )
    plan = LadderPlan(preset="p", created=0, rungs=[], seeds=list(of_run), ship=["lora:q8_0"])
    add_artifacts(LadderDir(tmp_path / "ladder"), ladder, plan, results)
    return ladder, plan


def result(method: str) -> Result:
    known = {"status": "finished", "reason": "", "name": "r", "preset": "p", "model": "tiny", "data": "d"}
    return msgspec.convert({**known, "method": method, "metric": "exact_match", "created": 0.0, "ended": 1.0}, Result)


def row_of(ladder: Ladder, name: str) -> RungResult:
    return next(row for row in ladder.rows if row.name == name)


def right(share: float, shift: int = 0) -> Scores:
    """Scores of which this share is 1."""
    return np.roll((np.arange(ITEMS) < round(share * ITEMS)).astype(float), shift)


def test_what_the_seeds_share_cancels_in_the_difference_from_the_runs(tmp_path: Path) -> None:
    of_run = {seed: right(0.5 + 0.15 * seed) for seed in SEEDS}  # the seeds differ by much more than the artifact
    worse = {seed: np.where(np.arange(ITEMS) < ITEMS * 8 // 100, 0.0, values) for seed, values in of_run.items()}
    ladder, _ = made(tmp_path, worse, of_run)
    compared = comparison(ladder, "lora:q8_0", "lora")
    assert compared is not None and compared.finding == "worse"
    assert compared.difference.mean == pytest.approx(-0.08)
    assert compared.difference.low is not None and compared.difference.low > -0.2
    back = gain_of_rung(ladder, "lora:q8_0", "lora")
    assert back.gain.high is not None and back.gain.high < 0


def test_an_equal_artifact_is_not_significantly_different(tmp_path: Path) -> None:
    of_run = {seed: right(0.6, seed) for seed in SEEDS}
    ladder, _ = made(tmp_path, of_run, of_run)
    compared = comparison(ladder, "lora:q8_0", "lora")
    assert compared is not None and compared.finding == "undecided" and compared.difference.mean == 0
    against = comparison(ladder, "lora:q8_0", "base")
    assert against is not None and against.finding == "better"
    row = row_of(ladder, "lora:q8_0")
    assert [rung.name for rung in ladder.rows] == ["lora", "lora:q8_0", "full"]
    assert row.share_of_gain is not None and row.share_of_gain.mean == pytest.approx(0.6 / 0.9)
    assert (row.source, row.seeds, row.artifact_bytes, row.identical) == ("lora", [0, 1, 2], 4 << 20, 0.9)
    assert row.export_seconds is not None and row.export_seconds.mean == 5
    assert row.all_seconds is not None and row.all_seconds.mean == 65  # its run and the export
    assert row.generation is not None and row.generation.mean == pytest.approx(100)
    assert row.peak is None and row.training_seconds is None


def test_decisions_are_about_trained_rungs_and_sentences_about_artifacts(tmp_path: Path) -> None:
    of_run = {0: right(0.6)}
    ladder, _ = made(tmp_path, of_run, of_run)
    near = Interval(mean=-0.005, low=-0.015, high=0.005, rows=ITEMS)
    ladder.comparisons.append(Comparison(a="lora", b="full", difference=near, p_adjusted=0.9, finding="as_good"))
    decisions = Decisions(ladder)
    assert [row.name for row in decisions.trained] == ["lora", "full"]
    texts = [text for topic, text in artifact_sentences(ladder, decisions) if topic == "artifact"]
    assert re.match(r"LoRA Q8_0 keeps 66\.7% .*\[.+\].* 4\.00 MiB; ", texts[0])
    assert NO_SIGNIFICANT_DIFFERENCE in texts[0] and "LoRA Q8_0 − LoRA = 0.0 points" in texts[0]
    assert (
        decisions.ship is not None and decisions.ship.name == "lora"
    )  # the smaller artifact, as good within the margin
    assert "use LoRA Q8_0 (4.00 MiB)" in texts[1] and "smallest" in texts[1]
    ladder.verdict = verdict(ladder, decisions)
    assert {"artifact", "ship"} <= {sentence.topic for sentence in ladder.verdict}
    table = artifacts(ladder)
    assert table is not None and table.lines[0].head.text == "LoRA Q8_0"
    assert "LoRA Q8_0" not in [line.head.text for line in memory_and_size(ladder).lines]


def test_an_artifact_without_exports_has_its_reason(tmp_path: Path) -> None:
    of_run = {0: right(0.6)}
    ladder, plan = made(tmp_path, {}, of_run)
    assert row_of(ladder, "lora:q8_0").status == "planned" and row_of(ladder, "lora:q8_0").score is None
    entry = LadderEntry(rung="lora:q8_0", kind="export", seed=0, learning_rate=0.0, status="failed", reason="disk full")
    ladder.entries.append(entry)
    ladder.rows = [row for row in ladder.rows if not row.source]
    results = LadderResults(scores={"lora": ItemScores(right(0.6)[None])}, losses={})
    add_artifacts(LadderDir(tmp_path / "ladder"), ladder, plan, results)
    row = row_of(ladder, "lora:q8_0")
    assert (row.status, row.reason) == ("failed", "disk full")
    caveats = [sentence.text for sentence in verdict(ladder, Decisions(ladder)) if sentence.topic == "caveat"]
    assert f"LoRA Q8_0: {status_text(row)}" in caveats
    table = artifacts(ladder)
    assert table is not None and table.lines[0].instead == status_text(row) == "failed: disk full"


def test_scores_for_other_items_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        made(tmp_path, {0: right(0.6)[:50]}, {0: right(0.6)})
    assert caught.value.code == "ladder.unreadable_scores"


def test_artifacts_are_named_by_rung_and_kind() -> None:
    plan = make_plan("demo", ["lora", "full"], {}, seeds=2, ship=["merged", "full:q8_0", "gguf", "adapter"])
    assert plan.ship == ["lora:merged", "lora:q4_k_m", "lora:adapter", "full:merged", "full:q8_0", "full:q4_k_m"]
    assert describe_plan(plan).endswith("6 runs and 12 exports")
    assert [rung_title(name) for name in plan.ship[:2]] == ["LoRA merged", "LoRA Q4_K_M"]
    parsed = artifact_of("wide:gguf-f16")
    assert parsed is not None and (parsed[0], parsed[1].folder) == ("wide", "gguf-f16") and artifact_of("wide") is None


@pytest.mark.parametrize(
    ("rungs", "ship", "code"),
    [
        (["lora"], "q5_k_m", "ladder.unknown_artifact"),
        (["lora"], "full:merged", "ladder.unknown_rung"),
        (["full"], "adapter", "ladder.no_artifact"),
        (["full", "lora"], "full:adapter", "ladder.no_artifact"),
        (["lora"], "", "ladder.unknown_artifact"),
    ],
)
def test_artifacts_that_no_rung_has_are_refused(rungs: list[str], ship: str, code: str) -> None:
    with pytest.raises(UserError) as caught:
        make_plan("demo", rungs, {}, ship=[ship])
    assert caught.value.code == code and caught.value.hint


def test_a_ladder_refuses_to_start_from_a_run() -> None:
    with pytest.raises(UserError) as caught:
        make_plan("demo", ["lora"], {"model.from_run": "/runs/earlier"})
    assert caught.value.code == "ladder.from_run"


def test_a_plan_of_an_earlier_version_ships_nothing() -> None:
    rung = Rung(name="lora", config=resolve(Preset("demo", {}), "lora").config)
    table = msgspec.to_builtins(LadderPlan(preset="p", created=0, rungs=[rung], seeds=[0]))
    del table["ship"]
    assert msgspec.convert(table, LadderPlan).ship == []
