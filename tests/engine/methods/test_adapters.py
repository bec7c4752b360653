"""Adapters multiply in the dtype of their base: real models against the same models with PEFT's own computation."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import peft
import pytest
import torch
import transformers
from peft.tuners.lora import LoraLayer
from torch.utils._python_dispatch import TorchDispatchMode

from engine.config.method_specs import uses_autocast
from engine.config.preset import Preset, resolve
from engine.methods import method
from engine.methods.adapters import CastLinear, multiply_in_input_dtype
from engine.methods.machine import Machine

MACHINE = Machine("cpu", "a CPU with bf16", bf16=True, flash_attention=False)
COMMON = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 64}  # fmt: skip
SHAPES: dict[str, Any] = {
    "llama": transformers.LlamaConfig(**SIZES, **COMMON),
    "gpt2": transformers.GPT2Config(n_embd=64, n_layer=2, n_head=4, n_positions=64, resid_pdrop=0.0, embd_pdrop=0.0,
                                    attn_pdrop=0.0, **COMMON),
    "moe": transformers.Qwen3MoeConfig(**SIZES, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2,
                                       head_dim=16, **COMMON),
}  # fmt: skip
IDS = torch.arange(3, 51).view(2, 24)
"""No size of the models is a multiple of 24, except the vocabulary."""
aten = torch.ops.aten


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model folder of each shape, in bf16."""
    by_shape = {}
    for name, shape in SHAPES.items():
        torch.manual_seed(0)
        by_shape[name] = tmp_path_factory.mktemp(name)
        made = transformers.AutoModelForCausalLM.from_config(copy.deepcopy(shape), dtype=torch.bfloat16)
        made.save_pretrained(by_shape[name])
        (by_shape[name] / "tokenizer_config.json").write_text("{}")
    return by_shape


def loaded(folder: Path, name: str, precision: str = "bf16", **adapter: Any) -> Any:
    """A model with adapters whose second factor is not zero, so that both factors have gradients."""
    settings = {"train.precision": precision, **{f"adapter.{key}": value for key, value in adapter.items()}}
    config = resolve(Preset("test", settings), name).config
    config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, id=str(folder)))
    torch.manual_seed(1)
    model = method(name).make_trainable(method(name).load(config, MACHINE), config)
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.05)
    return model.train()


def as_peft_computes(model: Any) -> Any:
    """A copy of the model whose adapters PEFT computes in its own way."""
    plain = copy.deepcopy(model)
    for module in plain.modules():
        if isinstance(module, CastLinear):
            module.__class__ = torch.nn.Linear
        elif isinstance(module, LoraLayer):
            module.cast_input_dtype_enabled = True
    return plain


def step(model: Any) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step, with the same dropout masks every time."""
    torch.manual_seed(2)
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    model.zero_grad(set_to_none=True)
    return float(loss), gradients


class Products(TorchDispatchMode):
    """Records the dtypes of the operands of matrix products with tokens, except rotary angles, which sum over one
    element. PEFT computes an adapted router's B A, a product of weights, in float32.
    """

    def __init__(self) -> None:
        super().__init__()
        self.dtypes: list[torch.dtype] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        skipped = {aten.addmm.default: 1, aten.baddbmm.default: 1}.get(func, 0)
        names = ("aten.mm", "aten.addmm", "aten.bmm", "aten.baddbmm", "aten._grouped_mm", "bitsandbytes.gemm_4bit")
        if str(func).rsplit(".", 1)[0] in names:
            factors = args[skipped : skipped + 2]
            tokens = any(size % IDS.shape[1] == 0 for factor in factors for size in factor.shape)
            if tokens and factors[0].shape[-1] > 1:
                self.dtypes += [factor.dtype for factor in factors if factor.is_floating_point()]
        return func(*args, **(kwargs or {}))


def layers(model: Any) -> Iterator[Any]:
    return (module for module in model.modules() if isinstance(module, LoraLayer))


@pytest.mark.parametrize(
    ("shape", "name", "adapter"),
    [
        ("llama", "lora", {}),
        ("llama", "qlora", {}),
        ("llama", "lora", {"rslora": True, "dropout": 0.1}),
        ("llama", "qlora", {"rslora": True, "dropout": 0.1}),
        ("gpt2", "lora", {}),
        ("moe", "lora", {}),
    ],
)
def test_every_product_is_in_bf16(shape: str, name: str, adapter: dict[str, Any], folders: dict[str, Path]) -> None:
    """Within bf16 rounding loss and gradients are those of PEFT's float32 products."""
    model = loaded(folders[shape], name, **adapter)
    with Products() as products:
        loss, gradients = step(model)
    assert set(products.dtypes) == {torch.bfloat16} and len(products.dtypes) > 50
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert gradients and {gradient.dtype for gradient in gradients.values()} == {torch.float32}
    with Products() as products:
        expected_loss, expected = step(as_peft_computes(model))
    assert torch.float32 in products.dtypes or shape == "moe"
    assert loss == pytest.approx(expected_loss, rel=2**-8)
    errors = {key: float((gradients[key] - expected[key]).norm() / expected[key].norm()) for key in expected}
    assert max(errors.values()) < 0.05, max(errors.items(), key=lambda item: item[1])


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_on_a_float32_base_every_bit_is_pefts(name: str, folders: dict[str, Path]) -> None:
    model = loaded(folders["llama"], name, "fp32", dropout=0.1)
    assert any(isinstance(module, CastLinear) for module in model.modules())
    (loss, gradients), (expected_loss, expected) = step(model), step(as_peft_computes(model))
    assert loss == expected_loss
    assert all(torch.equal(gradients[key], expected[key]) for key in expected) and gradients.keys() == expected.keys()


