"""Answers to prompts: greedy, batched, left-padded, stopping at the end token.

Greedy means the likeliest token at every step: a model's own generation settings (temperature, penalties) are not
applied, so that base and tuned model are asked alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engine.data.tokens import IGNORED, Row
from engine.evaluation.attention import attention_by_group
from engine.evaluation.decode import Decoder
from engine.evaluation.forward import Forward, bare, cache_unsupported_reason, left_padded, within_memory
from engine.evaluation.preflight import check_prompts
from engine.training.guards import OutOfMemory

Warn = Callable[[str, str], None]
"""(code, text): something that a person should know and that does not end the run."""


@dataclass
class Generator:
    """One way to answer, the same before and after training."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    batch: int
    device: str
    ends: frozenset[int]
    """Tokens at which an answer ends."""
    warn: Warn

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """The answer to each row's prompt, in the rows' order. Halves its batch on out-of-memory.

        `progress` is told after each forward pass (each batch, where the library generates) how many rows are done;
        what it raises ends the work.
        """
        check_prompts(rows)
        prompts = [row.prompt for row in rows]
        obstacle = cache_unsupported_reason(model)
        if obstacle:
            self.warn("generation", f"{obstacle}: transformers' own generate answers, slower")
        found = (self._by_library if obstacle else self._by_queue)(model, prompts, progress)
        return [self.tokenizer.decode(found[number], skip_special_tokens=True) for number in range(len(rows))]

    def _by_queue(
        self, model: torch.nn.Module, prompts: list[list[int]], progress: Callable[[int], None]
    ) -> dict[int, list[int]]:
        """Row -> its answer's tokens."""
        pad = self.tokenizer.pad_token_id
        decoder = Decoder(Forward(model), prompts, self.ends, self.max_new_tokens, pad, self.device)
        with attention_by_group(model):
            while (found := within_memory(lambda: decoder.run(self.batch, progress))) is None:
                decoder.suspend()
                self._halve()
        return found

    def _by_library(
        self, model: torch.nn.Module, prompts: list[list[int]], progress: Callable[[int], None]
    ) -> dict[int, list[int]]:
        """The same by `generate`, sorted by length."""
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        found: dict[int, list[int]] = {}
        while len(found) < len(order):
            chosen = order[len(found) : len(found) + self.batch]
            tokens = within_memory(lambda: self._generate(model, [prompts[number] for number in chosen]))  # noqa: B023
            if tokens is None:
                self._halve()
                continue
            found.update(zip(chosen, tokens, strict=True))
            progress(len(found))
        return found

    @torch.inference_mode()
    def _generate(self, model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
        ids, mask, _ = left_padded(prompts, self.tokenizer.pad_token_id, self.device)
        inner = bare(model)
        own = inner.generation_config
        # `generate` fills what its caller leaves open from the model's own settings; here they must not count.
        inner.generation_config = GenerationConfig()
        try:
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=self._settings())
        finally:
            inner.generation_config = own
        return [self._ended(tokens) for tokens in out[:, ids.shape[1] :].tolist()]

    def _settings(self) -> GenerationConfig:
        return GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.ends),
        )

    def _ended(self, tokens: list[int]) -> list[int]:
        end = next((place for place, token in enumerate(tokens) if token in self.ends), len(tokens))
        return tokens[:end]

    def _halve(self) -> None:
        if self.batch == 1:
            raise OutOfMemory("not one prompt fits while answering")
        self.batch = (self.batch + 1) // 2


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: torch.nn.Module, rows: Sequence[Row]) -> frozenset[int]:
    """The tokenizer's end token, the model's own, and the one that closes the trained answers."""
    ends = {tokenizer.eos_token_id}
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends |= set(own) if isinstance(own, list) else {own} if own is not None else set()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for row in rows[:100]:
        trained = [label for label in row.labels if label != IGNORED]
        if trained and trained[-1] in special:
            ends.add(trained[-1])
    return frozenset(ends - {None})
