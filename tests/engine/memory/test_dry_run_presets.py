"""Dry runs of presets and catalog models of which the formula alone cannot say that they fit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from gpu_sizes import FITS_BY_DRY_RUN, TIGHT_BY_DRY_RUN, smallest_of

from engine.config.catalog import CATALOG
from engine.config.preset import Preset, resolve
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.config.settings import with_settings
from engine.memory.dry_run.plan import plan_methods
from engine.memory.formula.method_plan import MethodPlan, PlanQuery


def planned(config: Config, model: str, size: int, folder: Path) -> MethodPlan:
    """The plan by a dry run, with this catalog model and rows as long as the configuration allows."""
    (folder / "config.json").write_text(json.dumps(CATALOG[model].shape))
    config = with_settings(config, {"model.id": str(folder)})
    query = PlanQuery(configs=[config], budget=smallest_of(size), length=config.train.max_length)
    (plan,) = plan_methods(query, lambda text: None).methods
    return plan


@pytest.mark.parametrize(
    ("model", "method", "size", "fit"),
    [(*case, "fits") for case in FITS_BY_DRY_RUN] + [(*case, "tight") for case in TIGHT_BY_DRY_RUN],
)
def test_the_dry_run_decides_what_the_formula_calls_tight(
    model: str, method: str, size: int, fit: str, tmp_path: Path
) -> None:
    config = resolve(Preset("test", {"train.max_length": 2048}), method).config
    plan = planned(config, model, size, tmp_path)
    assert plan.dry_run and plan.fit == fit


def test_optimizer_state_is_not_paged_where_the_dry_run_fits(tmp_path: Path) -> None:
    """As the run decides, by its dry run; the formula calls it tight."""
    values = {"optimizer.step_in_backward": False, "optimizer.rounding": "remainder"}
    plan = planned(resolve_preset("80gb-full", None, values).config, "qwen3-8b", 80, tmp_path)
    assert plan.dry_run and plan.fit == "fits"
    assert plan.dry_run.gradient_checkpointing is True
    assert (plan.optimizer, plan.dry_run.paged) == ("adamw_8bit", False)
