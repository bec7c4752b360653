"""Scores that a metric cannot have are refused by every reader of `predictions.jsonl`, with line and metric."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from engine.config.errors import UserError
from engine.config.metric_specs import BUILT_IN, metric_spec
from engine.ladder.results import read_prediction_lines
from engine.runs.run.predictions import (
    PredictionLine,
    ScoredItem,
    Who,
    damage_of,
    read_predictions,
    recorded_lines,
    write_predictions,
)

METRICS = ["loss", *(spec.name for spec in BUILT_IN if not spec.is_loss)]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("who", ["base", "tuned"])
def test_a_score_outside_the_bounds_of_its_metric_is_refused(metric: str, who: Who, tmp_path: Path) -> None:
    file, bounds = tmp_path / "predictions.jsonl", metric_spec(metric).bounds
    possible = ScoredItem(output="", scores=None)

    def write(value: float) -> None:
        scores: dict[str, Any] = {"nll": value, "scores": None} if metric == "loss" else {"scores": {metric: value}}
        items = {"base": possible, "tuned": possible, who: ScoredItem(output="", **scores)}
        lines = [PredictionLine(item=number, prompt="", target="", **items) for number in range(2)]
        lines[0].base = lines[0].tuned = possible
        write_predictions(file, lines)

    for bound in filter(math.isfinite, bounds):
        write(bound)
        assert len(list(read_predictions(file))) == 2 and not damage_of(file)
    for value in (-0.01, *([1.01, 7.0] if math.isfinite(bounds[1]) else [])):
        write(value)
        with pytest.raises(UserError) as refused:
            read_prediction_lines(file, who)
        assert str(file) in refused.value.line and f"line 2: {metric} is {value:g}" in refused.value.line
        assert f"line 2: {metric} is {value:g}" in damage_of(file) and not recorded_lines(file)
