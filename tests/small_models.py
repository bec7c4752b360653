"""Small random float32 models of several architectures, for tests that compare two computations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import transformers

from engine.data.rows import Row
from engine.evaluation.generate import Generator

VOCABULARY = 211
PAD = 0
ENDS = frozenset(range(5, VOCABULARY, 9))
"""A ninth of the vocabulary, so that answers have different lengths."""
MOST = 24
"""Maximum tokens of an answer."""
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
    "initializer_range": 0.3,  # large differences between logits, so that rounding does not matter
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
    "other heads in some layers": transformers.Gemma4UnifiedTextConfig(
        **SMALL,
        head_dim=16,
        global_head_dim=32,
        num_global_key_value_heads=1,
        attention_k_eq_v=True,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "state": transformers.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, state_size=8, num_hidden_layers=2, pad_token_id=PAD, eos_token_id=2
    ),
}


class Counted(transformers.LlamaForCausalLM):
    """Counts forward passes and tokens; raises out-of-memory for more than `room` rows."""

    room, passes, tokens = 999, 0, 0
    fails_at: Callable[[int], bool] = staticmethod(lambda number: False)

    def forward(
        self,
        input_ids: Any = None,
        position_ids: Any = None,
        attention_mask: Any = None,
        cache: Any = None,
        logits_to_keep: Any = 0,
        **rest: Any,
    ) -> Any:
        self.passes, self.tokens = self.passes + 1, self.tokens + input_ids.numel()
        if len(input_ids) > self.room or self.fails_at(self.passes):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return super().forward(input_ids=input_ids, position_ids=position_ids, attention_mask=attention_mask,
                               cache=cache, logits_to_keep=logits_to_keep, **rest)  # fmt: skip


def made(config: transformers.PreTrainedConfig, kind: type | None = None) -> torch.nn.Module:
    """A model with fixed random weights."""
    torch.manual_seed(0)
    return (kind or transformers.AutoModelForCausalLM.from_config)(config).eval()


def asked(prompts: list[list[int]]) -> list[Row]:
    """Test rows with these prompts."""
    return [
        Row([*prompt, 2], [-100] * len(prompt) + [2], prompt, "", f"row {n}", False) for n, prompt in enumerate(prompts)
    ]


def random_prompts(lengths: list[int], beginning: int = 0) -> list[list[int]]:
    """Prompts of these lengths, after a common prefix."""
    generator = torch.Generator().manual_seed(3)
    common = torch.randint(3, VOCABULARY, (beginning,), generator=generator).tolist()
    return [common + torch.randint(3, VOCABULARY, (n,), generator=generator).tolist() for n in lengths]


class Numbers:
    """A tokenizer whose text consists of the ids, so that equal texts are equal tokens."""

    pad_token_id = PAD

    def decode(self, tokens: list[int], skip_special_tokens: bool = True) -> str:
        return " ".join(map(str, tokens))


def generator(batch: int, most: int = MOST, ends: frozenset[int] = ENDS, **how: Any) -> Generator:
    """ftbench's generator, with settings for a small model by default."""
    how = {"tokenizer": Numbers(), "warn": lambda code, text: None} | how
    return Generator(max_new_tokens=most, batch=batch, device="cpu", ends=ends, **how)


def plainly(
    model: torch.nn.Module, prompts: list[list[int]], most: int = MOST, ends: frozenset[int] = ENDS
) -> list[list[int]]:
    """Answers of transformers' generate for all prompts in one left-padded batch, in order."""
    longest = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[PAD] * (longest - len(prompt)) + prompt for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    how = {"max_new_tokens": most, "do_sample": False, "eos_token_id": sorted(ends), "pad_token_id": PAD}
    answers = model.generate(input_ids=ids, attention_mask=mask, **how)[:, longest:].tolist()
    return [answer[: next((n for n, token in enumerate(answer) if token in ends), most)] for answer in answers]


def texts(answers: list[list[int]]) -> list[str]:
    return [Numbers().decode(answer) for answer in answers]
