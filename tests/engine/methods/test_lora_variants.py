"""rsLoRA, DoRA and LoRA+ as rungs: their settings, what PEFT is given, and the learning rates of the matrices."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine.assets import tiny_folder
from engine.config import schema
from engine.config.preset_library import effective
from engine.config.schema import Config
from engine.ladder.format import rung_title
from engine.methods.adapters import add_adapters
from engine.methods.machine import this_machine
from engine.methods.optimizers import make_optimizer
from engine.runs.ladder_plan import make_plan


def adapted(adapter: schema.Adapter) -> torch.nn.Module:
    torch.manual_seed(0)
    return add_adapters(AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32), adapter)


def test_variants_are_rungs_of_lora_with_their_setting() -> None:
    plan = make_plan("demo", ["lora", "rslora", "dora", "lora-plus", "wide=rslora,adapter.rank=64"], {})
    rungs = {rung.name: rung for rung in plan.rungs}
    assert all(rung.method == "lora" for rung in rungs.values())
    assert rungs["rslora"].config.adapter.rslora and rungs["dora"].config.adapter.dora
    assert rungs["lora-plus"].config.adapter.lora_plus_ratio == 16
    assert rungs["wide"].config.adapter.rslora and rungs["wide"].config.adapter.rank == 64
    assert [rung_title(name) for name in rungs] == ["LoRA", "rsLoRA", "DoRA", "LoRA+", "wide"]


@pytest.mark.parametrize(("setting", "option"), [("rslora", "use_rslora"), ("dora", "use_dora")])
def test_peft_is_given_the_option(setting: str, option: str) -> None:
    model = adapted(schema.Adapter(**{setting: True}))
    assert getattr(model.peft_config["default"], option) is True  # type: ignore[index, union-attr]


def config_with(ratio: float) -> Config:
    return effective("demo", "lora", {"adapter.lora_plus_ratio": ratio, "train.learning_rate": 1e-3}).config


def test_lora_plus_multiplies_the_learning_rate_of_b_only() -> None:
    config = config_with(16.0)
    model = adapted(config.adapter)
    optimizer, _ = make_optimizer(model.parameters(), config, this_machine(), lambda code, text: None)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1.6e-2 if "lora_B" in name else 1e-3), name
    assert optimizer.param_groups[0]["lr"] == 1e-3  # the rate that is logged


def test_without_a_ratio_there_is_one_group() -> None:
    config = config_with(1.0)
    model = adapted(config.adapter)
    optimizer, _ = make_optimizer(model.parameters(), config, this_machine(), lambda code, text: None)
    assert [group["lr"] for group in optimizer.param_groups] == [1e-3]


def test_a_step_moves_b_by_its_own_rate() -> None:
    """The first step of AdamW moves each weight by its learning rate."""
    config = config_with(16.0)
    model = adapted(config.adapter)
    optimizer, _ = make_optimizer(model.parameters(), config, this_machine(), lambda code, text: None)
    ids = torch.arange(1, 9)[None]
    before = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_B" in name}
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    moved = max(float((p - before[name]).abs().max()) for name, p in model.named_parameters() if name in before)
    assert moved == pytest.approx(1.6e-2, rel=0.05)
