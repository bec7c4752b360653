"""Small random models of several architectures, in float32, for tests that compare one way to compute with another."""

from __future__ import annotations

import torch
import transformers

from engine.data.tokens import Row

VOCABULARY = 211
PAD = 0
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
    "pad_token_id": PAD,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.3,  # logits far enough apart that rounding decides nothing
}
FULL_ATTENTION = {
    "llama": transformers.LlamaConfig(**SMALL),
    "llama, eager": transformers.LlamaConfig(**SMALL, attn_implementation="eager"),
    "qwen2": transformers.Qwen2Config(**SMALL),
    "gemma": transformers.GemmaConfig(**SMALL, head_dim=16),
    "gpt2": transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=160, n_embd=64, n_layer=2, n_head=4, bos_token_id=1, eos_token_id=2,
        pad_token_id=PAD, initializer_range=0.3,
    ),
}  # fmt: skip
OTHER_CACHES = {
    "sliding window": transformers.MistralConfig(**SMALL, sliding_window=8),
    "windows in some layers": transformers.Gemma3TextConfig(**SMALL, head_dim=16, sliding_window=8),
    "state": transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, pad_token_id=PAD, eos_token_id=2
    ),
}


def made(config: transformers.PreTrainedConfig, kind: type | None = None) -> torch.nn.Module:
    """A model of random weights, the same each time."""
    torch.manual_seed(0)
    return (kind or transformers.AutoModelForCausalLM.from_config)(config).eval()


def asked(prompts: list[list[int]]) -> list[Row]:
    """Test rows with these prompts."""
    return [
        Row([*prompt, 2], [-100] * len(prompt) + [2], prompt, "", f"row {n}", False) for n, prompt in enumerate(prompts)
    ]


def random_prompts(lengths: list[int], beginning: int = 0) -> list[list[int]]:
    """Prompts of these lengths, after so many tokens that are the same in all."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randint(3, VOCABULARY, (beginning,), generator=generator).tolist()
    return [common + torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]
