"""A merge has the names of its base and equals PEFT's merge in memory, whatever transformers does to the weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from model_shapes import CONVERTED, SHAPES
from safetensors import safe_open
from safetensors.torch import save_file

from engine.config.errors import UserError
from engine.config.schema import Model
from engine.export.checkpoint import INDEX, CheckpointFiles, CheckpointMap, base_checkpoint
from engine.export.exporter import write_model_config
from engine.export.merged import (
    DTYPES,
    AdapterWeights,
    FullWeights,
    Merge,
    merge_obstacle,
    plain_model,
    write_weights,
)
from engine.methods.loading import auto_class
from engine.methods.model_source import config_of

OPTIONS = [{}, {"use_rslora": True}, {"use_dora": True}]
EXTRA = {"mtp.fc.weight": torch.ones(4, 8), "mtp.layers.0.norm.weight": torch.zeros(8)}
"""A head for multi-token prediction, as Qwen3.5's checkpoints have it."""
ADAPTERS = {"gpt_oss_moe": {"target_modules": [], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}}
"""Adapters on experts that PEFT does not choose by itself."""
PROMPT = torch.tensor([[1, 5, 9, 40, 7, 3]])


def saved(config: Any, folder: Path, tied: bool = True) -> transformers.PreTrainedModel:
    """A model with random weights in a folder that ftbench accepts."""
    config = copy.deepcopy(config)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = served_class(config).from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return model


def served_class(config: Any) -> Any:
    """The Auto class whose model a checkpoint of this configuration has."""
    is_multimodal = hasattr(config, "vision_config")
    return transformers.AutoModelForMultimodalLM if is_multimodal else transformers.AutoModelForCausalLM


