"""Generate answers: greedy, batched, left-padded, stopping at the end token.

Greedy decoding takes the most likely token at every step. The model's generation config (temperature, penalties) is not
applied, so that base and tuned model are compared under the same settings.

The decoder depends on the device and the architecture alone (`is_answered_by_generate`): `Decoder` on a CPU,
transformers' `generate` on CUDA. Not generated here: choices are scored (`choice_scoring`), and the replies of
`ftbench try` are streamed by `generate` (`engine.extensions.chat.generation`).

transformers' `generate_batch` (5.24) is not used. It needs FlashAttention 2 or 3 on CUDA: otherwise each step computes
attention of all rows to the keys of all rows, on a CPU in 40 times the time of `Decoder`. It refuses layers with a
state, reserves 90% of a GPU's free memory for its cache, and logs errors of its thread instead of raising them, so that
a batch that does not fit would end as missing answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from engine.config.device_defaults import DECODER, MAX_TOKENS, prefill_columns
from engine.config.model_config import ANSWERED_ALONE, length_limit, text_type
from engine.data.rows import IGNORE_INDEX, Row
from engine.evaluation.decode import Decoder
from engine.evaluation.forward import (
    Forward,
    cache_unsupported_reason,
    grouped_query_attention,
    halved,
    is_answered_by_generate,
    last_logits,
    left_padded,
    reads_prompts_in_parts,
    within_memory,
    without_gradients,
)
from engine.evaluation.preflight import check_prompts
from engine.methods.adapters import unwrap_peft
from engine.training.loss import supports_logits_to_keep
from engine.training.ranks import weights_are_sharded

Warn = Callable[[str, str], None]
"""Called with the code and text of a warning."""
TOO_LARGE = "a single prompt does not fit in memory during generation"


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
        with the number of finished rows after each token; an exception that it raises ends the generation.
        """
        check_prompts(rows)
        prompts = [row.prompt for row in rows]
        if DECODER[self.device] == "ftbench" and (unsupported := cache_unsupported_reason(model)):
            self._warn_once("evaluation.slow_generation", f"{unsupported}: using transformers' generate, slower")
        if is_answered_by_generate(model, self.device) or any(self._length_kinds(model, prompts)):
            return self._by_library(model, prompts, progress)
        decoder = Decoder(
            Forward(model), prompts, self.ends, self.max_new_tokens, self.tokenizer.pad_token_id, self.device
        )
        with grouped_query_attention(model):
            while (answers := within_memory(lambda: decoder.run(self.batch, progress))) is None:
                decoder.suspend()
                self.batch = halved(self.batch, TOO_LARGE)
        return [answers[number] for number in range(len(rows))]

    def _warn_once(self, code: str, text: str) -> None:
        if code not in self.said:
            self.said.add(code)
            self.warn(code, text)

    def library_answer_tokens(self, model: torch.nn.Module, rows: Sequence[Row]) -> list[list[int]]:
        """The same by transformers' `generate` for each prompt alone, without padding, to compare with."""
        return [self._generate(model, [row.prompt], lambda done: None)[0] for row in rows]

    def _by_library(
        self, model: torch.nn.Module, prompts: list[list[int]], progress: Callable[[int], None]
    ) -> list[list[int]]:
        """By transformers' `generate`; the longest prompts are first, because they need most memory."""
        order = sorted(range(len(prompts)), key=lambda number: -len(prompts[number]))
        alone = text_type(unwrap_peft(model).config.to_dict()) in ANSWERED_ALONE
        if alone:
            text = f"{type(unwrap_peft(model)).__name__} answers otherwise with padding: one prompt at a time, slower"
            self._warn_once("evaluation.one_by_one", text)
        answers: dict[int, list[int]] = {}
        kinds = self._length_kinds(model, prompts)
        most = 0

        def finished(count: int) -> None:
            nonlocal most
            most = max(most, len(answers) + count)  # a batch that is halved begins again
            progress(most)

        with grouped_query_attention(model):
            while len(answers) < len(order):
                batch = order[len(answers) : len(answers) + (1 if alone else self.batch)]
                if kind := kinds[batch[0]]:  # their prompts are not read in parts
                    most_rows = max(1, MAX_TOKENS[self.device] // (len(prompts[batch[0]]) + self.max_new_tokens))
                    batch = [number for number in batch[:most_rows] if kinds[number] == kind]
                asked = [prompts[number] for number in batch]
                tokens = within_memory(lambda: self._generate(model, asked, finished))  # noqa: B023
                if tokens is None:
                    self.batch = halved(len(batch), TOO_LARGE)
                    continue
                answers.update(zip(batch, tokens, strict=True))
                finished(0)
        return [answers[number] for number in range(len(prompts))]

    def _length_kinds(self, model: torch.nn.Module, prompts: Sequence[Sequence[int]]) -> list[int]:
        """For each prompt 0 if its answer stays below lengths with other RoPE frequencies, else a number that prompts
        have in common if `generate` answers them together as it answers each alone: its length if the answer may reach
        such lengths. There Phi-3 and others compute the whole row again, but only if it is the longest of its batch
        (`prepare_inputs_for_generation`).
        """
        limit = length_limit(unwrap_peft(model).config.to_dict())
        if limit is None:
            return [0] * len(prompts)
        lengths = map(len, prompts)
        return [0 if length + self.max_new_tokens <= limit else min(length, limit + 1) for length in lengths]

    @without_gradients
    def _generate(
        self, model: torch.nn.Module, prompts: list[list[int]], finished: Callable[[int], None]
    ) -> list[list[int]]:
        ids, mask, _ = left_padded(prompts, self.tokenizer.pad_token_id, self.device)
        columns = prefill_columns(len(prompts), ids.shape[1], self.device)
        # Parts of a prompt would have the RoPE frequencies of shorter rows.
        whole = any(self._length_kinds(model, prompts)) or not reads_prompts_in_parts(model)
        settings = GenerationConfig(
            max_new_tokens=self.max_new_tokens,
            do_sample=False,
            num_beams=1,
            pad_token_id=self.tokenizer.pad_token_id,
            eos_token_id=sorted(self.ends),
            prefill_chunk_size=columns if columns < ids.shape[1] and not whole else None,
            disable_compile=True,
        )
        with without_own_settings(model):
            out = model.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=settings,
                stopping_criteria=StoppingCriteriaList([_FinishedRows(self.ends, finished)]),
                synced_gpus=weights_are_sharded(),
                **(last_logits(self.device) if supports_logits_to_keep(model) else {}),
            )
        answers = out[:, ids.shape[1] :].tolist()
        return [list(takewhile(lambda token: token not in self.ends, answer)) for answer in answers]


