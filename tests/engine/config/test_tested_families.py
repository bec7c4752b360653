"""The families that ftbench was tested with are those of the installed transformers, or a plan says that one is not."""

from __future__ import annotations

import json

import pytest
import tiny_configs
import transformers
from tiny_configs import installed_families

from engine.config import model_config
from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.method_specs import method_names
from engine.config.model_config import family_rows, untested_family
from engine.config.model_files import ModelFiles
from engine.config.preset import Preset, resolve
from engine.memory.dry_run import plan as plan_module
from engine.memory.formula.architecture import NO_FORMULA, read_architecture
from engine.memory.formula.memory_budget import listed_budget
from engine.memory.formula.method_plan import PlanQuery, quick_plan
from engine.methods.machine import Machine
from engine.worker.checks import refuse_model
from tui.cli.plan_view import PlanView
from tui.preview.method_estimate import method_estimates
from tui.selection import Selection


def test_every_family_of_transformers_is_tested_or_listed_as_untested() -> None:
    """With another version than the matrix was made with, new families are only reported."""
    unknown = set(installed_families()) - set(family_rows()) - set(model_config.tested_with()["untested"])
    if transformers.__version__ != model_config.tested_with()["transformers"]:
        pytest.skip(f"run tools/families.py for transformers {transformers.__version__}; new: {sorted(unknown)}")
    assert unknown == set()


@pytest.mark.parametrize("name", CATALOG)
def test_the_families_of_the_catalog_are_tested(name: str) -> None:
    assert untested_family(CATALOG[name].shape) == ""


def test_a_plan_says_that_a_family_is_not_tested() -> None:
    shape = dict(CATALOG["qwen3-0.6b"].shape)
    query = PlanQuery(configs=[resolve(Preset("test", {}), "lora").config], budget=listed_budget("L4 24GB"), length=64)

    def notes(kind: str) -> list[str]:
        return [
            note for note in quick_plan(query, {**shape, "model_type": kind}).notes if "have not been tested" in note
        ]

    assert notes("qwen3") == []
    (note,) = notes("qwen99")
    assert "qwen99" in note


def test_a_plan_says_what_of_a_family_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    fine = {name: {"state": "ok"} for name in method_names()}
    rows = {
        "right": {**fine, "resume": {"resume": "equal to the bit"}, "merged": {"merged": "equal"}},
        "forgets": {**fine, "resume": {"resume": "[1.0] and [2.0]"}},
        "breaks": {**fine, "merged": {"state": "error", "error": "RuntimeError: sizes"}},
    }
    monkeypatch.setattr("engine.config.model_config.family_rows", lambda: rows)
    assert untested_family({"model_type": "right"}) == ""
    assert "resume" in untested_family({"model_type": "forgets"})
    assert "merged: RuntimeError: sizes" in untested_family({"model_type": "breaks"})


def test_a_method_that_failed_is_refused_with_that_version_of_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    budget, fine = listed_budget("L4 24GB"), {"state": "ok"}
    fails = {"state": "error", "error": "KeyError: weight"}
    monkeypatch.setattr(
        "engine.config.model_config.family_rows",
        lambda: {"llama": {"qlora": fails, "lora": fine, "full": fine}},
    )
    monkeypatch.setattr(
        "engine.config.model_config.tested_with", lambda: {"transformers": transformers.__version__, "untested": []}
    )
    shape = transformers.LlamaConfig()
    monkeypatch.setattr(plan_module, "model_config_of", lambda model: (shape, "a shape"))

    def refusals(name: str) -> list[str]:
        chosen = resolve(Preset("test", {}), name).config
        query = PlanQuery(configs=[chosen], budget=budget, length=64)
        codes = []
        for check in (
            lambda: quick_plan(query, shape.to_dict()),
            lambda: refuse_model(chosen, shape, Machine("cpu", "CPU", bf16=True, flash_attention=False)),
        ):
            try:
                check()
            except UserError as error:
                codes.append(error.code)
                assert "lora or full" in error.hint
        return codes

    ordinary = Preset("test", {"optimizer.step_in_backward": False, "optimizer.name": "adamw_8bit"})
    configs = [resolve(ordinary, name).config for name in method_names()]
    with pytest.raises(UserError) as refused:
        plan_module.plan_methods(PlanQuery(configs=configs[:1], budget=budget, length=64), lambda *told: None)
    assert refused.value.code == "model.family_fails"
    compared = PlanQuery(configs=configs, qlora=configs[0], budget=budget, length=64)
    whole = quick_plan(compared, shape.to_dict())
    assert [method.method for method in whole.methods] == ["lora", "full"]
    assert [(method.method, method.code) for method in whole.refused] == [("qlora", "model.family_fails")]
    (full,) = (method for method in whole.methods if method.method == "full")
    assert full.fit == "does not fit" and not any("method" in change.settings for change in full.changes)
    estimates = method_estimates(Selection("smollm2-lora"), ModelFiles(table=shape.to_dict()), budget)
    assert [estimate.fit == "refused" for estimate in estimates] == [True, False, False]
    monkeypatch.setattr(plan_module, "_method_plan", lambda config, *given: full)
    dry = plan_module.plan_methods(compared, lambda *told: None)
    assert (len(dry.methods), dry.refused) == (2, whole.refused)
    lines = [line.plain for line in PlanView(80, colored=False).bars(whole, configs[0], "test")]
    assert [line.split()[2] for line in lines if line.startswith("QLoRA")] == ["refused"]
    assert refusals("qlora") == ["model.family_fails"] * 2
    assert refusals("lora") == refusals("full") == []
    monkeypatch.setattr("engine.config.model_config.tested_with", lambda: {"transformers": "5.0.0", "untested": []})
    assert refusals("qlora") == []


@pytest.mark.parametrize("family", ["xglm", *sorted(NO_FORMULA)])
def test_a_tested_family_is_planned_or_known_to_have_no_formula(family: str) -> None:
    shape = tiny_configs.family_config(family).to_dict()
    if family not in NO_FORMULA:
        assert read_architecture(shape).layers == shape["num_layers"]
        return
    with pytest.raises(UserError) as refused:
        read_architecture(shape)
    assert refused.value.code == "model.no_formula"


def test_rows_have_all_checks() -> None:
    for family, row in family_rows().items():
        assert "state" in row or {*method_names(), "class", "parameters"} <= row.keys(), family
        assert json.dumps(row)
