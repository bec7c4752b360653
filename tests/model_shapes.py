"""Small configurations of common architectures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers

VOCABULARY = 211
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
SHAPES = {
    "llama": transformers.LlamaConfig(**SMALL),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "qwen3": transformers.Qwen3Config(**SMALL, head_dim=16),
    "gemma2": transformers.Gemma2Config(**SMALL, head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "gemma3": transformers.Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=8, query_pre_attn_scalar=16),
    "mistral": transformers.MistralConfig(**SMALL, sliding_window=64),
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=128, n_embd=64, n_layer=3, n_head=4, bos_token_id=1, eos_token_id=2
    ),
}
MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
LINEAR_ATTENTION = {
    "layer_types": ["linear_attention", "full_attention", "linear_attention"],
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
}
TOWER = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 2}
VISUAL = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 64,
    "patch_size": 4,
    "num_position_embeddings": 16,
}


def qwen3_5(**text: Any) -> transformers.PreTrainedConfig:
    """Qwen3.5 with its vision tower; text: replaces values of the text model."""
    values = {**SMALL, **LINEAR_ATTENTION, "head_dim": 16, **text}
    return transformers.Qwen3_5Config(text_config=values, vision_config=VISUAL)


def gemma3() -> transformers.PreTrainedConfig:
    """Gemma 3 with its vision tower."""
    values = {**SMALL, "head_dim": 16, "sliding_window": 8}
    vision = {**TOWER, "image_size": 28, "patch_size": 14}
    return transformers.Gemma3Config(text_config=values, vision_config=vision, mm_tokens_per_image=4)


def mistral3() -> transformers.PreTrainedConfig:
    """Mistral Small 3.1 with its vision tower, which `AutoModelForCausalLM` does not know."""
    values = {**SMALL, "model_type": "mistral", "head_dim": 16}
    vision = {**TOWER, "model_type": "pixtral", "image_size": 28, "patch_size": 14}
    return transformers.Mistral3Config(text_config=values, vision_config=vision, tie_word_embeddings=False)


CONVERTED: dict[str, Callable[[], transformers.PreTrainedConfig]] = {
    "qwen3_moe": lambda: transformers.Qwen3MoeConfig(**SMALL, **MOE, head_dim=16, decoder_sparse_step=1),
    "gpt_oss_moe": lambda: transformers.GptOssConfig(
        **SMALL, num_local_experts=4, num_experts_per_tok=2, head_dim=16, sliding_window=8
    ),
    "gpt_neox": lambda: transformers.GPTNeoXConfig(
        vocab_size=VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4
    ),
    "lfm3": lambda: transformers.Lfm3Config(**SMALL, layer_types=["conv", "full_attention", "conv"]),
    "qwen3_5": qwen3_5,
    "gemma3": gemma3,
    "mistral3": mistral3,
}
"""Families whose weights transformers renames, converts or leaves out while it loads them."""

LAYERS = {
    **{name: size for name, size in SMALL.items() if name != "num_hidden_layers"},
    "num_hidden_layers": 2,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SSM = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8, "mamba_chunk_size": 16}
DELTA_NET = {
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "head_dim": 16,
    "layer_types": ["linear_attention", "full_attention"],
}
MIXED_SHAPES = {
    "masks without positions": transformers.GptOssConfig(
        **LAYERS, head_dim=16, num_local_experts=4, num_experts_per_tok=2, sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "alibi": transformers.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=64, n_layer=2, n_head=4, pad_token_id=0, bos_token_id=1, eos_token_id=2
    ),
    "linear attention": transformers.Qwen3_5TextConfig(**LAYERS, **DELTA_NET),
    "lightning attention": transformers.MiniMaxConfig(
        **LAYERS, head_dim=16, num_local_experts=4, num_experts_per_tok=2, block_size=16,
        layer_types=["linear_attention", "full_attention"],
    ),
    "short convolution": transformers.Lfm2Config(**LAYERS, layer_types=["conv", "full_attention"]),
    "state space": transformers.Mamba2Config(
        vocab_size=VOCABULARY, hidden_size=64, num_hidden_layers=2, num_heads=8, head_dim=16, state_size=8, n_groups=2,
        chunk_size=16, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    ),
    "state space and attention in each layer": transformers.FalconH1Config(**LAYERS, **SSM, mamba_d_ssm=128),
}  # fmt: skip
"""A small model of each mechanism by which packed rows would influence each other."""
