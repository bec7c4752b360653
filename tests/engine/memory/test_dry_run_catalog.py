"""The formula agrees with the dry run for the model types of the catalog."""

from __future__ import annotations

from typing import Any

import pytest
from tiny_configs import family_config, installed_families
from transformers import AutoConfig

from engine.config.catalog import CATALOG
from engine.config.errors import UserError
from engine.config.preset import Preset, resolve
from engine.memory.dry_run import dry_run as dry_run_module
from engine.memory.dry_run.dry_run import NO_DRY_RUN, dry_run
from engine.memory.formula.architecture import WITHOUT_SDPA
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.methods.loading import model_class
from engine.methods.machine import Machine

GPU = Machine("cuda", "a listed GPU", bf16=True, flash_attention=False)


TWO_PERIODS = {"num_hidden_layers": 12}
"""Of five layers with a sliding window and one without, whose repetition a dry run of so few periods does not use."""


@pytest.mark.parametrize(
    ("model", "method", "changes"),
    [
        ("qwen3-0.6b", "lora", {}),
        ("qwen3-0.6b", "full", {}),
        ("gemma-3-1b", "lora", TWO_PERIODS),
        ("gemma-3-1b", "full", TWO_PERIODS),
        ("gemma-4-e4b", "lora", {**TWO_PERIODS, "num_kv_shared_layers": 6}),
    ],
)
def test_the_formula_agrees_with_the_dry_run(model: str, method: str, changes: dict[str, int]) -> None:
    """On norms of heads and outputs, sliding windows shorter than the rows, and embeddings of each layer."""
    shape, rows = fewer_layers(CATALOG[model].shape, changes), StepShape(count=4, length=2048, answer=2047)
    values = {"train.micro_batch": 2, "train.gradient_checkpointing": False, "evaluation.metric": "loss"}
    config = resolve(Preset("test", values), method).config
    exact = dry_run(config, AutoConfig.for_model(**shape), GPU, rows).training.total
    assert formula(config, shape, "cuda", rows).training.total == pytest.approx(exact, rel=0.05)


def test_logits_of_a_model_that_scales_them_are_never_whole() -> None:
    """All tokens are in the loss: whole logits would take more memory than everything else."""
    shape = fewer_layers(CATALOG["granite-4.0-1b"].shape, TWO_PERIODS)
    rows = StepShape(count=4, length=2048, answer=2048)
    values = {"train.micro_batch": 4, "train.gradient_checkpointing": True, "evaluation.metric": "loss"}
    config = resolve(Preset("test", values), "qlora").config
    exact = [
        dry_run(config, AutoConfig.for_model(**shape, logits_scaling=scaling), GPU, rows) for scaling in (1.0, 8.0)
    ]
    assert exact[0].training == exact[1].training and exact[0].held_out == exact[1].held_out
    assert formula(config, shape, "cuda", rows).training.total == pytest.approx(exact[0].training.total, rel=0.05)


def fewer_layers(shape: dict[str, Any], changes: dict[str, int]) -> dict[str, Any]:
    """A shape with these numbers of layers, also where its text model has them."""
    if "text_config" in shape:
        return {**shape, "text_config": fewer_layers(shape["text_config"], changes)}
    kinds = shape.get("layer_types")
    return {**shape, **changes, **({"layer_types": kinds[: changes["num_hidden_layers"]]} if kinds and changes else {})}


@pytest.mark.parametrize(
    ("model", "layers", "length", "prompts"), [("gpt-oss-20b", 2, 2048, 32), ("qwen3.5-0.8b", 4, 256, 16)]
)
def test_the_formula_agrees_where_attention_has_no_kernel(model: str, layers: int, length: int, prompts: int) -> None:
    """On training, losses and answers where all scores are computed, experts copied, or tokens mixed otherwise."""
    shape = fewer_layers(CATALOG[model].shape, {"num_hidden_layers": layers})
    rows = StepShape(count=8, length=length, answer=length - 1)
    values = {"train.micro_batch": 4, "evaluation.metric": "exact_match", "evaluation.batch": prompts}
    config = resolve(Preset("test", values), "lora").config
    exact, estimate = dry_run(config, AutoConfig.for_model(**shape), GPU, rows), formula(config, shape, "cuda", rows)
    for stage in ("training", "held_out", "answering"):
        assert getattr(estimate, stage).total == pytest.approx(getattr(exact, stage).total, rel=0.06), stage


def test_the_formula_knows_which_attention_has_no_kernel() -> None:
    """By transformers' classes; recurrent ones have no attention."""
    classes = {kind: model_class(family_config(kind)) for kind in installed_families() if kind != "gemma3n"}
    without = {kind for kind, model_type in classes.items() if model_type is not None and not model_type._supports_sdpa}
    assert without - {"falcon_mamba", "mamba", "mamba2", "rwkv", "xlstm"} == WITHOUT_SDPA


def test_a_dry_run_that_would_take_too_long_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run_module, "MAX_OPERATIONS", 20_000)
    shape, rows = CATALOG["qwen3.5-0.8b"].shape, StepShape(count=2, length=2048, answer=2047)
    config = resolve(Preset("test", {"evaluation.metric": "loss"}), "lora").config
    with pytest.raises(UserError) as caught:
        dry_run(config, AutoConfig.for_model(**shape), GPU, rows)
    assert caught.value.code == NO_DRY_RUN
