"""The formula agrees with the dry run for the model types of the catalog."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from engine.config.catalog import CATALOG
from engine.config.preset import Preset, resolve
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.methods.machine import Machine

GPU = Machine("cuda", "a listed GPU", bf16=True, flash_attention=False)


@pytest.mark.parametrize(
    ("model", "method"),
    [("qwen3-0.6b", "lora"), ("qwen3-0.6b", "full"), ("gemma-3-1b", "lora"), ("gemma-3-1b", "full"),
     ("gemma-4-e4b", "lora")],
)  # fmt: skip
def test_the_formula_agrees_with_the_dry_run(model: str, method: str) -> None:
    """On norms of heads and outputs, sliding windows shorter than the rows, and embeddings of each layer."""
    shape, rows = CATALOG[model].shape, StepShape(count=4, length=2048, answer=2047)
    values = {"train.micro_batch": 2, "train.gradient_checkpointing": False, "evaluation.metric": "loss"}
    config = resolve(Preset("test", values), method).config
    exact = dry_run(config, AutoConfig.for_model(**shape), GPU, rows).training.total
    assert formula(config, shape, "cuda", rows).training.total == pytest.approx(exact, rel=0.05)
