"""Peaks extrapolated from a few layers equal those of the complete model, to the byte."""

from __future__ import annotations

import pytest
import transformers
from deep_models import CPU, GPU, SAMPLE, SHAPES, SIZES, Case, all_layers, planned

from engine.config.device_defaults import OFFLOADED, RECOMPUTING, ActivationCheckpointing, resolve_checkpointing
from engine.config.preset import Preset, resolve
from engine.memory.dry_run.fake_model import bare_model
from engine.memory.dry_run.layer_pattern import LayerPattern, layer_pattern


@pytest.mark.parametrize("case", SAMPLE, ids=lambda case: "-".join(map(str, case)))
def test_a_few_layers_give_the_peak_of_all(case: Case) -> None:
    model = bare_model(resolve(Preset("test", {}), case.method).config, SHAPES[case.shape](), case.machine)
    assert layer_pattern(model, resolve_checkpointing(case.checkpointing, case.machine.device))
    few = case.planned()
    with all_layers():
        assert few == case.planned()
    assert (few.answering is None) == (case.metric == "loss")


@pytest.mark.parametrize(("precision", "metric"), [("mixed", "loss"), ("bf16", "choice")])
def test_other_precisions_too(precision: str, metric: str) -> None:
    how = {"train.precision": precision, "evaluation.metric": metric}
    assert layer_pattern(bare_model(resolve(Preset("test", {})).config, SHAPES["llama"](), CPU))
    few = planned(SHAPES["llama"](), "full", False, CPU, **how)
    with all_layers():
        assert few == planned(SHAPES["llama"](), "full", False, CPU, **how)


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        ("llama", LayerPattern(6, 0, 1)),
        ("two windows, then all", LayerPattern(20, 0, 3)),
        ("dense layers first", LayerPattern(10, 2, 1)),
    ],
)
def test_the_layer_pattern_is_found(name: str, depth: LayerPattern) -> None:
    config = resolve(Preset("test", {}), "full").config
    assert layer_pattern(bare_model(config, SHAPES[name](), CPU)) == depth


def test_layers_that_recompute_are_another_kind() -> None:
    config = resolve(Preset("test", {}), "full").config
    assert layer_pattern(bare_model(config, SHAPES["25 layers"](), CPU), ActivationCheckpointing(4)) == LayerPattern(
        25, 0, 4
    )


def test_memory_falls_from_choice_to_choice() -> None:
    choices = [choice.setting for choice in (*RECOMPUTING, OFFLOADED)]
    how = {"evaluation.metric": "loss"}
    peaks = [planned(SHAPES["llama"](), "lora", choice, GPU, **how).training.total for choice in choices]
    assert peaks == sorted(peaks, reverse=True) and len(set(peaks)) == len(peaks)


def test_a_shallow_model_is_not_extrapolated() -> None:
    config = resolve(Preset("test", {}), "full").config
    shape = transformers.LlamaConfig(**SIZES, num_hidden_layers=3)
    assert layer_pattern(bare_model(config, shape, CPU)) is None
