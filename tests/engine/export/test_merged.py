"""A merge tensor by tensor equals PEFT's merge in memory, for shapes with tied, transposed and resized weights."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
import transformers
from model_shapes import SHAPES
from safetensors import safe_open

from engine.config.errors import UserError
from engine.config.schema import Model
from engine.export.merged import DTYPES, Merge, plain_model, write_weights
from engine.export.tensors import INDEX, CheckpointTensors, LoadedTensors, base_tensors
from engine.methods.model_config import config_of

OPTIONS = [{}, {"use_rslora": True}, {"use_dora": True}]
PROMPT = torch.tensor([[1, 5, 9, 40, 7, 3]])


def saved(config: Any, folder: Path, tied: bool = True) -> transformers.PreTrainedModel:
    """A model with random weights in a folder that ftbench accepts."""
    config = copy.deepcopy(config)
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text("{}")
    return model


def tuned(model: transformers.PreTrainedModel, folder: Path, **options: Any) -> peft.PeftModel:
    """The model with a random adapter on every linear layer, saved to a folder."""
    config = peft.LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    wrapped = peft.get_peft_model(model, config).eval()
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        elif "magnitude" in name:
            parameter.data.mul_(1.1)
    wrapped.save_pretrained(folder)
    return wrapped


def merge(base: Path, adapter: Path | None, folder: Path, dtype: torch.dtype = torch.float32) -> None:
    """Merge as `ftbench export` does."""
    model = Model(id=str(base))
    config = config_of(model)
    plain = plain_model(config)
    folder.mkdir()
    write_weights(Merge(plain, base_tensors(model, plain), adapter), dtype, folder)
    config.save_pretrained(folder)


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
    found = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in expected)


def test_a_resized_vocabulary_survives(tmp_path: Path) -> None:
    config = transformers.LlamaConfig(**{**SHAPES["llama"].to_dict(), "vocab_size": 240})
    wrapped = tuned(saved(config, tmp_path / "base"), tmp_path / "adapter")
    merge(tmp_path / "base", tmp_path / "adapter", tmp_path / "merged")
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        assert loaded(PROMPT).logits.shape[-1] == 240
        assert torch.allclose(loaded(PROMPT).logits, wrapped(PROMPT).logits, atol=1e-4)


def test_a_checkpoint_without_the_models_prefix_is_read(tmp_path: Path) -> None:
    """As GPT-2's on the Hub."""
    model = saved(SHAPES["gpt2"], tmp_path / "base")
    state = {name.removeprefix("transformer."): tensor for name, tensor in model.state_dict().items()}
    plain = plain_model(SHAPES["gpt2"])
    found = CheckpointTensors(tmp_path / "base", "transformer.")
    found.files = dict.fromkeys(state, "model.safetensors")
    assert found.stored_name("transformer.h.0.attn.c_attn.weight") == "h.0.attn.c_attn.weight"
    assert found.stored_name("transformer.missing") is None
    assert isinstance(base_tensors(Model(id=str(tmp_path / "base")), plain), CheckpointTensors)


def test_weights_that_transformers_converts_are_loaded_by_it(tmp_path: Path) -> None:
    saved(SHAPES["llama"], tmp_path / "base")
    plain = plain_model(SHAPES["llama"])
    plain.model.layers[0].mlp.up_proj.weight = torch.nn.Parameter(torch.empty(1, 2, device="meta"))  # another shape
    assert isinstance(base_tensors(Model(id=str(tmp_path / "base")), plain), LoadedTensors)


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
