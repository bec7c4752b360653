"""Dry runs of presets and catalog models of which the formula alone cannot say that they fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpu_sizes import smallest_of

from engine.config.catalog import CATALOG
from engine.config.preset_library import effective
from engine.memory.dry_run.plan import plan
from engine.memory.formula.method_plan import PlanQuery


@pytest.mark.parametrize(
    ("preset", "model", "size"),
    [
        ("48gb-full", "qwen3-4b", 48),
        ("80gb-full", "qwen3-8b", 80),
        ("qwen2.5-7b-full", "qwen2.5-7b", 80),
        ("80gb-full", "llama-3.1-8b", 80),
        ("80gb-full", "qwen3-14b", 141),
    ],
)
def test_full_fine_tuning_that_the_formula_calls_tight_fits(preset: str, model: str, size: int, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CATALOG[model].shape))
    config = effective(preset, None, {"model.id": str(tmp_path)}).config
    query = PlanQuery(configs=[config], budget=smallest_of(size), length=config.train.max_length)
    (found,) = plan(query, lambda text: None).methods
    assert found.dry_run and found.fit == "fits"
    assert found.dry_run.gradient_checkpointing is True
