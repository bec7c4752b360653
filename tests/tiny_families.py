"""Tiny models of architectures that differ in what adapters and 4-bit weights can reach."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, PreTrainedConfig

from engine.methods.loading import auto_class

VOCABULARY = 96
_SIZES = {"vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
          "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 64,
          "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 64}
_GROUPS = {"n_routed_experts": 4, "n_group": 1, "topk_group": 1}
_MAMBA = {"n_groups": 1, "chunk_size": 16}
_WINDOWS = ["sliding_attention", "full_attention"]
_ROUTED = {"num_local_experts": 4, "num_experts_per_tok": 2}


def _sizes(**changed: Any) -> dict[str, Any]:
    """`_SIZES` with changes; None leaves a size out."""
    return {key: value for key, value in (_SIZES | changed).items() if value is not None}


FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", _sizes()),
    "tied": ("qwen3", _sizes(tie_word_embeddings=True)),
    "falcon": ("falcon", _sizes(head_dim=None, intermediate_size=None, new_decoder_architecture=True, num_kv_heads=2)),
    "qwen2_moe": ("qwen2_moe", _sizes(head_dim=None, num_experts=4, shared_expert_intermediate_size=64, **_EXPERTS)),
    "granitemoe": ("granitemoe", _sizes(head_dim=None, **_ROUTED)),
    "glm4_moe": ("glm4_moe", _sizes(first_k_dense_replace=1, n_shared_experts=1, **_GROUPS, **_EXPERTS)),
    "gpt_oss": ("gpt_oss", _sizes(sliding_window=32, layer_types=_WINDOWS, **_ROUTED)),
    "phimoe": ("phimoe", _sizes(head_dim=None, sliding_window=None, **_ROUTED)),
    "llama4": ("llama4_text", _sizes(intermediate_size=64, intermediate_size_mlp=128, interleave_moe_layer_step=2,
                                     attention_chunk_size=32, num_local_experts=4, num_experts_per_tok=1)),
    "qwen3_5": ("qwen3_5_text", _sizes(layer_types=["linear_attention", "full_attention"], linear_key_head_dim=16,
                                       linear_value_head_dim=16, linear_num_key_heads=2, linear_num_value_heads=4)),
    "mamba2": ("mamba2", {**{key: _SIZES[key] for key in ("vocab_size", "hidden_size", "num_hidden_layers",
                                                          "pad_token_id", "bos_token_id", "eos_token_id")},
                          "num_heads": 8, "head_dim": 16, "state_size": 16, **_MAMBA}),
    "falcon_h1": ("falcon_h1", _sizes(mamba_d_ssm=128, mamba_n_heads=8, mamba_d_head=16, mamba_d_state=16,
                                      mamba_n_groups=1, mamba_chunk_size=16)),
    "nemotron_h": ("nemotron_h", _sizes(num_hidden_layers=3, layers_block_type=["mamba", "moe", "attention"],
                                        mamba_num_heads=8, mamba_head_dim=16, ssm_state_size=16,
                                        moe_shared_expert_intermediate_size=64, **_MAMBA, **_GROUPS, **_EXPERTS)),
    "gemma3n": ("gemma3n_text", _sizes(layer_types=_WINDOWS, sliding_window=32, num_kv_shared_layers=0, laurel_rank=16,
                                       vocab_size_per_layer_input=VOCABULARY, hidden_size_per_layer_input=16,
                                       altup_num_inputs=4, activation_sparsity_pattern=[0.0] * 2,
                                       intermediate_size=[128] * 2)),
    "gemma3 with vision": ("gemma3", {
        "text_config": {**_sizes(sliding_window=32, layer_types=_WINDOWS), "model_type": "gemma3_text"},
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                          "image_size": 56, "patch_size": 14, "model_type": "siglip_vision_model"},
        "mm_tokens_per_image": 4}),
    "mistral3 with vision": ("mistral3", {
        "text_config": {**_sizes(), "model_type": "mistral"},
        "vision_config": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 1, "num_attention_heads": 4,
                          "head_dim": 16, "image_size": 56, "patch_size": 14, "model_type": "pixtral"}}),
}  # fmt: skip
"""Name -> (model type, configuration)."""


def family_config(name: str) -> PreTrainedConfig:
    kind, values = FAMILIES[name]
    return AutoConfig.for_model(kind, **values)


FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
"""Magnitudes of FP4 (E2M1); the fourth bit is the sign. OCP Microscaling Formats 1.0, section 5.3.3."""


def store_in_mxfp4(source: Path, stored: Path, plain: Path) -> None:
    """Write the gpt_oss model in `source` as gpt-oss is published: random experts in MXFP4, in blocks of 32 with an
    exponent of 8 bits. `plain`: the same values in bf16.
    """
    generator = torch.Generator().manual_seed(0)
    packed: dict[str, torch.Tensor] = {}
    tensors = load_file(source / "model.safetensors")
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, inputs, outputs = tensors[name].shape
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8, generator=generator)
        scales = torch.randint(118, 123, shape, dtype=torch.uint8, generator=generator)
        packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        codes = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).int()  # the lower half of a byte comes first
        values = FP4[codes & 7] * (1 - 2 * (codes >> 3)) * torch.exp2(scales.float() - 127)[..., None]
        tensors[name] = values.flatten(-2).mT.contiguous().bfloat16()
    for folder in (stored, plain):
        shutil.copytree(source, folder, dirs_exist_ok=True)
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    others = {name: tensor for name, tensor in tensors.items() if f"{name}_blocks" not in packed}
    save_file(others | packed, stored / "model.safetensors", {"format": "pt"})
    table = json.loads((source / "config.json").read_text())
    (stored / "config.json").write_text(json.dumps(table | {"quantization_config": {"quant_method": "mxfp4"}}))


def made_family(name: str) -> Any:
    """The model with fixed random weights in bf16, none of which is zero."""
    torch.manual_seed(0)
    model_config = family_config(name)
    model = auto_class(model_config).from_config(model_config, dtype=torch.bfloat16)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()
