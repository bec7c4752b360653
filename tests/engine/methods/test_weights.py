"""The account of a model is what a training step does with its weights, for architectures of different mechanisms."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import tiny_configs
import torch
import transformers
from tiny_families import FAMILIES, VOCABULARY, family_config, made_family, store_in_mxfp4
from torch.nn.utils import parametrize
from transformers import AutoConfig
from transformers.quantizers.quantizers_utils import should_convert_module

from engine.config.errors import UserError
from engine.config.method_specs import method_spec
from engine.config.preset import Preset, resolve
from engine.config.schema import Config
from engine.export.merged import adapted_parameters, plain_model
from engine.memory.dry_run.dry_run import dry_run
from engine.memory.dry_run.fake_model import predict_account
from engine.memory.formula.estimate import StepShape
from engine.memory.formula.formula import formula
from engine.methods import method
from engine.methods.adapters import multiply_in_input_dtype, own_targets, save
from engine.methods.machine import Machine, this_machine
from engine.methods.qlora import unquantized_patterns
from engine.methods.weights import Weight, account_of, weights_of
from engine.runs.run.usage import left_out_share, left_out_warning

CPU = Machine("cpu", "CPU", bf16=True, flash_attention=False)
IDS = torch.randint(3, VOCABULARY, (2, 48), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each family."""
    by_family = {}
    for name in FAMILIES:
        by_family[name] = tmp_path_factory.mktemp(name.replace(" ", "-"))
        made_family(name).save_pretrained(by_family[name])
        (by_family[name] / "tokenizer_config.json").write_text("{}")
    return by_family


def config_of(folder: Path, name: str, **settings: Any) -> Config:
    values = {"model.id": str(folder)} | {key.replace("__", "."): value for key, value in settings.items()}
    return resolve(Preset("test", values), name).config


def ready(config: Config) -> Any:
    """A model that is ready for training; the second factors of adapters are not zero, so that both have gradients."""
    torch.manual_seed(1)
    model = method(config.method).make_trainable(method(config.method).load(config, CPU), config)
    for key, parameter in model.named_parameters():
        if ".lora_B." in key:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def backward(model: Any) -> None:
    model(input_ids=IDS, labels=IDS).loss.backward()


def has_gradient(parameter: torch.nn.Parameter) -> bool:
    return parameter.grad is not None and bool(parameter.grad.any())


def is_4_bit(weight: Weight) -> bool:
    return weight.parameter.dtype == torch.uint8 and weight.parameter.numel() * 2 == weight.shape.numel()