@pytest.mark.parametrize("name", ["lora", "qlora"])
def test_dora_is_computed_by_peft(name: str, folders: dict[str, Path]) -> None:
    model = loaded(folders["llama"], name, dora=True)
    assert not any(isinstance(module, CastLinear) for module in model.modules())
    assert all(layer.cast_input_dtype_enabled for layer in layers(model))
    loss, gradients = step(model)
    assert 0 < loss < 10 and all(gradient.isfinite().all() for gradient in gradients.values())


def test_dora_and_another_adapter_share_a_base(folders: dict[str, Path]) -> None:
    """A layer with DoRA computes all of its adapters in float32."""
    model = loaded(folders["llama"], "lora").eval()
    with_dora = copy.deepcopy(model.peft_config["default"])
    with_dora.use_dora = True
    model.add_adapter("dora", with_dora)
    multiply_in_input_dtype(model)
    with torch.no_grad():
        default = model(input_ids=IDS).logits
        model.set_adapter("dora")
        assert default.isfinite().all() and model(input_ids=IDS).logits.isfinite().all()


def test_a_saved_adapter_is_a_plain_one(folders: dict[str, Path], tmp_path: Path) -> None:
    model = loaded(folders["llama"], "lora").eval()
    model.save_pretrained(tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16)
    again = peft.PeftModel.from_pretrained(base, tmp_path).eval()
    assert not any(isinstance(module, CastLinear) for module in again.modules())
    expected, actual = peft.get_peft_model_state_dict(model), peft.get_peft_model_state_dict(again)
    assert expected.keys() == actual.keys() and all(torch.equal(expected[key], actual[key]) for key in expected)
    with torch.no_grad():
        plain, own = again(input_ids=IDS).logits, multiply_in_input_dtype(again)(input_ids=IDS).logits
        assert torch.equal(own, model(input_ids=IDS).logits)
    assert torch.allclose(plain, own, rtol=0, atol=2**-6 * float(plain.abs().max()))


def test_adapters_can_be_merged_disabled_and_exchanged(folders: dict[str, Path]) -> None:
    model = loaded(folders["llama"], "lora").eval()
    base = transformers.AutoModelForCausalLM.from_pretrained(folders["llama"], dtype=torch.bfloat16).eval()
    with torch.no_grad():
        adapted, plain = model(input_ids=IDS).logits, base(input_ids=IDS).logits
        assert not torch.allclose(adapted, plain, rtol=0, atol=2**-5 * float(plain.abs().max()))
        with model.disable_adapter():
            assert torch.equal(model(input_ids=IDS).logits, plain)
        model.add_adapter("second", model.peft_config["default"])  # its second factor is zero
        multiply_in_input_dtype(model).set_adapter("second")
        assert torch.equal(model(input_ids=IDS).logits, plain)
        model.set_adapter("default")
        assert torch.equal(model(input_ids=IDS).logits, adapted)
        model.merge_adapter()
        assert torch.allclose(model(input_ids=IDS).logits, adapted, rtol=0, atol=2**-5 * float(adapted.abs().max()))
        model.unmerge_adapter()
        assert torch.allclose(model(input_ids=IDS).logits, adapted, rtol=0, atol=2**-5 * float(adapted.abs().max()))


@pytest.mark.parametrize(("name", "weights"), [("lora", torch.bfloat16), ("qlora", torch.bfloat16),
                                               ("full", torch.float32)])  # fmt: skip
def test_mixed_precision(name: str, weights: torch.dtype, folders: dict[str, Path]) -> None:
    """Trained weights are float32. Only full fine-tuning needs autocast, because its base is trained."""
    config = resolve(Preset("test", {"train.precision": "mixed"}), name).config
    config = msgspec.structs.replace(config, model=msgspec.structs.replace(config.model, id=str(folders["llama"])))
    model = method(name).make_trainable(method(name).load(config, MACHINE), config)
    norms = [parameter for key, parameter in model.named_parameters() if "norm" in key]
    assert {parameter.dtype for parameter in norms} == {weights}
    assert {parameter.dtype for parameter in model.parameters() if parameter.requires_grad} == {torch.float32}
    assert uses_autocast(name, "mixed") == (name == "full")
