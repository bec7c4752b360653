"""Answers to prompts: greedy, batched, left-padded, stopping at the end token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engine.data.tokens import Row
from engine.training.guards import OutOfMemory, free_memory, is_out_of_memory


@dataclass
class Generator:
    """One way to answer, the same before and after training."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    batch: int
    device: str
    ends: frozenset[int]
    """Tokens at which an answer ends."""

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """The answer to each row's prompt, in the rows' order. Halves its batch on out-of-memory."""
        order = sorted(range(len(rows)), key=lambda number: -len(rows[number].prompt))
        outputs: dict[int, str] = {}
        place = 0
        while place < len(order):
            chosen = order[place : place + self.batch]
            try:
                texts = self._generate(model, [rows[number].prompt for number in chosen])
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                texts = None
            if texts is None:
                free_memory()
                if self.batch == 1:
                    raise OutOfMemory("not one prompt fits while answering")
                self.batch = (self.batch + 1) // 2
                continue
            outputs.update(zip(chosen, texts, strict=True))
            place += len(chosen)
            progress(place)
        return [outputs[number] for number in range(len(rows))]

    @torch.inference_mode()
    def _generate(self, model: torch.nn.Module, prompts: list[list[int]]) -> list[str]:
        longest = max(len(prompt) for prompt in prompts)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=self.device
        )
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=pad,
            eos_token_id=sorted(self.ends),
        )
        out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings)
        return [self._text(tokens) for tokens in out[:, longest:].tolist()]

    def _text(self, tokens: list[int]) -> str:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return self.tokenizer.decode(tokens[:end], skip_special_tokens=True)


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: torch.nn.Module, rows: Sequence[Row]) -> frozenset[int]:
    """The tokenizer's end token, the model's own, and the one that closes the trained answers."""
    ends = {tokenizer.eos_token_id}
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends |= set(own) if isinstance(own, list) else {own} if own is not None else set()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for row in rows[:100]:
        trained = [label for label in row.labels if label != -100]
        if trained and trained[-1] in special:
            ends.add(trained[-1])
    return frozenset(ends)