def tuned(model: transformers.PreTrainedModel, folder: Path, **options: Any) -> peft.PeftModel:
    """The model with a random adapter on every linear layer, saved to a folder."""
    config = peft.LoraConfig(**{"target_modules": "all-linear"} | options, r=4, lora_alpha=16, task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "magnitude" in name:
            parameter.data.mul_(1.1)
    wrapped.save_pretrained(folder)
    return wrapped


def merge(base: Path, adapter: Path | None, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Merge an adapter as `ftbench export` does; without one, the base as a full run that changed nothing."""
    model = Model(id=str(base))
    plain = plain_model(config_of(model))
    trained = FullWeights(CheckpointMap(plain, CheckpointFiles(base)))
    folder.mkdir()
    weights = trained if adapter is None else AdapterWeights(plain, adapter)
    write_weights(Merge(base_checkpoint(model, plain), weights, dtype), folder)
    write_model_config(base, plain, dtype, folder)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors in a folder."""
    files = CheckpointFiles(folder)
    return dict(zip(files.files, files.read(list(files.files)), strict=True))


@pytest.mark.parametrize("method", ["lora", "full"])
@pytest.mark.parametrize("family", CONVERTED)
def test_weights_that_transformers_converts_keep_the_names_of_the_base(
    family: str, method: str, tmp_path: Path
) -> None:
    """Experts that are stacked, projections and layers that are renamed, towers and heads that are not loaded."""
    config = CONVERTED[family]()
    with_extra_head(saved(config, tmp_path / "base", config.tie_word_embeddings), tmp_path / "base")
    base = stored(tmp_path / "base")
    model = auto_class(config).from_pretrained(tmp_path / "base").eval()
    if method == "full":
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
        model.save_pretrained(tmp_path / "run")
    else:
        model = tuned(model, tmp_path / "run", **ADAPTERS.get(family, {}))
    with torch.no_grad():
        expected = model(PROMPT).logits
    folder = tmp_path / "merged"
    folder.mkdir()
    of_base = Model(id=str(tmp_path / "base"))
    plain = plain_model(config_of(of_base))
    weights = AdapterWeights(plain, tmp_path / "run") if method == "lora" else None
    checkpoint = base_checkpoint(of_base, plain)
    full = FullWeights(CheckpointMap(plain, CheckpointFiles(tmp_path / "run")))
    write_weights(Merge(checkpoint, weights or full, torch.float32), folder)
    write_model_config(tmp_path / "base", plain, torch.float32, folder)

    merged = stored(folder)
    assert {name: tensor.shape for name, tensor in merged.items()} == {name: t.shape for name, t in base.items()}
    assert set(EXTRA) <= set(checkpoint.unused)
    assert all(torch.equal(merged[name], base[name]) for name in checkpoint.unused)
    if method == "lora" and "moe" in family:
        experts = [name for name in base if ".experts." in name and "bias" not in name]
        assert experts and not any(torch.equal(merged[name], base[name]) for name in experts)
    served, info = served_class(config).from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["mismatched_keys"]
    assert all(name.startswith("mtp.") for name in info["unexpected_keys"])
    with torch.no_grad():
        assert torch.allclose(served.eval()(PROMPT).logits, expected, atol=1e-5)


def with_extra_head(model: transformers.PreTrainedModel, folder: Path) -> None:
    """Add tensors for multi-token prediction to a saved model, which its class does not load."""
    save_file(stored(folder) | EXTRA, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_weight_that_two_layers_share_is_not_merged_into_one(tmp_path: Path) -> None:
    """Which is said before the training."""
    model, base = saved(SHAPES["llama"], tmp_path / "base"), Model(id=str(tmp_path / "base"))
    assert merge_obstacle(base, model) == ""
    model = tuned(model, tmp_path / "adapter", target_modules=["embed_tokens"])
    assert "embed_tokens" in merge_obstacle(base, model)
    with pytest.raises(UserError) as caught:
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert caught.value.code == "export.cannot_merge"


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_equal_those_of_the_adapter(shape: str, tied: bool, tmp_path: Path) -> None:
    model = saved(SHAPES[shape], tmp_path / "base", tied)
    wrapped = tuned(model, tmp_path / "adapter")
    with torch.no_grad():
        expected = wrapped(PROMPT).logits
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    loaded, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        assert torch.allclose(loaded.eval()(PROMPT).logits, expected, atol=1e-4)
        assert not torch.allclose(expected, saved(SHAPES[shape], tmp_path / "again", tied)(PROMPT).logits, atol=1e-2)


@pytest.mark.parametrize("options", OPTIONS, ids=["LoRA", "rsLoRA", "DoRA"])
@pytest.mark.parametrize("shape", ["llama", "gpt2"])
def test_weights_equal_pefts_merge(shape: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = saved(SHAPES[shape], tmp_path / "base")
    wrapped = tuned(model, tmp_path / "adapter", **options)
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    expected = wrapped.merge_and_unload().state_dict()
    merged = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert merged.keys() == expected.keys()
    assert all(torch.allclose(merged[name], expected[name], atol=1e-6) for name in expected)


def test_a_resized_vocabulary_survives(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**SHAPES["llama"].to_dict(), "vocab_size": 240})
    wrapped = tuned(saved(config, tmp_path / "base"), tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert loaded(PROMPT).logits.shape[-1] == 240
        assert torch.allclose(loaded(PROMPT).logits, wrapped(PROMPT).logits, atol=1e-4)


def test_a_checkpoint_without_the_models_prefix_keeps_its_names(tmp_path: Path) -> None:
    """As GPT-2's on the Hub."""
    wrapped = tuned(saved(SHAPES["gpt2"], tmp_path / "base"), tmp_path / "adapter")
    without = {name.removeprefix("transformer."): tensor for name, tensor in stored(tmp_path / "base").items()}
    save_file(without, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert stored(tmp_path / "merged").keys() == without.keys() and "h.0.attn.c_attn.weight" in without
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert torch.allclose(loaded(PROMPT).logits, wrapped(PROMPT).logits, atol=1e-4)


def test_the_configuration_keeps_keys_that_transformers_does_not_know(tmp_path: Path) -> None:
    saved(SHAPES["qwen2"], tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    known = json.loads(path.read_text())
    path.write_text(json.dumps(known | {"server_hint": [1], "torch_dtype": "float16"}))
    merge(tmp_path / "base", None, tmp_path / "merged", torch.bfloat16)
    written = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert written == known | {"server_hint": [1], "torch_dtype": "bfloat16", "dtype": "bfloat16"}


def test_small_weights_are_one_file(tmp_path: Path) -> None:
    saved(SHAPES["llama"], tmp_path / "base")
    merge(tmp_path / "base", None, tmp_path / "merged")
    assert [path.name for path in (tmp_path / "merged").glob("*.safetensors*")] == ["model.safetensors"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_shards_have_an_index_and_the_type(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.export.merged.SHARD_BYTES", 60_000)
    saved(SHAPES["qwen2"], tmp_path / "base", tied=False)
    merge(tmp_path / "base", None, tmp_path / "merged", DTYPES[dtype])
    weights = json.loads((tmp_path / "merged" / INDEX).read_text())["weight_map"]
    files = sorted(path.name for path in (tmp_path / "merged").glob("*.safetensors"))
    assert sorted(set(weights.values())) == files and len(files) > 2
    for name in files:
        with safe_open(tmp_path / "merged" / name, "pt") as file:
            tensors = [file.get_tensor(key) for key in weights if weights[key] == name]
            assert sum(tensor.nbytes for tensor in tensors) <= 60_000 or len(tensors) == 1
            assert {tensor.dtype for tensor in tensors} == {DTYPES[dtype]}


def test_an_adapter_of_another_model_is_refused(tmp_path: Path) -> None:
    tuned(saved(SHAPES["llama"], tmp_path / "other"), tmp_path / "adapter")
    config = transformers.LlamaConfig(**{**SHAPES["llama"].to_dict(), "num_hidden_layers": 2})
    saved(config, tmp_path / "base")
    with pytest.raises(UserError) as caught:
        merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    assert caught.value.code == "export.cannot_merge"