@pytest.mark.parametrize("name", ["qlora", "lora", "full"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_account_is_what_a_step_does(family: str, name: str, folders: dict[str, Path]) -> None:
    config = config_of(folders[family], name)
    model = ready(config)
    account, weights = account_of(model, config, "cpu"), list(weights_of(model))
    with torch.device("meta"):
        original = transformers.AutoConfig.from_pretrained(folders[family])
        whole = sum(parameter.numel() for parameter in made_class(original)(original).parameters())
    assert account.parameters == whole == sum(weight.shape.numel() for weight in weights)
    backward(model)
    adapters = {key: value for key, value in model.named_parameters() if ".lora_" in key}
    assert all(has_gradient(parameter) for parameter in adapters.values())
    assert sum(weight.adapted for weight in weights) * 2 == len(adapters)
    assert sum(value.numel() for value in adapters.values()) == account.adapters
    for weight in weights:
        trained = name == "full" and weight.part != "towers"
        assert weight.parameter.requires_grad == trained, weight.name
        if weight.part != "routers":  # phimoe's has none where it chooses one expert with certainty
            assert has_gradient(weight.parameter) == trained, weight.name
        assert weight.quantized == is_4_bit(weight), weight.name
        assert not (weight.adapted and weight.part == "towers"), weight.name
    assert account.trained == sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert predict_account(config, original, CPU) == account


def made_class(model_config: Any) -> Any:
    return getattr(transformers, model_config.architectures[0])


def test_what_is_left_out_is_warned_of(folders: dict[str, Path]) -> None:
    """Mamba's `out_proj` is read by a fused kernel; nothing of importance is left out of the others by LoRA."""
    warned = set()
    for family in FAMILIES:
        config = config_of(folders[family], "lora")
        account = predict_account(config, family_config(family), CPU)
        if left_out_warning(account, method_spec("lora")):
            warned.add(family)
        else:
            assert left_out_share(account, method_spec("lora")) < 0.05
    assert warned == {"mamba2", "falcon_h1", "nemotron_h"}


def test_modules_that_the_user_chose_do_not_warn(folders: dict[str, Path]) -> None:
    for targets in (["q_proj"], "model.*q_proj"):
        config = config_of(folders["granitemoe"], "qlora", adapter__target_modules=targets)
        account = predict_account(config, family_config("granitemoe"), CPU)
        assert {group.not_adapted for group in account.groups if group.part == "experts"} == {"not_targeted"}
        assert not left_out_warning(account, method_spec("qlora"))


@pytest.mark.parametrize("name", ["lora", "qlora"])
@pytest.mark.parametrize("targets", [["q_proj", "gate_up_proj"], ["q_proj", "gate_proj", "up_proj"]])
def test_named_experts_are_adapted(targets: list[str], name: str, folders: dict[str, Path]) -> None:
    model = ready(config_of(folders["gpt_oss"], name, adapter__target_modules=targets))
    adapted = {weight.leaf for weight in weights_of(model) if weight.adapted}
    assert adapted == {"q_proj", "gate_up_proj"}


@pytest.mark.parametrize("family", ["phimoe", "llama4", "gpt_oss"])
def test_named_routers_are_adapted_without_breaking(family: str, folders: dict[str, Path]) -> None:
    model = ready(config_of(folders[family], "lora", adapter__target_modules=["q_proj", "router"]))
    backward(model)
    assert {weight.leaf for weight in weights_of(model) if weight.adapted} == {"q_proj", "router"}
    routers = [value for key, value in model.named_parameters() if ".router.lora_" in key]
    assert routers and (family == "phimoe" or all(map(has_gradient, routers)))


@pytest.mark.parametrize("family", ["glm4_moe", "gpt_oss", "phimoe", "gemma3 with vision", "mistral3 with vision"])
def test_peft_by_itself_loads_the_adapter_onto_the_same_layers(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """It translates `gate_proj` of dense MLPs and shared experts to experts, where the saved names let it."""
    model = ready(config_of(folders[family], "lora", train__precision="fp32")).eval()
    save(model, tmp_path, None)
    saved = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(saved["target_modules"]) + len(saved["target_parameters"] or []) < 16  # ends of names, not all names
    base = made_class(transformers.AutoConfig.from_pretrained(folders[family])).from_pretrained(
        folders[family], dtype=torch.float32
    )
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    with torch.no_grad():
        expected, actual = model(input_ids=IDS).logits, again(input_ids=IDS).logits
        with again.disable_adapter():
            plain = again(input_ids=IDS).logits
    assert torch.allclose(actual, expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    assert float((expected - plain).abs().max()) > 0.1 * float(expected.abs().max())


def test_an_adapter_of_4_bit_experts_is_loaded_onto_them(folders: dict[str, Path], tmp_path: Path) -> None:
    config = config_of(folders["glm4_moe"], "qlora")
    model = ready(config).eval()
    save(model, tmp_path, None)
    with own_targets():
        again = peft.PeftModel.from_pretrained(method("qlora").load(config, CPU), tmp_path)
    with torch.no_grad():
        assert torch.equal(multiply_in_input_dtype(again).eval()(input_ids=IDS).logits, model(input_ids=IDS).logits)


@pytest.mark.parametrize("family", ["gpt_oss", "qwen2_moe", "glm4_moe"])
def test_an_adapter_of_4_bit_experts_is_that_of_a_16_bit_base(
    family: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    """As other libraries load it and as it is merged: every tensor gets the factors that were trained for it."""
    model = ready(config_of(folders[family], "qlora"))
    save(model, tmp_path, None)
    served = peft.PeftModel.from_pretrained(method("lora").load(config_of(folders[family], "lora"), CPU), tmp_path)
    trained, loaded = adapted_parameters(model), adapted_parameters(served)
    assert trained.keys() == loaded.keys() and any("experts" in name for name in trained)
    for name, (layer, _) in trained.items():
        for part in ("lora_A", "lora_B"):
            ours, theirs = (getattr(module, part)["default"].weight for module in (layer, loaded[name][0]))
            assert torch.equal(ours, theirs), name


@pytest.mark.parametrize(
    ("family", "leaf", "part", "reason"),
    [
        ("rwkv", "time_mix_key", "vectors", "no_adapter"),
        ("zamba", "x_proj_weight", "other", "no_adapter"),
        ("deepseek_v4", "o_a_proj", "layers", "read_directly"),
        ("bloom", "dense_4h_to_h", "layers", ""),
        ("falcon", "dense_4h_to_h", "layers", ""),
    ],
)
def test_what_is_no_plain_layer_gets_no_adapter(family: str, leaf: str, part: str, reason: str) -> None:
    """Three dimensions do not make experts, and not every subclass of Linear is a product."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(tiny_configs.family_config(family))
    parts = {(weight.part, weight.not_adaptable) for weight in weights_of(model) if weight.leaf == leaf}
    assert parts == {(part, reason)}


@pytest.mark.parametrize("name", ["qlora", "lora", "full"])
def test_experts_in_mxfp4_are_trained_as_their_values_in_16_bits(
    name: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    store_in_mxfp4(folders["gpt_oss"], tmp_path / "stored", tmp_path / "plain")
    stored, plain = (ready(config_of(tmp_path / folder, name)) for folder in ("stored", "plain"))
    weights, expected = stored.state_dict(), plain.state_dict()
    assert weights.keys() == expected.keys()
    assert [key for key, value in weights.items() if not torch.equal(value, expected[key])] == []
    assert torch.equal(stored(input_ids=IDS).logits, plain(input_ids=IDS).logits)
    config = config_of(tmp_path / "stored", name)
    assert account_of(stored, config, "cpu") == predict_account(
        config, AutoConfig.from_pretrained(tmp_path / "stored"), CPU
    )


@pytest.mark.parametrize("family", ["gpt_oss", "qwen2_moe"])
def test_4_bit_experts_compute_with_their_dequantized_values(family: str, folders: dict[str, Path]) -> None:
    """Loss and gradients are those of plain tensors, also in the second step and with activation checkpointing."""
    config = config_of(folders[family], "qlora", train__precision="fp32")
    model, plain = ready(config), ready(config)
    for module in plain.modules():
        if module.__class__.__name__ == "FourBitExperts":
            module.__class__ = peft.tuners.lora.layer.ParamWrapper
    for module in list(plain.modules()):
        for key in list(getattr(module, "parametrizations", {})):
            values = getattr(module, key).clone()
            parametrize.remove_parametrizations(module, key, leave_parametrized=False)
            module._parameters[key] = torch.nn.Parameter(values, requires_grad=False)
    for network in (plain, model):
        backward(network)
    expected = {key: value.grad for key, value in plain.named_parameters() if value.grad is not None}
    for again in (False, True):
        gradients = {key: value.grad for key, value in model.named_parameters() if value.grad is not None}
        assert gradients.keys() == expected.keys()
        assert all(torch.allclose(gradients[key], expected[key], rtol=1e-4, atol=1e-6) for key in expected)
        if not again:
            model.zero_grad()
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
            model.enable_input_require_grads()
            backward(model)
    assert not parametrize._cache and not parametrize._cache_enabled


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_memory_of_adapted_and_4_bit_experts(name: str) -> None:
    """The formula is within 8% of the dry run, with and without activation checkpointing."""
    shape = transformers.Qwen3MoeConfig(
        vocab_size=1024, hidden_size=256, intermediate_size=512, moe_intermediate_size=256, num_hidden_layers=2,
        num_attention_heads=8, num_key_value_heads=4, head_dim=32, num_experts=8, num_experts_per_tok=2,
    )  # fmt: skip
    rows = StepShape(count=4, length=64, answer=32)
    for checkpointing in (False, True):
        settings = {"train.micro_batch": 4, "train.batch": 4, "train.gradient_checkpointing": checkpointing}
        config = resolve(Preset("test", {**settings, "evaluation.metric": "loss"}), name).config
        exact, quick = dry_run(config, shape, CPU, rows), formula(config, shape.to_dict(), "cpu", rows, CPU.bf16)
        assert quick.training.total == pytest.approx(exact.training.total, rel=0.08)
        assert quick.training.parts["weights"] == pytest.approx(exact.training.parts["weights"], rel=0.01)


def test_adapters_of_another_method_of_peft_are_counted_as_adapters() -> None:
    config = Config()
    base = method("lora").load(config, this_machine())
    model = peft.get_peft_model(base, peft.VeraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    account = account_of(model, config, "cpu")
    assert account.adapters == account.trained == trained > 0
    assert {weight.leaf for weight in weights_of(model) if weight.adapted} == {"q_proj"}
    with pytest.raises(UserError) as refused:
        adapted_parameters(model)
    assert refused.value.code == "export.cannot_merge"


@pytest.mark.parametrize("family", ["gemma4", "nemotron_h", "qwen3_5_moe", "deepseek_v3"])
@pytest.mark.parametrize("on_cpu", [True, False])
def test_transformers_alone_quantizes_the_same_layers_with_the_patterns_of_a_card(family: str, on_cpu: bool) -> None:
    model = plain_model(tiny_configs.family_config(family))
    patterns = unquantized_patterns(model, on_cpu)
    linear = {weight.module: weight.not_quantizable(on_cpu) for weight in weights_of(model) if weight.is_linear}
    assert {name for name in linear if not should_convert_module(name, patterns)} == set(filter(linear.get, linear))
    assert set(linear.values()) > {""} and len(patterns) < len(linear) / 2
