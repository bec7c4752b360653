"""Small configurations of common architectures."""

from __future__ import annotations

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
