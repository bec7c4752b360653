"""rsLoRA, DoRA and LoRA+ as rungs: their settings, what PEFT is given, and the learning rates of the matrices."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from command import MICRO, ON_SMALL, only_run
from forked import ftbench
from peft import PeftModel
from transformers import AutoModelForCausalLM

from engine.assets import tiny_folder
from engine.config import schema
from engine.config.errors import UserError
from engine.config.preset_library import resolve_preset
from engine.config.schema import Config
from engine.ladder.phrases import rung_title
from engine.methods.adapters import add_adapters, save, save_initial_adapter
from engine.methods.machine import this_machine
from engine.methods.optimizers import make_optimizer
from engine.runs.ladder.ladder_plan import make_plan


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
    assert getattr(model.peft_config["default"], option) is True


def config_with(ratio: float) -> Config:
    return resolve_preset("demo", "lora", {"adapter.lora_plus_ratio": ratio, "train.learning_rate": 1e-3}).config


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
    now = {name: p.detach() for name, p in model.named_parameters()}
    moved = max(float((now[name] - value).abs().max()) for name, value in before.items())
    assert moved == pytest.approx(1.6e-2, rel=0.05)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        values: torch.Tensor = model(input_ids=torch.arange(1, 9)[None]).logits
    return values


def base() -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_pretrained(tiny_folder(), dtype=torch.float32)
    return model


def test_pissa_is_saved_as_an_adapter_of_the_original_base(tmp_path: Path) -> None:
    before = logits(base())
    model = adapted(schema.Adapter(rank=4, alpha=4, init="pissa"))
    save_initial_adapter(model, tmp_path / "initial")
    assert torch.allclose(logits(model), before, atol=1e-4)
    factors = [parameter for name, parameter in model.named_parameters() if "lora_" in name]
    assert all(parameter.abs().max() > 0 for parameter in factors)  # B is not zero
    with torch.no_grad():
        for parameter in factors:
            parameter.add_(0.01 * torch.randn_like(parameter))
    trained = logits(model)
    assert not torch.allclose(trained, before, atol=1e-3)
    save(model, tmp_path / "model", tmp_path / "initial")
    loaded = PeftModel.from_pretrained(base(), str(tmp_path / "model"))
    assert loaded.peft_config["default"].r == 8
    assert torch.allclose(logits(loaded), trained, atol=1e-4)


def test_pissa_is_refused_for_a_quantized_base_and_for_a_started_run() -> None:
    for method, settings, code in (
        ("qlora", {}, "preset.pissa_quantized"),
        ("lora", {"model.from_run": "/some/run"}, "preset.pissa_from_run"),
    ):
        with pytest.raises(UserError) as refused:
            resolve_preset("demo", method, {"adapter.init": "pissa", **settings})
        assert refused.value.code == code and "adapter.init" in refused.value.location
    assert make_plan("demo", ["pissa", "full"], {}).rungs[0].config.adapter.init == "pissa"
    assert rung_title("pissa") == "PiSSA"


def test_a_pissa_run_gives_an_adapter_that_scores_as_it_did_in_training(tmp_path: Path) -> None:
    settings = [*MICRO, *ON_SMALL, "--set", "adapter.init=pissa", "--set", "adapter.rank=4"]
    done = ftbench("run", "demo-lora", *settings, "--set", "evaluation.when=after", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    run = only_run(tmp_path)
    assert json.loads((run / "model" / "adapter_config.json").read_text())["r"] == 8
    exported = ftbench("export", "--to", "merged", "--type", "f32", "--json")
    assert exported.returncode == 0, exported.stdout + exported.stderr  # checked on the test rows