@contextmanager
def without_own_settings(model: torch.nn.Module) -> Iterator[None]:
    """Context in which `generate` uses only the settings of its caller.

    By default `generate` takes settings that its caller does not set from the model's generation config. On a GPU it
    also replaces `grouped_mm` of a mixture of experts by `batched_mm` while it decodes, which copies the weights of
    every expert of every row (transformers 5.24, `_optimize_model_for_decode` of generation/utils.py): 19 GB for 256
    rows of Qwen3-30B-A3B.
    """
    inner: Any = unwrap_peft(model)
    own = inner.generation_config
    inner.generation_config, inner._optimize_model_for_decode = GenerationConfig(), nullcontext
    try:
        yield
    finally:
        inner.generation_config = own
        del inner._optimize_model_for_decode


class _FinishedRows(StoppingCriteria):
    """Calls `report` with the number of finished rows after each token; ends no row."""

    def __init__(self, ends: frozenset[int], report: Callable[[int], None]) -> None:
        self.ends, self.report = sorted(ends), report
        self.finished: torch.Tensor | None = None

    def __call__(self, input_ids: torch.Tensor, scores: object, **options: object) -> torch.Tensor:
        """input_ids (B, T) -> False for each row, (B,)."""
        ended = torch.isin(input_ids[:, -1], torch.tensor(self.ends, dtype=input_ids.dtype, device=input_ids.device))
        self.finished = ended if self.finished is None else self.finished | ended
        self.report(int(self.finished.sum()))
        return torch.zeros_like(ended)


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
