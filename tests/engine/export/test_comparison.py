"""Differences between an artifact and its run, and the outcome that follows from them."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import torch
import transformers
from made_ladder import made_ladder
from made_runs import write_predictions
from message_parts import figures
from tiny_configs import family_config

from engine.config.errors import UserError
from engine.config.metric_specs import metric_spec
from engine.config.preset_library import resolve_preset
from engine.data.rows import IGNORE_INDEX, Row
from engine.export.artifact_check import ArtifactCheck, CheckJob, compare_logits, logits_and_experts
from engine.export.comparison import difference_of, gain_of_run
from engine.runs.run import run_dir
from engine.runs.run.exports import Fidelity, fidelity_outcome
from engine.runs.run.predictions import ScoredItem
from engine.runs.run.result import Interval, Score
from engine.runs.run.run_dir import RunDir
from engine.runs.score_format import outcome_sentence


def items(scores: list[float]) -> list[ScoredItem]:
    return [ScoredItem.of((1.0, 1, 1), scores={"json": score}) for score in scores]


@pytest.mark.parametrize(
    ("count", "outcome", "said"),
    [
        (0, "undecided", []),
        (5, "undecided", ["5", "6"]),  # an interval needs 6
        (50, "undecided", ["50", "2"]),  # the margin is 2 points
        (120, "undecided", ["120", "2"]),  # Tango: up to 3.84 / 123.84 = 3.1 points
        (200, "pass", ["2"]),
    ],
)
def test_equal_scores_of_few_items_do_not_pass(count: int, outcome: str, said: list[str]) -> None:
    scored = items([1.0] * count)
    difference = difference_of(scored, scored, "json")
    assert fidelity_outcome(difference, metric_spec("json"), 0.02, []) == outcome
    known = {"run": "a", "kind": "merged", "type": "f32", "model": "tiny", "metric": "json", "device": "CPU"}
    check = msgspec.convert({**known, "margin": 0.02, "outcome": outcome}, Fidelity)
    check.difference = difference
    assert outcome_sentence(check).startswith(f"{outcome}: ") and figures(outcome_sentence(check)) == said


def test_a_gate_without_predictions_names_the_file(tmp_path: Path) -> None:
    _, state = made_ladder(tmp_path / "runs")
    run = RunDir(tmp_path / "runs" / state.entries[-1].run)
    result = run.result()
    assert result
    score = Interval(mean=0.5, low=0.4, high=0.6, rows=9)
    result.after = Score(loss=score, perplexity=None, score=score, metric="json")
    run_dir.write_result(run, result)
    run.predictions_file.write_text("{damaged")
    with pytest.raises(UserError) as refused:
        gain_of_run(run, None, None)
    assert (refused.value.code, refused.value.location) == ("gate.no_predictions", str(run.predictions_file))
    result.after = None
    run_dir.write_result(run, result)
    with pytest.raises(UserError) as refused:
        gain_of_run(run, None, None)
    assert refused.value.code == "gate.no_scores"


@pytest.mark.parametrize("damage", ["half", "twice", "unscored base", "repeated item"])
def test_a_gain_needs_the_scores_of_all_test_items(damage: str, tmp_path: Path) -> None:
    run = run_dir.create(tmp_path, "demo-lora", resolve_preset("demo-lora", "lora", {}))
    result = run_dir.blank_result(run, run_dir.read_frozen(run))
    score = Interval(mean=0.5, low=0.4, high=0.6, rows=40)
    result.status, result.metric = "finished", "exact_match"
    result.after = Score(loss=score, perplexity=None, score=score, metric="exact_match")
    run_dir.write_result(run, result)
    write_predictions(run, "lora", 0, hostile=False, base=True)
    assert gain_of_run(run, None, None).gain.rows == 40
    lines = run.predictions_file.read_text().splitlines()
    if damage == "unscored base":
        whole = [json.loads(text) for text in lines]
        lines = [json.dumps({**line, "base": {**line["base"], "scores": None}}) for line in whole]
    damaged = {"half": lines[:20], "twice": lines * 2, "repeated item": lines[:1] * 40}.get(damage, lines)
    run.predictions_file.write_text("\n".join([*damaged, ""]))
    with pytest.raises(UserError) as refused:
        gain_of_run(run, None, None)
    assert refused.value.code == "gate.no_predictions"


def test_a_score_that_is_not_finite_gives_no_outcome() -> None:
    difference = difference_of(items([1.0] * 120), items([float("nan")] * 120), "json")
    assert (
        difference
        and difference.mean is None
        and fidelity_outcome(difference, metric_spec("json"), 0.02, []) == "undecided"
    )


def test_logits_are_also_compared_where_rounding_changes_no_expert(tmp_path: Path) -> None:
    ids = torch.randint(5, 500, (4, 24), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [Row(row, [IGNORE_INDEX] * 4 + row[4:], row[:4], "", "", False) for row in ids]
    scored: Any = SimpleNamespace(items=[], rows=SimpleNamespace(validation=rows, train=[]))
    checked = ArtifactCheck()

    def check(kind: str, model: torch.nn.Module) -> None:
        job = CheckJob(run="", kind=kind, logits=str(tmp_path / "logits.safetensors"))
        compare_logits(lambda row: logits_and_experts(model, row, 0, "cpu"), scored, job, checked)

    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(family_config("qwen3_moe"), dtype=torch.float32).eval()
    router = dict(model.named_parameters())["model.layers.1.mlp.gate.weight"].data
    router[1] = router[0]  # two experts with the same score, but for rounding
    router[1, 0] += 1e-5
    check("run", model)
    check("merged", model)
    assert (checked.experts_changed, checked.logits_with_same_experts) == (0, 64)
    router[1, 0] -= 2e-5
    check("merged", model)
    same, largest = checked.logit_difference_with_same_experts, checked.largest_logit_difference
    assert checked.experts_changed and 0 < checked.logits_with_same_experts < checked.logits_compared == 64
    assert same is not None and largest is not None and same < 1e-4 < 1e-2 < largest
