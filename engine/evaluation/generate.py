"""Generate answers: greedy, batched, left-padded, stopping at the end token.

Greedy decoding takes the most likely token at every step. The model's generation config (temperature, penalties) is not
applied, so that base and tuned model are compared under the same settings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase

from engine.config.batch_limits import ANSWERED_ALONE, text_type
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.decode import Decoder
from engine.evaluation.forward import (
    Forward,
    cache_unsupported_reason,
    grouped_query_attention,
    left_padded,
    within_memory,
    without_gradients,
)
from engine.evaluation.preflight import check_prompts
from engine.methods.adapters import unwrap_peft
from engine.training.guards import OutOfMemory

Warn = Callable[[str, str], None]
"""Called with the code and text of a warning."""


@dataclass
class Generator:
    """Generates answers, with the same settings before and after training."""

    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    batch: int
    device: str
    ends: frozenset[int]
    """Tokens that end an answer."""
    warn: Warn
    said: set[str] = field(default_factory=set)
    """Codes of the warnings about the model so far: each is given once, not with every prompt."""

    def answers(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[str]:
        """Generate the answer to each row's prompt as text, in order; see `answer_tokens`."""
        return self.texts(self.answer_tokens(model, rows, progress))

    def texts(self, answers: Sequence[Sequence[int]]) -> list[str]:
        """The text of each answer, without special tokens."""
        return [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]

    def has_ended(self, answer: Sequence[int]) -> bool:
        """Whether an answer of `answer_tokens` was ended by an end token instead of by `max_new_tokens`."""
        return len(answer) < self.max_new_tokens

    def answer_tokens(
        self, model: torch.nn.Module, rows: Sequence[Row], progress: Callable[[int], None] = lambda done: None
    ) -> list[list[int]]:
        """Generate the tokens of the answer to each row's prompt, in order, without the end token.

        An answer of `max_new_tokens` tokens did not end. Halves the batch size on out-of-memory. `progress` is called
        with the number of finished rows after each forward pass (after each batch if transformers generates); an
        exception that it raises ends the generation.
        """
        check_prompts(rows)
        prompts = [row.prompt for row in rows]
        unsupported = cache_unsupported_reason(model)
        if unsupported:
            self._warn_once("evaluation.slow_generation", f"{unsupported}: using transformers' generate, slower")
        answers = (self._by_library if unsupported else self._by_queue)(model, prompts, progress)
        return [answers[number] for number in range(len(rows))]

    def _warn_once(self, code: str, text: str) -> None:
        if code not in self.said:
            self.said.add(code)
            self.warn(code, text)

    def library_answer_tokens(self, model: torch.nn.Module, rows: Sequence[Row]) -> list[list[int]]:
        """The same by transformers' `generate`, to compare with."""
        answers = self._by_library(model, [row.prompt for row in rows], lambda done: None)
        return [answers[number] for number in range(len(rows))]

    def _by_queue(
        self, model: torch.nn.Module, prompts: list[list[int]], progress: Callable[[int], None]
    ) -> dict[int, list[int]]:
        """Row -> tokens of its answer, by continuous batching."""
        pad = self.tokenizer.pad_token_id
        decoder = Decoder(Forward(model), prompts, self.ends, self.max_new_tokens, pad, self.device)
        with grouped_query_attention(model):
            while (answers := within_memory(lambda: decoder.run(self.batch, progress))) is None:
                decoder.suspend()
                self._halve()
        return answers

    def _by_library(
        self, model: torch.nn.Module, prompts: list[list[int]], progress: Callable[[int], None]
    ) -> dict[int, list[int]]:
        """Row -> tokens of its answer, by transformers' `generate`, sorted by length."""
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        alone = text_type(unwrap_peft(model).config.to_dict()) in ANSWERED_ALONE
        if alone:
            text = f"{type(unwrap_peft(model)).__name__} answers otherwise with padding: one prompt at a time, slower"
            self._warn_once("evaluation.one_by_one", text)
        answers: dict[int, list[int]] = {}
        while len(answers) < len(order):
            batch = order[len(answers) : len(answers) + (1 if alone else self.batch)]
            tokens = within_memory(lambda: self._generate(model, [prompts[number] for number in batch]))  # noqa: B023
            if tokens is None:
                self._halve()
                continue
            answers.update(zip(batch, tokens, strict=True))
            progress(len(answers))
        return answers

    @without_gradients
    def _generate(self, model: torch.nn.Module, prompts: list[list[int]]) -> list[list[int]]:
        ids, mask, _ = left_padded(prompts, self.tokenizer.pad_token_id, self.device)
        inner = unwrap_peft(model)
        original = inner.generation_config
        # `generate` takes settings that its caller leaves unset from the model's generation config.
        inner.generation_config = GenerationConfig()
        try:
            out = model.generate(input_ids=ids, attention_mask=mask, generation_config=self._settings())
        finally:
            inner.generation_config = original
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
            raise OutOfMemory("a single prompt does not fit in memory during generation")
        self.batch = (self.batch + 1) // 2


def end_tokens(tokenizer: PreTrainedTokenizerBase, model: torch.nn.Module, rows: Sequence[Row]) -> frozenset[int]:
    """Tokens that end an answer: the tokenizer's and the model's EOS tokens, and the last token of trained answers."""
    ends = {tokenizer.eos_token_id}
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    ends |= set(own) if isinstance(own, list) else {own} if own is not None else set()
    special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
    for row in rows[:100]:
        trained = [label for label in row.labels if label != IGNORE_INDEX]
        if trained and trained[-1] in special:
            ends.add(trained[-1])
    return frozenset(ends - {None})
